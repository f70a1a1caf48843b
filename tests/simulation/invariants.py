"""What must hold once all is at rest: docs/contracts, "What users may rely on", read from the topics alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from consumer.journal import lineage
from consumer.journal.reader import LogRecord
from consumer.journal.restore import Fold
from consumer.ports import CommandTopic, Topic
from schemas import events, snapshot
from schemas.execution import ExecutionState
from schemas.trail import Trail
from tests.simulation.effects import ADAPTER, StepKey
from tests.simulation.log import Entry

if TYPE_CHECKING:  # the world asks the invariants, and they look at the world
    from tests.simulation.world import World

Raw = dict[str, Any]
"""An event, as its JSON says."""
Trace = list[Raw]
Place = tuple[str, int, int]
"""Topic, partition, offset."""
_TOPICS = (Topic.PROGRESS, Topic.LOGS, Topic.RESULTS)
_RUN_ENDS = {f"wpk.execution.{name}.v1" for name in ("completed", "failed", "cancelled")}
_ROLLBACK_ENDS = {f"wpk.execution.{name}.v1" for name in ("rolled_back", "rollback_failed")}
_REJECTED = "wpk.execution.rejected.v1"
#: Of the state, what the agent keeps for itself.
_AGENTS_OWN = {"undo", "handing_over"}
#: So many schedules pass the costly checks (hashes from bytes, the fold against the state topic).
_DEEP = 4


def broken(world: World) -> list[str]:
    """Every invariant that does not hold."""
    deep = world.plan.seed % _DEEP == 0 or world.plan.compacts_at_end
    return list(_broken(world, deep=deep))


def _broken(world: World, *, deep: bool) -> Iterator[str]:
    found: dict[str, Trace] = {}
    answered: Counter[Place] = Counter()
    for number in range(world.plan.partitions):
        states = _state(world, number) if deep else {}
        for name, records in _records(world, number).items():
            yield from _sequence(name, records, exactly_once=world.plan.mode == "exactly_once")
            chosen = _chosen(records)
            found[name] = [event for event, _ in chosen]
            if deep:
                yield from _deep(name, [entry for _, entry in chosen], states.get(name))
        buried = _buried(world, number)
        answered.update(buried.keys())
        yield from _repeated(buried, exactly_once=world.plan.mode == "exactly_once")
        yield from _offsets(world, number)
    for name, trail in found.items():
        yield from _chain(name, trail)
        yield from _results(name, trail)
        yield from _effects(world, name, trail)
        sources = [event["data"].get("source") for event in trail]
        answered.update((source["topic"], source["partition"], source["offset"]) for source in sources if source)
    yield from _answers(world, found, answered)


def _records(world: World, number: int) -> dict[str, list[tuple[Raw, Entry]]]:
    """The events of a partition's executions, topic by topic."""
    found: dict[str, list[tuple[Raw, Entry]]] = {}
    for topic in _TOPICS:
        for entry in world.cluster.log(topic, number).entries:
            if entry.key is not None and entry.value is not None:
                found.setdefault(entry.key.decode(), []).append((orjson.loads(entry.value), entry))
    return found


def _buried(world: World, number: int) -> dict[Place, list[Entry]]:
    """The dead letters, by the commands that they are about."""
    found: dict[Place, list[Entry]] = {}
    for entry in world.cluster.log(Topic.DEAD_LETTER, number).entries:
        about = {header: value.decode() for header, value in entry.headers if header.startswith("wpk-")}
        place = about["wpk-topic"], int(about["wpk-partition"]), int(about["wpk-offset"])
        found.setdefault(place, []).append(entry)
    return found


def _repeated(buried: Mapping[Place, Sequence[Entry]], *, exactly_once: bool) -> Iterator[str]:
    """One dead letter of each command with exactly_once; else it may be there again, and must say the same."""
    for place, letters in buried.items():
        if exactly_once and len(letters) > 1:
            yield f"{place} has {len(letters)} dead letters"
        if len({(letter.key, letter.value, letter.headers) for letter in letters}) > 1:
            yield f"{place} has dead letters that differ"


def _sequence(name: str, records: list[tuple[Raw, Entry]], *, exactly_once: bool) -> Iterator[str]:
    """To the letter with exactly_once: no gap, no double, and order within each topic.

    Else a record may be there again. The reader's rule takes one of each epoch's, so that they must be the same.
    """
    if not exactly_once:
        bytes_of: dict[tuple[int, int], bytes | None] = {}
        for event, entry in records:
            which = event["data"]["seq"], event["data"]["attempt_epoch"]
            if bytes_of.setdefault(which, entry.value) != entry.value:
                yield f"{name}: seq {which[0]} of epoch {which[1]} is there in two forms"
        return
    numbers = sorted(event["data"]["seq"] for event, _ in records)
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"{name}: the sequence numbers are {numbers}"
    last: dict[str, int] = {}
    for event, entry in records:
        if event["data"]["seq"] <= last.get(entry.topic, 0):
            yield f"{name}: seq {event['data']['seq']} comes after {last[entry.topic]} in {entry.topic}"
        last[entry.topic] = event["data"]["seq"]


