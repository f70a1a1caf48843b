"""A trail on a real broker, copied to other topics with something changed: each change is found at its record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson
import pytest

from consumer.audit.findings import Finding, Kind, Report
from consumer.client import Auditor, Window
from consumer.journal.connection import KafkaConnection
from consumer.journal.reader import LogRecord
from consumer.journal.topics import TopicNames
from consumer.ports import Topic
from schemas.canonical import canonical
from tests.audit.trail import EVENTS, Json, Trail, completed, lay_down, read_back, resealed, sealed, undone
from tests.support.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True, slots=True)
class Desk:
    """Where trails are copied to and judged."""

    connection: KafkaConnection
    prefix: str
    original: Trail

    async def judge(self, trail: Trail, *, strict: bool = False, window: Window | None = None) -> Report:
        names = TopicNames(f"{self.prefix}-copy")
        await lay_down(self.connection, names, trail)
        return await Auditor(self.connection, names, strict=strict).verify(window)

    async def one(self, trail: Trail, kind: Kind, *, strict: bool = False) -> Finding:
        """The only thing that is wrong."""
        report = await self.judge(trail, strict=strict)
        assert [finding.kind for finding in report.broken] == [kind], report
        return report.broken[0]


@pytest.fixture
async def desk(embedded_kafka: KafkaBroker, prefix: str) -> AsyncIterator[Desk]:
    connection = KafkaConnection(bootstrap_servers=embedded_kafka.bootstrap)
    stories = [*(completed(f"good-{number}") for number in range(6)), undone("undone"), completed("mine")]
    await lay_down(connection, TopicNames(prefix), Trail.of(stories))
    yield Desk(connection, prefix, await read_back(connection, TopicNames(prefix)))


def at(finding: Finding, desk: Desk, record: LogRecord, row: list[LogRecord]) -> bool:
    """Whether the finding names that record's place in the copy."""
    place = finding.place
    assert place is not None, finding
    index = next(index for index, each in enumerate(row) if each is record)
    role = record.topic.rpartition("events.")[2]
    return (place.topic, place.partition, place.offset) == (
        f"{desk.prefix}-copy.events.{role}",
        record.partition,
        index,
    )


async def test_a_copy_that_nobody_changed_verifies(desk: Desk) -> None:
    report = await desk.judge(desk.original, strict=True)
    assert report.holds, report
    assert not report.counts
    assert report.executions == 8
    assert (
        report.events == report.records == sum(len(row) for (t, _), row in desk.original.records.items() if t in EVENTS)
    )
    assert report.unchecked_ends == 0


async def test_an_altered_record_is_found(desk: Desk) -> None:
    changed = desk.original.alter("mine", "step.started", lambda value: value.replace(b"agent-a", b"agent-b"))
    finding = await desk.one(desk.original, Kind.ALTERED)
    assert at(finding, desk, changed, desk.original.find("mine", "step.started")[0])
    assert "its hash is not that of its content" in finding.message


async def test_an_altered_record_with_a_right_hash_is_found_by_its_follower(desk: Desk) -> None:
    def change(raw: Json) -> None:
        raw["data"]["output"] = {"stdout": "never said"}

    changed = desk.original.alter("mine", "step.succeeded", lambda value: resealed(value, change))
    finding = await desk.one(desk.original, Kind.ALTERED)
    assert at(finding, desk, changed, desk.original.find("mine", "step.succeeded")[0])


async def test_an_altered_last_record_with_a_right_hash_is_found_by_the_state(desk: Desk) -> None:
    changed = desk.original.alter(
        "mine", "execution.completed", lambda value: resealed(value, lambda raw: raw["data"].update(outputs={"x": 1}))
    )
    finding = await desk.one(desk.original, Kind.ALTERED)
    assert at(finding, desk, changed, desk.original.find("mine", "execution.completed")[0])
    assert "is not the event that the state topic knows" in finding.message


async def test_a_name_that_stands_twice_in_a_record_is_found(desk: Desk) -> None:
    changed = desk.original.alter(
        "mine", "execution.accepted", lambda value: value.replace(b'"data":{', b'"data":{"requested_by":"mallory",', 1)
    )
    finding = await desk.one(desk.original, Kind.ALTERED)
    assert at(finding, desk, changed, desk.original.find("mine", "execution.accepted")[0])
    assert "stands in it twice" in finding.message


