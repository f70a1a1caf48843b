"""Contracts 2 and 3 against what really happened: the marks that steps left outside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.chaos.marks import Mark
from tests.chaos.view import Event, Finding, View, rule

Attempt = tuple[str, str, str, int]
#: A shell's mark tells its time to 10 ms, events to 1 ms; the two clocks are read apart from each other.
TOLERANCE = 0.1


def _started(view: View) -> dict[Attempt, list[Event]]:
    """All durable starts by attempt; with at_least_once also those that a newer owner overruled."""
    found: dict[Attempt, list[Event]] = defaultdict(list)
    for name, events in (view.trails if view.exact else view.every).items():
        for event in events:
            if event.name == "step.started":
                found[name, event.data["phase"], event.data["step"], event.data["attempt"]].append(event)
    return found


def by_attempt(view: View) -> dict[Attempt, list[Mark]]:
    """The marks of each attempt, in order."""
    found: dict[Attempt, list[Mark]] = defaultdict(list)
    for mark in view.marks:
        found[mark.attempt_key].append(mark)
    return found


@rule("effect after durable start")
def effect_after_durable_start(view: View) -> Iterator[Finding]:
    """Each mark is of an attempt whose start is durable, under the very owner that made it, and not before it."""
    started = _started(view)
    for mark in view.marks:
        events = [event for event in started.get(mark.attempt_key, ()) if event.epoch == mark.epoch]
        what = f"{mark.execution}: {mark.phase} {mark.step}/{mark.attempt} of epoch {mark.epoch}"
        if not events:
            others = started.get(mark.attempt_key, ())
            yield f"{what} took effect without a durable step.started", (mark, *others)
        elif mark.time < min(event.time for event in events) - TOLERANCE:
            yield f"{what} took effect before {events[0].where} was even written", (mark, events[0])


@rule("effect once")
def effect_once(view: View) -> Iterator[Finding]:
    """No attempt takes effect twice under one owner, nor under two where it may not be repeated."""
    for attempt, marks in by_attempt(view).items():
        what = f"{attempt[0]}: {attempt[1]} {attempt[2]}/{attempt[3]}"
        epochs = [mark.epoch for mark in marks]
        if len(set(epochs)) < len(epochs):
            yield f"{what} took effect twice under one owner", marks
        elif len(marks) > 1 and not view.may_repeat(*attempt[:3]):
            yield f"{what} took effect {len(marks)} times, and may not be repeated", marks


@rule("success had an effect")
def success_had_an_effect(view: View) -> Iterator[Finding]:
    """A step that succeeded has left its mark in that attempt, under the owner that says so, before it says so."""
    marks = by_attempt(view)
    for name, trail in view.trails.items():
        for event in trail:
            asked = event.name == "step.retrying" and event.data["error"]["type"] == "asked"
            if event.name != "step.succeeded" and not asked:
                continue
            phase, step = event.data["phase"], event.data["step"]
            if not view.leaves_marks(name, phase, step) or event.data.get("dry_run"):
                continue
            found = [m for m in marks.get((name, phase, step, event.data["attempt"]), ()) if m.epoch == event.epoch]
            if not found:
                yield f"{name}: {event.where} says that it was done; it left no mark", (event,)
            elif found[0].time > event.time + TOLERANCE:
                yield f"{name}: {event.where} was told {found[0].time - event.time:.3f} s too early", (found[0], event)


@rule("effects in order")
def effects_in_order(view: View) -> Iterator[Finding]:
    """The marks of attempts that succeeded lie in the order in which the package wants its steps."""
    marks = by_attempt(view)
    for name, trail in view.trails.items():
        done: list[Mark] = []
        for event in trail:
            if event.name == "step.succeeded":
                key = name, event.data["phase"], event.data["step"], event.data["attempt"]
                own = [mark for mark in marks.get(key, ()) if mark.epoch == event.epoch]
                done += own[:1]
        handlers = view.handlers(name, "run")
        if not any(handler.get("needs") for handler in handlers.values()):
            wrong = [(before, after) for before, after in pairwise(done) if after.line < before.line]
        else:
            wrong = [
                (need, mark)
                for mark in done
                for need in done
                if need.step in handlers.get(mark.step, {}).get("needs", ()) and need.line > mark.line
            ]
        for before, after in wrong:
            yield f"{name}: {after.phase} {after.step} took effect before {before.phase} {before.step}", (before, after)


def late_marks(view: View) -> list[Mark]:
    """Marks of an owner that were made after a newer one had claimed the partition and gone on with that execution.

    No violation: between the last proof of ownership and the effect lies time, and a process can stand still in it.
    That is what the epoch is given to steps for. Each is still bound by all other rules.
    """
    taken: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for name, trail in view.trails.items():
        taken[name] += [(event.epoch, event.time) for event in trail if event.name == "execution.resumed"]
    return [
        mark
        for mark in view.marks
        if any(epoch > mark.epoch and time < mark.time - TOLERANCE for epoch, time in taken.get(mark.execution, ()))
    ]
