"""Whatever the pure core may decide verifies without a finding; whatever is changed in it is found."""

from __future__ import annotations

import random

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.audit.findings import Kind, Report
from consumer.audit.tale import Tale
from consumer.audit.verify import Head, Scope, Verifier
from consumer.journal.reader import LogRecord
from schemas import events
from schemas.events import Event
from schemas.execution import ExecutionState, apply
from schemas.wpk import WorkflowPackage
from tests.audit.trail import completed, fields, resealed, undone
from tests.support.simulator import Simulator
from tests.support.stories import Story
from tests.unit.test_decide import packages, simulated

few = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
CHANNELS = {name: name for name in ("events.progress", "events.logs", "events.results")}


def records(trail: list[bytes], *, first: dict[str, int] | None = None, step_ms: int = 1) -> list[LogRecord]:
    """The events as they lie in their topics, one after the other."""
    offsets, found = dict(first or {}), []
    for at, value in enumerate(trail):
        event = events.decode(value)
        topic = event.data.channel
        offsets[topic] = offsets.get(topic, -1) + 1
        found.append(LogRecord(topic, 0, offsets[topic], at * step_ms, event.subject.encode(), value, ()))
    return found


def judge(
    found: list[LogRecord],
    head: ExecutionState | None = None,
    *,
    beginnings: dict[tuple[str, int], int] | None = None,
    from_middle: bool = False,
    strict: bool = False,
) -> tuple[Report, list[Event]]:
    given_out: list[Event] = []
    scope = Scope(channels=CHANNELS, beginnings=beginnings or {}, from_middle=from_middle, strict=strict)
    verifier = Verifier(scope, lambda chain, entry: given_out.append(events.decode(entry.record.value or b"")))
    verifier.add(found)
    verifier.finish()
    if head is not None:
        verifier.witness({head.execution_id: Head(head.seq, head.last_hash)})
    return verifier.report, given_out


@few
@given(package=packages(), data=st.data())
def test_every_history_that_can_be_decided_verifies(package: WorkflowPackage, data: st.DataObject) -> None:
    sim: Simulator = simulated(package, data)
    report, given_out = judge(records(sim.trail), sim.known, strict=True)
    assert not report.counts, report
    assert report.events == len(sim.trail)
    assert given_out == sim.events


@few
@given(package=packages(), data=st.data())
def test_the_quick_fold_says_what_the_fold_of_the_project_says(package: WorkflowPackage, data: st.DataObject) -> None:
    sim: Simulator = simulated(package, data)
    tale, state = Tale(), None
    scope = Scope(channels=CHANNELS, beginnings={})
    verifier = Verifier(scope, lambda chain, entry: [*tale.take(entry)])
    for record in records(sim.trail):
        verifier.add([record])
        state = apply(state, events.decode(record.value or b""))
        assert tale.status == (state.status.value if state.status else None)
        assert tale.over == state.over
        assert tale.steps == {name: [step.status, step.attempt] for name, step in state.steps.items()}
        assert tale.rollback_steps == {n: [s.status, s.attempt] for n, s in state.rollback_steps.items()}


@few
@given(package=packages(), data=st.data())
def test_any_one_record_that_is_changed_is_found(package: WorkflowPackage, data: st.DataObject) -> None:
    sim: Simulator = simulated(package, data)
    found = records(sim.trail)
    at = data.draw(st.integers(0, len(found) - 1))
    seq = at + 1
    match data.draw(st.sampled_from(["remove", "alter", "exchange", "double"])):
        case "remove":
            report, _ = judge([*found[:at], *found[at + 1 :]], sim.known)
            [finding] = report.broken
            assert (finding.kind, finding.seq) == (
                (Kind.CUT, seq - 1 or 1) if seq == len(found) else (Kind.MISSING, seq)
            )
        case "alter":
            changed = (found[at].value or b"").replace(b'"source":"/wpk', b'"source":"/kpw')
            report, _ = judge([*found[:at], found[at]._replace(value=changed), *found[at + 1 :]], sim.known)
            [finding] = report.broken
            assert (finding.kind, finding.seq, report.counts.total()) == (Kind.ALTERED, seq, 1)
        case "exchange":
            changed = resealed(found[at].value or b"", lambda raw: raw.update(note="hello"))
            report, _ = judge([*found[:at], found[at]._replace(value=changed), *found[at + 1 :]], sim.known)
            [finding] = report.broken
            assert (finding.kind, finding.seq) == (Kind.ALTERED, seq)
        case "double":
            copy = found[at]._replace(offset=len(found))
            report, given_out = judge([*found, copy], sim.known)
            assert (report.holds, report.counts) == (True, {Kind.DOUBLED: 1})
            assert given_out == sim.events