async def test_other_spacing_of_the_same_content_is_no_alteration(desk: Desk) -> None:
    desk.original.alter(
        "mine", "step.started", lambda value: orjson.dumps(orjson.loads(value), option=orjson.OPT_INDENT_2)
    )
    assert (await desk.judge(desk.original)).holds


@pytest.mark.parametrize("name", ["step.retrying", "log.lines"])
async def test_a_removed_record_is_found_between_its_neighbours(desk: Desk, name: str) -> None:
    row, index = desk.original.find("mine", name)
    gone = orjson.loads(row.pop(index).value or b"")["data"]["seq"]
    finding = await desk.one(desk.original, Kind.MISSING)
    assert (finding.execution_id, finding.seq) == ("mine", gone)
    assert f"seq {gone} is missing between {desk.prefix}-copy.events.progress-" in finding.message


async def test_a_removed_beginning_is_found(desk: Desk) -> None:
    row, index = desk.original.find("mine", "execution.accepted")
    row.pop(index)
    finding = await desk.one(desk.original, Kind.MISSING)
    assert finding.seq == 1


async def test_an_inserted_record_beside_the_chain_is_found_wherever_it_lies(desk: Desk) -> None:
    for before in (False, True):
        trail = Trail({place: [*row] for place, row in desk.original.records.items()})
        row, index = trail.find("mine", "step.retrying")
        forged = row[index]._replace(value=resealed(row[index].value or b"", _another_message))
        row.insert(index if before else index + 1, forged)
        copy = Desk(desk.connection, f"{desk.prefix}-{before}", trail)
        finding = await copy.one(trail, Kind.FOREIGN)
        assert at(finding, copy, forged, row), (before, finding)


def _another_message(raw: Json) -> None:
    raw["data"]["error"]["message"] = "nothing happened"


async def test_an_inserted_record_that_is_no_event_is_found(desk: Desk) -> None:
    row, index = desk.original.find("mine", "step.retrying")
    forged = row[index]._replace(value=b"\xff{not json")
    row.insert(index, forged)
    finding = await desk.one(desk.original, Kind.FOREIGN)
    assert at(finding, desk, forged, row)
    assert "is no event of an agent" in finding.message


async def test_an_event_under_another_executions_key_is_found(desk: Desk) -> None:
    row, index = desk.original.find("good-1", "step.retrying")
    row[index] = row[index]._replace(key=b"mine")
    report = await desk.judge(desk.original)
    assert {finding.kind for finding in report.broken} == {Kind.FOREIGN, Kind.MISSING}


async def test_an_event_of_an_agent_that_did_not_own_the_epoch_is_found(desk: Desk) -> None:
    def by_another(raw: Json) -> None:
        raw["data"]["agent"] = "mallory"

    changed = desk.original.alter("mine", "execution.completed", lambda value: resealed(value, by_another))
    report = await desk.judge(desk.original)
    assert any(f.kind is Kind.FOREIGN and "mallory wrote it in epoch 7" in f.message for f in report.broken)
    assert at(report.broken[0], desk, changed, desk.original.find("mine", "execution.completed")[0])


async def test_reordered_records_are_found(desk: Desk) -> None:
    row, first = desk.original.find("mine", "step.started")
    _, second = desk.original.find("mine", "step.retrying")
    row[first], row[second] = row[second], row[first]
    finding = await desk.one(desk.original, Kind.REORDERED)
    assert finding.execution_id == "mine"
    assert finding.place is not None
    assert finding.place.offset in (first, second) or first < finding.place.offset < second


@pytest.mark.parametrize("strict", [False, True])
async def test_a_doubled_record_is_told_and_breaks_only_a_trail_of_exactly_once(desk: Desk, strict: bool) -> None:
    row, index = desk.original.find("mine", "step.retrying")
    copy = row[index]._replace()
    row.append(copy)
    report = await desk.judge(desk.original, strict=strict)
    [finding] = report.broken if strict else report.void
    assert (finding.kind, report.holds) == (Kind.DOUBLED, not strict)
    assert at(finding, desk, copy, row)


