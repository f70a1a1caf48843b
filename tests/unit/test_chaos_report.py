"""What the chaos suite tells of a run: how long a takeover took, and what agents logged."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.chaos import report
from tests.chaos.agents import Death
from tests.chaos.history import History, Record
from tests.chaos.report import Report, Takeover

BEGAN = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def _history(*events: tuple[int, str, str, int, float]) -> History:
    """Of partition, agent, event, epoch and seconds since the beginning."""
    history = History(prefix="c0", partitions=2)
    for offset, (partition, agent, name, epoch, at) in enumerate(events):
        value = {
            "type": f"wpk.{name}.v1",
            "time": datetime.fromtimestamp(BEGAN + at, UTC).isoformat().replace("+00:00", "Z"),
            "data": {"agent": agent, "attempt_epoch": epoch},
        }
        record = Record(
            role="events.progress",
            partition=partition,
            offset=offset,
            timestamp=0,
            key=b"x",
            value=json.dumps(value).encode(),
        )
        history.records["events.progress", partition].append(record)
    return history


def _killed(agent: str, at: float) -> Death:
    return Death(agent, -9, BEGAN + at, asked=True)


def test_a_takeover_lasts_from_the_kill_to_the_first_step_that_a_later_owner_starts() -> None:
    history = _history(
        (0, "a-1", "step.started", 0, 1.0),
        (0, "b-1", "execution.resumed", 7, 9.0),
        (0, "b-1", "step.started", 7, 9.5),
        (0, "b-1", "step.started", 7, 11.0),
    )
    (found,) = report.takeovers(history, [(_killed("a-1", 2.0), True)])
    assert (found.agent, found.partition, found.alone) == ("a-1", 0, True)
    assert found.seconds == pytest.approx(7.5)


def test_only_partitions_that_the_agent_had_when_it_was_killed_count() -> None:
    history = _history(
        (0, "a-1", "step.started", 0, 1.0),
        (0, "b-1", "step.started", 5, 1.5),  # it had lost this one before
        (0, "b-1", "step.started", 9, 4.0),
        (1, "a-1", "step.started", 0, 1.0),  # and here nothing was left to be done
    )
    assert report.takeovers(history, [(_killed("a-1", 2.0), False)]) == []


def test_a_report_says_what_was_struck_and_what_was_not(tmp_path: Path) -> None:
    told = Report(seed=7, mode="exactly_once", nodes=3, session_seconds=6.0)
    told.struck["agent.kill"] += 2
    told.not_applied["broker.kill"] += 1
    told.takeovers.append(Takeover(agent="a-1", partition=0, seconds=7.5, alone=False))
    told.write(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert (written["struck"], written["not_applied"]) == ({"agent.kill": 2}, {"broker.kill": 1})
    assert written["takeover_seconds"]["all"]["worst"] == 7.5
    assert written["takeover_seconds"]["kill_alone"] == {}
    assert any("faults struck: 2" in line for line in told.lines())


def test_warnings_are_counted_by_what_they_say_whatever_the_numbers(tmp_path: Path) -> None:
    log = tmp_path / "a-1.log"
    lines = [{"level": "warning", "event": f"Unable to connect to node {number}"} for number in (1, 2)]
    lines.append({"level": "info", "event": "partition.owned"})
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + "Traceback (most recent call last):\n")
    assert report.warnings_in([log]) == {"warning: Unable to connect to node #": 2, "?": 1}
