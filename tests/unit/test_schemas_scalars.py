"""Durations, quantities, moments and names: what is accepted, what it means, and that nothing else gets through."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas import scalars
from schemas.scalars import DnsLabel, Duration, ExecutionId, Moment, Quantity, SemVer, StepName

DURATION, QUANTITY, MOMENT = TypeAdapter(Duration), TypeAdapter(Quantity), TypeAdapter(Moment)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("2d", 172_800),
        ("1m0.5s", 60.5),
        ("250us", 250e-6),
        ("45", 45),
        (" 45 ", 45),
        (0, 0),
        (1.5, 1.5),
    ],
)
def test_durations_are_go_style_or_bare_seconds(text: object, seconds: float) -> None:
    assert DURATION.validate_python(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "bad", ["", "s", "5 m", "1h-30m", "-5s", "5y", "\u0661s", "1s2", True, None, [], float("nan"), 10**400, "9" * 999]
)
def test_what_is_no_duration_is_refused_with_a_short_message(bad: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        DURATION.validate_python(bad)
    assert len(caught.value.errors(include_input=False)[0]["msg"]) < 200


def test_a_long_text_that_is_no_duration_costs_no_more_than_it_is_long() -> None:
    began = time.process_time()
    for text in ("9" * 100_000 + "x", "1h" * 100_000):
        with pytest.raises(ValidationError):
            DURATION.validate_python(text)
    assert time.process_time() - began < 10, "the work must not grow with the square of the length"


@given(st.integers(0, 10**9 * 1000 - 1))
def test_a_duration_that_is_written_is_read_back_to_the_millisecond(millis: int) -> None:
    assert scalars.parse_duration(scalars.format_duration(millis / 1000)) == pytest.approx(millis / 1000, abs=5e-4)


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_a_refusal(text: str) -> None:
    try:
        assert 0 <= DURATION.validate_python(text) <= scalars.MAX_DURATION_SECONDS
    except ValidationError as error:
        assert error.error_count() == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("100m", "0.1"),
        ("250u", "0.00025"),
        ("12345678n", "0.012345678"),
        ("2", "2"),
        ("1Gi", str(2**30)),
        ("1G", "1000000000"),
        ("1e3", "1000"),
        ("5E", str(5 * 10**18)),
        ("+.5", "0.5"),
        (2, "2"),
    ],
)
def test_quantities_are_kubernetes_ones(text: object, number: str) -> None:
    assert scalars.parse_quantity(text) == Decimal(number)
    assert QUANTITY.validate_python(text) == str(text)


@pytest.mark.parametrize("bad", ["", "1 Gi", "1KB", "Gi", "1\n", "x" * 1000, "٣", True, None, {}])
def test_what_is_no_quantity_is_refused(bad: Any) -> None:
    with pytest.raises(ValidationError):
        QUANTITY.validate_python(bad)


FIRST, LAST = datetime(1, 1, 2), datetime(9999, 12, 30)  # noqa: DTZ001 - hypothesis adds the zone
zones = st.timezones() | st.builds(timezone, st.timedeltas(timedelta(hours=-14), timedelta(hours=14))) | st.none()


@given(st.datetimes(FIRST, LAST, timezones=zones))
def test_a_moment_survives_being_written_and_read_whatever_its_zone_and_year(moment: datetime) -> None:
    taken = MOMENT.validate_python(moment)
    assert taken.tzinfo is UTC
    assert MOMENT.validate_json(MOMENT.dump_json(taken)) == taken
    assert len(scalars.format_moment(taken)) == len("2026-01-01T00:00:00.000Z")


@pytest.mark.parametrize(
    "bad",
    [
        0,
        1.5,
        "1767225600",
        "1e5",
        "-1",
        "+12",
        "20260101",
        "tomorrow",
        "",
        None,
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_what_is_no_moment_or_beyond_the_calendar_is_refused(bad: Any) -> None:
    with pytest.raises(ValidationError):
        MOMENT.validate_python(bad)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (DnsLabel, ["a", "a-1", "a" * 63], ["", "A", "-a", "a-", "a" * 64, "a.b", "a\n"]),
        (StepName, ["a", "A_1.b", "a" * 128], ["", "-a", "a.", "a" * 129, "a b", "a/b", "a\n"]),
        (SemVer, ["0.0.0", "1.2.3-rc.1+build"], ["1", "1.2", "v1.2.3", "01.2.3", "1.2.3\n"]),
        (ExecutionId, ["a", "t-0-1", "A.b:c_d-9", "x" * 128], ["", "a b", "a/b", "@a", "ä", "a\n", "x" * 129]),
    ],
)
def test_names_are_held_to_their_form(kind: Any, good: list[str], bad: list[str]) -> None:
    adapter: TypeAdapter[str] = TypeAdapter(kind)
    for text in good:
        assert adapter.validate_python(text) == text
    for text in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(text)