async def test_a_fenced_owners_records_are_told_and_hide_nothing(desk: Desk) -> None:
    row, index = desk.original.find("mine", "step.retrying")

    def stale(raw: Json) -> None:
        raw["data"]["attempt_epoch"] = 3
        raw["data"]["agent"] = "agent-before"

    fenced = row[index]._replace(value=resealed(row[index].value or b"", stale))
    for where in (index, len(row)):
        trail = Trail({place: [*each] for place, each in desk.original.records.items()})
        mine, _ = trail.find("mine", "step.retrying")
        mine.insert(where, fenced)
        report = await Desk(desk.connection, f"{desk.prefix}-{where}", trail).judge(trail)
        assert report.holds, report
        assert report.counts == {Kind.FENCED: 1}


async def test_a_cut_tail_is_found_by_the_state(desk: Desk) -> None:
    row, index = desk.original.find("mine", "execution.completed")
    row.pop(index)
    row, index = desk.original.find("mine", "step.succeeded", 1)
    row.pop(index)
    last, at_index = desk.original.find("mine", "log.lines", 1)
    finding = await desk.one(desk.original, Kind.CUT)
    assert at(finding, desk, last[at_index], last)
    assert "the end is cut off" in finding.message


async def test_a_cut_tail_is_found_without_the_state_where_no_result_is_left(desk: Desk) -> None:
    row, index = desk.original.find("mine", "execution.completed")
    row.pop(index)
    _forget(desk.original, "mine")
    finding = await desk.one(desk.original, Kind.CUT)
    assert "no agent knows of it" in finding.message


async def test_an_execution_that_is_gone_as_a_whole_is_found_while_the_state_knows_it(desk: Desk) -> None:
    for row, record in desk.original.of_execution("mine"):
        row.remove(record)
    finding = await desk.one(desk.original, Kind.CUT)
    assert (finding.execution_id, finding.place) == ("mine", None)


async def test_what_a_chain_cannot_show_is_not_claimed(desk: Desk) -> None:
    """An execution removed as a whole, after the state forgot it: nothing tells, and the docs say so."""
    for row, record in desk.original.of_execution("mine"):
        row.remove(record)
    _forget(desk.original, "mine")
    report = await desk.judge(desk.original)
    assert report.holds
    assert report.executions == 7


async def test_a_result_that_does_not_say_what_happened_is_found_even_with_right_hashes(desk: Desk) -> None:
    def lie(raw: Json) -> None:
        raw["data"]["steps"][0]["status"] = "skipped"

    changed = desk.original.alter("mine", "execution.completed", lambda value: resealed(value, lie))
    _forget(desk.original, "mine")
    finding = await desk.one(desk.original, Kind.DISAGREES)
    assert at(finding, desk, changed, desk.original.find("mine", "execution.completed")[0])
    assert "run step hello is skipped after 1 attempts; by its events it is succeeded" in finding.message


async def test_an_event_after_the_end_is_found(desk: Desk) -> None:
    row, index = desk.original.find("mine", "step.started")
    end, at_end = desk.original.find("mine", "execution.completed")
    last = orjson.loads(end[at_end].value or b"")["data"]
    raw = orjson.loads(row[index].value or b"")
    raw["data"] |= {"seq": last["seq"] + 1, "prev_hash": last["hash"]}
    raw["data"].pop("hash")
    forged = row[-1]._replace(key=b"mine", value=sealed(raw))
    row.append(forged)
    finding = await desk.one(desk.original, Kind.DISAGREES)
    assert at(finding, desk, forged, row)


async def test_one_execution_alone_is_verified_without_the_others(desk: Desk) -> None:
    desk.original.alter("good-1", "step.started", lambda value: value.replace(b"agent-a", b"agent-b"))
    report = await desk.judge(desk.original, window=Window(execution_id="mine"))
    assert (report.executions, report.holds) == (1, True)


async def test_floats_and_large_numbers_are_hashed_in_their_canonical_form(desk: Desk) -> None:
    def numbers(raw: Json) -> None:
        raw["data"]["output"] = {"whole": 5.0, "small": 1e-7, "ünï": 1}

    changed = desk.original.alter("mine", "step.succeeded", lambda value: resealed(value, numbers))
    assert canonical(5.0) == b"5"
    finding = await desk.one(desk.original, Kind.ALTERED)  # by its follower alone: its own hash is right
    assert at(finding, desk, changed, desk.original.find("mine", "step.succeeded")[0])
    assert "one of the two was exchanged" in finding.message


def _forget(trail: Trail, execution_id: str) -> None:
    """As the state's retention does it."""
    for (topic, _), row in trail.records.items():
        if topic is Topic.STATE:
            row[:] = [r for r in row if (r.key or b"").decode().partition("/")[0] != execution_id]
