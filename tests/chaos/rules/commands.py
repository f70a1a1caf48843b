"""Contract 1: a command that the brokers have is answered once, or is in the dead-letter topic."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.chaos.history import DEAD, EVENTS, Record
from tests.chaos.published import Command, digest
from tests.chaos.view import Event, Finding, View, rule

Answer = Event | Record
_ANSWERS = {
    "execution.accepted": "accepted",
    "command.duplicate": "duplicate",
    "command.rejected": "rejected",
    "execution.approved": "approved",
    "execution.cancelling": "cancelling",
    "execution.rolling_back": "rolling_back",
    "execution.cancelled": "ended",
    "execution.rejected": "ended",
}


@rule("readers agree")
def readers_agree(view: View) -> Iterator[Finding]:
    """librdkafka and aiokafka see the same records."""
    for sentence in view.history.disagreements:
        yield sentence, ()


@rule("acknowledged is there")
def acknowledged_is_there(view: View) -> Iterator[Finding]:
    """What the brokers acknowledged lies where they said, as it was sent."""
    there = {(record.role, record.partition, record.offset): record for record, _ in view.commands}
    for each in view.published.acknowledged:
        command = view.published.commands[each.command]
        record = there.get((command.role, each.partition, each.offset))
        if record is None:
            yield f"command {command.number} was acknowledged at {each.topic}-{each.partition}@{each.offset}: gone", ()
        elif digest(record.value) != command.digest or record.key != (command.key.encode() if command.key else None):
            yield f"{record.place} is not the command {command.number} that was sent", (record,)


@rule("command answered once")
def command_answered_once(view: View) -> Iterator[Finding]:
    """Each record of the command topics, acknowledged or not, has one answer, of those that are right."""
    answers = _answers(view)
    copies = Counter(command.number for _, command in view.commands if command is not None)
    for record, command in view.commands:
        place = (view.history.topic(record.role), record.partition, record.offset)
        found = answers.pop(place, [])
        what = f"{record.place} (execution {_execution(view, record, command)})"
        dead = sum(isinstance(answer, Record) for answer in found)
        repeated = not view.exact and dead == len(found)
        if not found:
            yield f"the command at {what} was lost: nothing answers it", (record,)
        elif len(found) > 1 and not repeated:
            yield f"the command at {what} was answered {len(found)} times", found
        elif command is not None:
            told = {_told(answer) for answer in found}
            allowed = set(command.answers) | ({"duplicate", "rejected"} if copies[command.number] > 1 else set())
            allowed |= set() if view.exact else {"rejected", "duplicate"} & set(told) if len(allowed) > 1 else set()
            if not told <= allowed:
                yield f"the command at {what} was answered by {told}, which is not {sorted(allowed)}", found
    for place, found in answers.items():
        yield f"{place[0]}-{place[1]}@{place[2]} is answered, but no command lies there", found


def _answers(view: View) -> dict[tuple[str, int, int], list[Answer]]:
    answers: dict[tuple[str, int, int], list[Answer]] = defaultdict(list)
    for trail in view.trails.values():
        for event in trail:
            source = event.data.get("source")
            if source is not None:
                answers[source["topic"], source["partition"], source["offset"]].append(event)
    for record in view.history.of(DEAD):
        place = record.header("wpk-topic"), record.header("wpk-partition"), record.header("wpk-offset")
        if None not in place:
            answers[str(place[0]), int(place[1] or 0), int(place[2] or 0)].append(record)
    return answers


def _told(answer: Answer) -> str:
    return "dead" if isinstance(answer, Record) else _ANSWERS.get(answer.name, answer.name)


def _execution(view: View, record: Record, command: Command | None) -> str:
    plan = view.published.plans[command.plan] if command is not None else None
    return str(plan.execution_id if plan is not None else record.key)


@rule("first command accepted")
def first_command_accepted(view: View) -> Iterator[Finding]:
    """Of several execute commands of one id the first in the log is the one that is accepted."""
    first: dict[str, int] = {}
    for record, command in view.commands:
        plan = view.published.plans[command.plan] if command is not None else None
        if command is not None and plan is not None and plan.execution_id and command.role == "commands.execute":
            first.setdefault(plan.execution_id, record.offset)
    for name, trail in view.trails.items():
        for event in trail:
            if event.name != "execution.accepted" or name not in first:
                continue
            offset = event.data["source"]["offset"]
            if offset != first[name]:
                yield f"{name} was accepted from offset {offset}, not {first[name]}", (event,)


@rule("dead letter whole")
def dead_letter_whole(view: View) -> Iterator[Finding]:
    """A dead letter is the record as it came, with where it came from."""
    sources: dict[tuple[str, ...], Record] = {
        (view.history.topic(record.role), str(record.partition), str(record.offset)): record
        for record, _ in view.commands
    }
    for record in view.history.of(DEAD):
        place = tuple(str(record.header(f"wpk-{name}")) for name in ("topic", "partition", "offset"))
        source = sources.get(place)
        if source is None or record.header("wpk-reason") is None:
            yield f"the dead letter at {record.place} does not say whence it came: {place}", (record,)
        elif record.key != source.key or (record.value or b"") != (source.value or b""):
            yield f"the dead letter at {record.place} is not what lies at {source.place}", (record, source)


@rule("nothing unasked")
def nothing_unasked(view: View) -> Iterator[Finding]:
    """No output is about an execution that nobody asked for, and each tells of the command that was sent."""
    known = set(view.plans)
    for name, events in view.every.items():
        if name not in known:
            yield f"{name} was never published, and has {len(events)} events", events[:3]
            continue
        plan = view.plans[name]
        for event in events:
            if event.name == "execution.accepted" and event.data["command"].get("wpk_content") != plan.package:
                yield f"{name} was accepted with another package than was sent", (event,)
    for mark in view.marks:
        if mark.execution not in known:
            yield f"a step of {mark.execution}, which was never published, left a mark", (mark,)


@rule("events readable")
def events_readable(view: View) -> Iterator[Finding]:
    """Each record of the event topics is an event, under its own key, on its command's partition, in its topic."""
    _ = view.events
    for record, why in view.broken:
        yield f"{record.place} is no event: {why}", (record,)
    for event in view.events:
        channel = EVENTS[1] if event.name == "log.lines" else EVENTS[2] if _is_result(event) else EVENTS[0]
        expected = f"{event.execution}/{event.seq}/{event.epoch}"
        same = (event.raw["subject"], event.raw["id"]) == (event.execution, expected)
        if event.record.key != event.execution.encode() or not same or event.record.role != channel:
            yield f"{event.execution}: {event.where} has another key, subject, id or topic than it should", (event,)


def _is_result(event: Event) -> bool:
    result = ("completed", "failed", "cancelled", "rejected", "rolled_back", "rollback_failed")
    return event.name.startswith("execution.") and event.name.removeprefix("execution.") in result
