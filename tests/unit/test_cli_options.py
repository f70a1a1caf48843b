"""What the command line makes of what is typed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consumer import client
from consumer.cli import packages
from consumer.cli.execute import CliError
from consumer.cli.look import moment_of, statuses_of
from consumer.cli.parameters import parse_labels, parse_parameters
from consumer.client.trails import PatientTrail
from schemas.events import Status
from tests.support.stories import done


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("name=api", "api"),
        ("name=3", 3),
        ("name=2.5", 2.5),
        ("name=true", True),
        ("name=null", None),
        ("name='3'", "3"),
        ('name={"a": [1, 2]}', {"a": [1, 2]}),
        ("name=[1, two]", [1, "two"]),
        ("name=a=b", "a=b"),
        ("name=", ""),
        ("name=https://example.com:8080/x", "https://example.com:8080/x"),
        ("name=*", "*"),
        ("name={unclosed", "{unclosed"),
    ],
)
def test_a_parameters_value_is_json_or_a_yaml_scalar_and_else_a_text(text: str, value: object) -> None:
    assert parse_parameters([text]) == {"name": value}


def test_a_parameters_value_can_be_a_files_text(tmp_path: Path) -> None:
    (tmp_path / "body.txt").write_text("a: b\n", encoding="utf-8")
    assert parse_parameters([f"body=@{tmp_path / 'body.txt'}"]) == {"body": "a: b\n"}
    with pytest.raises(CliError, match="can't be read"):
        parse_parameters([f"body=@{tmp_path / 'none.txt'}"])


def test_labels_are_texts_and_must_have_a_name() -> None:
    assert parse_labels(["team=payments", "incident=4711"]) == {"team": "payments", "incident": "4711"}
    with pytest.raises(CliError, match="write --label NAME=VALUE"):
        parse_labels(["=x"])


def test_statuses_may_be_given_apart_or_by_commas_with_dashes_too() -> None:
    assert statuses_of(["failed,rolled-back", "running"]) == {Status.FAILED, Status.ROLLED_BACK, Status.RUNNING}
    with pytest.raises(CliError, match="there are: pending"):
        statuses_of(["done"])


def test_since_is_a_span_before_now_or_a_moment() -> None:
    assert moment_of(None) is None
    assert moment_of("2026-01-01T00:00:00Z") == datetime(2026, 1, 1, tzinfo=UTC)
    assert moment_of("2026-01-01") == datetime(2026, 1, 1, tzinfo=UTC)
    ago = moment_of("2h")
    assert ago is not None
    assert timedelta(hours=2) <= datetime.now(UTC) - ago < timedelta(hours=2, minutes=10)
    with pytest.raises(CliError, match="write a span"):
        moment_of("yesterday")


def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CliError, match="no UTF-8 text"):
        packages.read(str(tmp_path / "a"))
    monkeypatch.setattr(packages, "MAX_BYTES", 2)
    with pytest.raises(CliError, match="larger than"):
        packages.read(str(tmp_path / "a"))


def test_a_trail_waits_for_what_is_missing_until_it_is_told_that_it_will_not_come() -> None:
    told = done().told
    trail = PatientTrail("run-1")
    taken = [event for each in told if each.event.data.seq not in (2, 5) for event in trail.add(each.event)]
    assert [event.data.seq for event in taken] == [1]
    assert [event.data.seq for event in trail.jump()] == [3, 4]
    assert [event.data.seq for event in trail.finish()] == [6]
    assert trail.missing == 2
    assert trail.waiting == []
    assert trail.state is not None
    assert trail.state.status is Status.COMPLETED


def test_a_trail_whose_beginning_is_gone_still_tells_the_end() -> None:
    trail = PatientTrail("run-1")
    assert trail.add(done().told[-1].event) == []
    assert len(trail.finish()) == 1
    assert trail.state is not None
    assert (trail.state.execution_id, trail.state.status) == ("run-1", Status.COMPLETED)
    assert trail.missing == len(done().told) - 1


def test_all_names_of_the_client_can_be_used() -> None:
    assert {name for name in client.__all__ if getattr(client, name).__name__ != name} == set()
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = client.Nothing  # type: ignore[attr-defined]  # that is the question