def _chosen(records: list[tuple[Raw, Entry]]) -> list[tuple[Raw, Entry]]:
    """The reader's rule: the highest epoch of each number, and none that is older than one before."""
    best: dict[int, tuple[Raw, Entry]] = {}
    for event, entry in records:
        data = event["data"]
        known = best.get(data["seq"])
        if known is None or known[0]["data"]["attempt_epoch"] < data["attempt_epoch"]:
            best[data["seq"]] = event, entry
    chosen, epoch = [], 0
    for seq in sorted(best):
        if best[seq][0]["data"]["attempt_epoch"] >= epoch:
            chosen.append(best[seq])
            epoch = best[seq][0]["data"]["attempt_epoch"]
    return chosen


def _chain(name: str, trail: Trace) -> Iterator[str]:
    before = ""
    for number, event in enumerate(trail, 1):
        data = event["data"]
        if data["seq"] != number:
            yield f"{name}: seq {number} is missing (there is {data['seq']})"
            return
        if data["prev_hash"] != before:
            yield f"{name}: the chain breaks at seq {number}"
        before = data["hash"]


def _results(name: str, trail: Trace) -> Iterator[str]:
    """One result per run, one per rollback, and nothing left open."""
    kinds = [event["type"] for event in trail]
    accepted = kinds.count("wpk.execution.accepted.v1")
    ends = sum(
        event["type"] in _RUN_ENDS or (event["type"] == _REJECTED and event["data"].get("command") is None)
        for event in trail
    )
    if accepted > 1:
        yield f"{name}: accepted {accepted} times"
    if accepted and ends != 1:
        yield f"{name}: {ends} results of one run"
    rollbacks = kinds.count("wpk.execution.rolling_back.v1")
    ended = sum(kind in _ROLLBACK_ENDS for kind in kinds)
    if rollbacks != ended:
        yield f"{name}: {rollbacks} rollbacks with {ended} results"


def _effects(world: World, name: str, trail: Trace) -> Iterator[str]:
    """Every effect was announced by who had it, and what is said to be done was done."""
    started: set[tuple[StepKey, int]] = set()
    done = {(mark.step, mark.attempt) for mark in world.effects.marks if mark.kind == "done"}
    for event in trail:
        data = event["data"]
        if event["type"] == "wpk.step.started.v1":
            started.add(((name, data["phase"], data["step"]), data["attempt"]))
        elif event["type"] == "wpk.step.succeeded.v1" and data["adapter"] == ADAPTER and not data["dry_run"]:
            key = (name, data["phase"], data["step"]), data["attempt"]
            if key not in done:
                yield f"{key} is said to have succeeded and was not done"
    for mark in world.effects.marks:
        if mark.step[0] == name and (mark.step, mark.attempt) not in started:
            yield f"the trail does not know of {mark}"


def _answers(world: World, found: Mapping[str, Trace], answered: Counter[Place]) -> Iterator[str]:
    """Each command that was acknowledged has one answer."""
    names = world.cluster.names
    known = set()
    for sent, offset in world.sent:
        place = names.name(sent.topic), sent.partition, offset
        known.add(place)
        count = answered[place]
        if count > 1:
            yield f"{place} was answered {count} times"
        kinds = [event["type"] for event in found.get(sent.execution_id, ())]
        # The end of what had not begun answers a cancel or reject without naming it.
        ends = sent.topic is CommandTopic.CONTROL and {"wpk.execution.cancelled.v1", _REJECTED} & set(kinds)
        if not count and not ends:
            yield f"{place} ({sent.execution_id}) was not answered; its trail: {kinds}"
    for place in answered.keys() - known:
        yield f"{place} was answered and never sent"


def _offsets(world: World, number: int) -> Iterator[str]:
    """What is consumed is committed, and the state says the same."""
    kept = _folded(world, number).values.get(lineage.OFFSETS_KEY)
    state = lineage.decode_offsets(kept) if kept is not None else {}
    exactly_once = world.plan.mode == "exactly_once"
    for role in CommandTopic:
        log = world.cluster.log(role, number)
        committed = world.cluster.group.offsets.get((log.topic, number), 0)
        known = state.get(role, 0)
        # The state decides. The group may stay behind it until the next command, where a commit failed or came late.
        fair = exactly_once and not world.plan.disturbed
        if known != log.end or (committed != known if fair else committed > known):
            yield f"{role}-{number} has {log.end} records; committed {committed}, by the state {known}"


def _folded(world: World, number: int) -> Fold:
    fold = Fold()
    for entry in world.cluster.log(Topic.STATE, number).entries:
        fold.add(
            LogRecord(
                entry.topic, entry.partition, entry.offset, entry.timestamp, entry.key, entry.value, entry.headers
            )
        )
    return fold


def _state(world: World, number: int) -> dict[str, ExecutionState]:
    values = _folded(world, number).values
    return snapshot.load({key.decode(): value for key, value in values.items() if not lineage.is_reserved(key)})


def _deep(name: str, entries: list[Entry], kept: ExecutionState | None) -> Iterator[str]:
    """The hashes hold over the bytes, and the fold of the events is what the state topic has."""
    trail = Trail()
    for entry in entries:
        assert entry.value is not None
        event = events.decode(entry.value)
        if events.chain_hash(entry.value) != event.data.hash:
            yield f"{name}: the hash of seq {event.data.seq} is wrong"
        trail.add(event)
    if trail.state is None or kept is None:
        yield f"{name}: there is no state (by the events: {trail.state is not None}, kept: {kept is not None})"
        return
    for field in sorted(ExecutionState.model_fields.keys() - _AGENTS_OWN):
        by_events, in_state = getattr(trail.state, field), getattr(kept, field)
        if by_events != in_state:
            yield f"{name}: by the events {field} is {by_events!r}, in the state topic {in_state!r}"
