"""Contract 4: numbers without gap or double, a whole chain, one end per run; and times that don't go back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from schemas import events as wire
from tests.chaos.jcs import event_hash
from tests.chaos.view import UNDO_ENDS, Event, Finding, View, rule


@rule("seq without gap")
def seq_without_gap(view: View) -> Iterator[Finding]:
    for name, trail in view.trails.items():
        numbers = [event.seq for event in trail]
        if numbers != list(range(1, len(numbers) + 1)):
            gap = next(index for index, number in enumerate(numbers, 1) if index != number)
            yield f"{name} has no event of number {gap} (of {numbers[-1]})", trail[max(0, gap - 2) : gap + 1]


@rule("seq once")
def seq_once(view: View) -> Iterator[Finding]:
    """With exactly_once no reader ever sees two events of one number."""
    if not view.exact:
        return
    for name, events in view.every.items():
        for before, after in pairwise(events):
            if before.seq == after.seq:
                yield f"{name} has number {after.seq} twice: {before.where} and {after.where}", (before, after)


@rule("hash chain")
def hash_chain(view: View) -> Iterator[Finding]:
    """By other code than the agent's, and by the agent's."""
    for name, trail in view.trails.items():
        previous = ""
        for event in trail:
            if event.data.get("prev_hash") != previous:
                yield f"{name}: {event.where} does not follow the event before it", (event,)
            own = event_hash(event.raw)
            if event.data.get("hash") != own or wire.chain_hash(event.record.value or b"") != own:
                yield f"{name}: {event.where} was altered: its hash is not that of its content", (event,)
            previous = event.data.get("hash", "")


@rule("fold takes all")
def fold_takes_all(view: View) -> Iterator[Finding]:
    """The one fold of the project takes every event that holds, and ends where the trail ends."""
    for name, trail in view.trails.items():
        seq = view.folded[name].seq if name in view.folded else 0
        if seq != trail[-1].seq:
            yield f"{name}: the fold ends at number {seq}, the trail at {trail[-1].where}", trail[-2:]


@rule("time goes on")
def time_goes_on(view: View) -> Iterator[Finding]:
    for name, trail in view.trails.items():
        for before, after in pairwise(trail):
            if after.time < before.time:
                back = before.time - after.time
                yield f"{name}: {after.where} is {back:.3f} s before {before.where}", (before, after)


@rule("log order")
def log_order(view: View) -> Iterator[Finding]:
    """In each topic an execution's events lie in the order of their numbers, and all on one partition."""
    for name, trail in view.trails.items():
        last: dict[str, Event] = {}
        for event in trail:
            before = last.get(event.record.role)
            if before is not None and event.record.offset < before.record.offset:
                yield f"{name}: {event.where} lies before {before.where}", (before, event)
            last[event.record.role] = event
        if len({event.record.partition for event in view.every[name]}) > 1:
            yield f"{name} has events on several partitions", [*last.values()]


@rule("one result")
def one_result(view: View) -> Iterator[Finding]:
    """One end of the run, one more for each rollback that began, none twice, and nothing happens after the last."""
    for name, trail in view.trails.items():
        runs = [event for event in trail if event.is_end and event.name not in UNDO_ENDS]
        undos = [event for event in trail if event.name in UNDO_ENDS]
        begun = [event for event in trail if event.name == "execution.rolling_back"]
        accepted = [event for event in trail if event.name == "execution.accepted"]
        if len(runs) > 1:
            yield f"the run of {name} ended {len(runs)} times", runs
        if len(undos) > len(begun):
            yield f"{name} was rolled back {len(undos)} times, begun {len(begun)} times", [*begun, *undos]
        if len(accepted) > 1:
            yield f"{name} was accepted {len(accepted)} times", accepted
        yield from _after_the_end(name, trail)


def _after_the_end(name: str, trail: Sequence[Event]) -> Iterator[Finding]:
    """After an end come only answers to commands, until a rollback begins."""
    ended: Event | None = None
    for event in trail:
        answers = event.name in ("command.rejected", "command.duplicate") or event.data.get("command") is not None
        if event.name in ("execution.rolling_back", "execution.accepted"):
            ended = None
        elif event.is_end:
            if ended is not None:
                yield f"{name}: {event.where} comes after the end {ended.where}", (ended, event)
            ended = event
        elif ended is not None and not answers:
            yield f"{name}: {event.where} comes after the end {ended.where}", (ended, event)


@rule("dry stays dry")
def dry_stays_dry(view: View) -> Iterator[Finding]:
    """What may not change anything has left no mark."""
    for mark in view.marks:
        plan = view.plans.get(mark.execution)
        if plan is not None and plan.dry:
            yield f"{mark.execution} ({plan.kind}) may change nothing, and left a mark", (mark,)


@rule("expected end")
def expected_end(view: View) -> Iterator[Finding]:
    """Each execution has its end, and one that its plan allows."""
    for name, plan in view.plans.items():
        trail = view.trails.get(name, [])
        begun = [e for e in trail if e.name in ("execution.accepted", "execution.rolling_back")]
        ends = [event for event in trail if event.is_end]
        over = ends and not ends[-1].data.get("rollback_follows")
        if begun and not plan.waits and (not over or ends[-1].seq < begun[-1].seq):
            yield f"{name} ({plan.kind}) is stuck after {trail[-1].where}", trail[-3:]
            continue
        interrupted = any(e.name == "step.failed" and e.data["error"]["type"] == "interrupted" for e in trail)
        status = _status(trail)
        allowed = plan.statuses + (plan.interrupted if interrupted else ())
        if status not in allowed and (trail or _was_sent(view, name)):
            yield f"{name} ({plan.kind}) is {status}; it should be {' or '.join(allowed)}", trail[-4:]


def _status(trail: Sequence[Event]) -> str:
    """By the events alone."""
    answers = [e for e in trail if e.name == "execution.rejected" and not e.is_end]
    told = [e.data["status"] for e in trail if e.name.startswith("execution.") and e not in answers]
    return told[-1] if told else "none"


def _was_sent(view: View, name: str) -> bool:
    plan = view.plans[name]
    return any(command is not None and command.plan == plan.number for _, command in view.commands)