def test_records_of_the_topics_may_come_in_any_order_to_each_other() -> None:
    story = completed("e1")
    found = records([told.value for told in story])
    by_topic = [[record for record in found if record.topic == topic] for topic in CHANNELS]
    for seed in range(20):
        rows, mixed, draw = [[*row] for row in by_topic], list[LogRecord](), random.Random(seed)
        while any(rows):
            mixed.append(draw.choice([row for row in rows if row]).pop(0))
        report, given_out = judge(mixed, story.state, strict=True)
        assert not report.counts
        assert given_out == [told.event for told in story]


def test_a_newer_owners_events_take_the_place_of_those_that_one_wrote_when_it_had_lost() -> None:
    """With at_least_once: a lost owner wrote two events that the state did not know; the next goes on before them."""
    before = Story("e1").accepted().started("hello").step_started("hello")
    lost = Story("e1", told=[*before.told], now=before.now).step_failed("hello", "no")
    lost.tell(events.ExecutionFailed.model_validate(fields(lost)))
    won = Story("e1", told=[*before.told], now=before.now, epoch=9)
    won.tell(events.ExecutionResumed(status=before.state.status, in_doubt=("hello",)))  # type: ignore[arg-type]
    won.step_started("hello").step_succeeded("hello")
    won.tell(events.ExecutionCompleted.model_validate(fields(won)))
    trail = [told.value for told in (*lost, *won.told[3:])]
    report, given_out = judge(records(trail), won.state)
    assert report.holds, report.broken
    assert set(report.counts) == {Kind.FENCED}
    assert given_out[-1] == won.told[-1].event
    assert not judge(records(trail), won.state, strict=True)[0].holds
    late = [told.value for told in (*won, *lost.told[3:])]  # they may also come after it
    report, given_out = judge(records(late), won.state)
    assert (report.holds, report.counts) == (True, {Kind.FENCED: 2})
    assert given_out == [told.event for told in won]


def test_log_lines_beyond_their_retention_are_no_gap_and_any_other_is() -> None:
    old, new = [told.value for told in completed("old")], [told.value for told in completed("new")]
    kept = [value for value in old if orjson.loads(value)["type"] != "wpk.log.lines.v1"]
    found = records([*kept, *new], first={"events.logs": 6})
    expired = {("events.logs", 0): 7}
    report, _ = judge(found, beginnings=expired)
    assert (report.holds, report.expired) == (True, 2)
    report, _ = judge(found)  # nothing has expired: somebody took them
    assert [finding.kind for finding in report.broken] == [Kind.MISSING]
    without = [record for record in found if not (record.key == b"new" and b"step.retrying" in (record.value or b""))]
    report, _ = judge(without, beginnings=expired)
    assert [(finding.kind, finding.execution_id) for finding in report.broken] == [(Kind.MISSING, "new")]


def test_what_began_before_the_reading_is_verified_from_there_on() -> None:
    trail = [told.value for told in undone("e1")][4:]
    report, _ = judge(records(trail), from_middle=True)
    assert (report.holds, report.begun_before, report.events) == (True, 1, len(trail))
    report, _ = judge(records(trail))
    assert [finding.kind for finding in report.broken] == [Kind.MISSING]
    broken = records(trail)
    report, _ = judge([*broken[:2], *broken[3:]], from_middle=True)
    assert [(finding.kind, finding.seq) for finding in report.broken] == [(Kind.MISSING, 7)]


def test_the_state_of_an_execution_that_began_before_the_reading_asks_for_no_events() -> None:
    verifier = Verifier(Scope(channels=CHANNELS, beginnings={}, from_middle=True))
    verifier.add(records([told.value for told in completed("e1")]))
    verifier.finish()
    verifier.witness({"long-ago": Head(9, "ab" * 32, expected=False)})
    assert verifier.report.holds
    verifier.witness({"gone": Head(9, "ab" * 32)})
    assert [(finding.kind, finding.execution_id) for finding in verifier.report.broken] == [(Kind.CUT, "gone")]
