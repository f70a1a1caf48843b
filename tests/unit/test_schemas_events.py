"""Events: sealed, read back and verified; and the canonical bytes that all of it rests on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import events
from schemas.canonical import canonical, digest
from schemas.events import EventError
from schemas.failure import Failure

NOW = datetime(2026, 1, 1, 12, 30, 15, 250_000, tzinfo=UTC)
COMMON: Any = {
    "execution_id": "e1",
    "workflow_id": "w-1",
    "seq": 3,
    "dry_run": False,
    "agent": "a",
    "attempt_epoch": 7,
}
_SAFE = 2**53 - 1
numbers = st.integers(-_SAFE, _SAFE) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
@example(1e-6)
@example(1.5e-6)
@example(1e15 + 0.5)
@example(1e21)
@example(-0.0)
@example({"\ue000": 1, "\U0001f600": 2})
def test_canonical_bytes_are_those_of_rfc_8785_for_any_json(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(json_values)
def test_canonical_bytes_are_the_same_after_a_round_trip(value: Any) -> None:
    assert canonical(orjson.loads(orjson.dumps(value))) == canonical(value)


@pytest.mark.parametrize("value", [2**53, -(2**60), [{"a": 2**53}]])
def test_numbers_that_readers_would_round_have_no_canonical_form(value: Any) -> None:
    with pytest.raises(ValueError, match="no canonical JSON form"):
        canonical(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": float("-inf")}])
def test_numbers_that_are_none_have_no_canonical_form(value: Any) -> None:
    with pytest.raises(ValueError, match="no canonical JSON form"):
        canonical(value)


def test_the_order_of_names_does_not_change_a_digest() -> None:
    assert digest({"a": 1, "b": [2.0]}) == digest({"b": [2], "a": 1})


@given(json_values)
def test_an_event_that_is_read_is_the_one_that_was_sealed(output: Any) -> None:
    draft = events.StepSucceeded(step="s", adapter="probe", attempt=1, started_at=NOW, duration=1.5, output=output)
    data, value = events.seal(draft, common=COMMON, prev_hash="before", time=NOW)
    read = events.decode(value)

    assert read.data == data
    assert (read.time, read.subject) == (NOW, COMMON["execution_id"])
    assert read.name == "step.succeeded"
    assert read.data.hash == events.chain_hash(value)
    assert read.data.prev_hash == "before"


def test_any_change_of_a_record_shows_in_its_hash() -> None:
    draft = events.StepFailed(step="s", adapter="probe", error=Failure(type="x", message="m"))
    data, value = events.seal(draft, common=COMMON, prev_hash="before", time=NOW)
    raw = orjson.loads(value)
    for change in (
        lambda r: r.update(time="2026-01-01T12:30:15.251Z"),
        lambda r: r.update(source="/wpk-agent/b"),
        lambda r: r["data"].update(seq=4),
        lambda r: r["data"].update(prev_hash="other"),
        lambda r: r["data"]["error"].update(message="n"),
        lambda r: r["data"].update(extra=1),
    ):
        changed = orjson.loads(value)
        change(changed)
        assert events.chain_hash(orjson.dumps(changed)) != data.hash
    assert events.chain_hash(orjson.dumps(raw)) == data.hash


def test_an_event_is_written_in_the_order_in_which_its_values_were_given() -> None:
    output: Any = {"method": "GET", "url": "https://example.com", "headers": {"b": 1, "a": 2}}
    draft = events.StepSucceeded(step="s", adapter="probe", attempt=1, started_at=NOW, duration=0.25, output=output)
    raw = orjson.loads(events.seal(draft, common=COMMON, prev_hash="before", time=NOW)[1])

    assert list(raw) == ["specversion", "id", "source", "type", "time", "subject", "datacontenttype", "data"]
    assert list(raw["data"]["output"]) == ["method", "url", "headers"]
    assert list(raw["data"]["output"]["headers"]) == ["b", "a"]


def test_an_event_of_a_later_version_is_kept_whole() -> None:
    draft = events.ExecutionResumed(status=events.Status.RUNNING)
    _, value = events.seal(draft, common=COMMON, prev_hash="", time=NOW)
    raw = orjson.loads(value)
    raw["type"], raw["data"]["novel"] = "wpk.execution.pondered.v9", {"a": 1}
    read = events.decode(orjson.dumps(raw))

    assert isinstance(read.data, events.UnknownEvent)
    assert read.data.seq == 3
    assert read.data.model_extra is not None
    assert read.data.model_extra["novel"] == {"a": 1}


@given(st.binary(max_size=60) | json_values.map(orjson.dumps))
def test_what_is_no_event_raises_an_event_error_and_nothing_else(value: bytes) -> None:
    with pytest.raises(EventError):
        events.decode(value)


@pytest.mark.parametrize("value", [b"", b"[]", b"1", b'{"data": 1}', b'{"data": {}, "type": []}', b'{"a": 1e400}'])
def test_odd_records_are_refused_by_the_check_of_the_chain_too(value: bytes) -> None:
    try:
        events.chain_hash(value)
    except EventError:
        return
    assert orjson.loads(value)["data"] == {}


def test_every_type_of_event_has_a_name_and_a_version() -> None:
    names = dict(events.event_models())
    assert len(names) == len(set(names.values()))
    assert all(name.startswith("wpk.") and name.endswith(".v1") for name in names)
