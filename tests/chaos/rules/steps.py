"""Contract 3: attempts follow each other as they may, in the order of dependencies; what is in doubt is dealt with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.view import Event, Finding, Json, View, rule

#: So many interruptions of one attempt end even a step that may be repeated.
CRASH_LIMIT = 3


@dataclass(slots=True)
class _Step:
    """Where a step stands, by the events so far."""

    status: str = "pending"
    attempt: int = 0
    epoch: int = -1
    last: Event | None = None


#: What a step may be, before an event, so that the event is right; `started` is looked at more closely.
_FROM = {
    "step.captured": ("running",),
    "step.retrying": ("running",),
    "step.succeeded": ("running",),
    "step.failed": ("pending", "running", "retrying"),
    "step.cancelled": ("running", "retrying"),
    "step.skipped": ("pending",),
}
_TO = {
    "step.captured": "running",
    "step.retrying": "retrying",
    "step.succeeded": "succeeded",
    "step.failed": "failed",
    "step.cancelled": "cancelled",
    "step.skipped": "skipped",
}


@rule("attempts in order")
def attempts_in_order(view: View) -> Iterator[Finding]:
    """Each attempt begins once for each owner, ends once, and the next begins only after a failure that is retried."""
    for name, trail in view.trails.items():
        steps: dict[tuple[str, str], _Step] = defaultdict(_Step)
        for event in trail:
            if event.name == "execution.rolling_back":
                steps = defaultdict(_Step, {key: step for key, step in steps.items() if key[0] == "run"})
            if not event.name.startswith("step."):
                continue
            step = steps[event.data["phase"], event.data["step"]]
            attempt = event.data.get("attempt", 0)
            if event.name == "step.started":
                right = _may_start(step, attempt, event.epoch)
                step.status, step.attempt, step.epoch = "running", attempt, event.epoch
            else:
                right = step.status in _FROM[event.name] and attempt == step.attempt
                step.status = _TO[event.name]
            if not right:
                yield f"{name}: {event.where} can't follow {_where(step.last)}", [e for e in (step.last, event) if e]
            step.last = event


def _may_start(step: _Step, attempt: int, epoch: int) -> bool:
    if step.status == "running":  # a new owner makes the same attempt again
        return attempt == step.attempt and epoch > step.epoch
    return step.status in ("pending", "retrying") and attempt == step.attempt + 1


def _where(event: Event | None) -> str:
    return event.where if event is not None else "nothing"


@rule("order of dependencies")
def order_of_dependencies(view: View) -> Iterator[Finding]:
    """A step begins when all it needs has succeeded; in a list, when the one before it has its end."""
    for name, trail in view.trails.items():
        settled: dict[str, Event] = {}
        for event in trail:
            if event.name == "execution.rolling_back":
                settled = {}
            if not event.name.startswith("step.") or "step" not in event.data:
                continue
            step, phase = event.data["step"], event.data["phase"]
            if event.name == "step.started":
                handlers = view.handlers(name, phase)
                if handlers and step not in handlers:
                    yield f"{name}: {event.where} is no step of the package", (event,)
                for need, missing in _missing(handlers, step, settled):
                    yield f"{name}: {event.where} began before {need}, which {missing}", (event,)
            elif _settles(event):
                settled[step] = event


def _settles(event: Event) -> bool:
    return event.name in ("step.succeeded", "step.failed", "step.skipped", "step.cancelled")


def _missing(handlers: Mapping[str, Json], step: str, settled: Mapping[str, Event]) -> Iterator[tuple[str, str]]:
    if any(handler.get("needs") for handler in handlers.values()):
        for need in handlers.get(step, {}).get("needs", ()):
            if need not in settled or settled[need].name != "step.succeeded":
                yield need, "had not succeeded"
        return
    for before in handlers:
        if before == step:
            return
        end = settled.get(before)
        if end is None:
            yield before, "had no end"
        elif end.name == "step.cancelled" or (end.name == "step.failed" and not end.data.get("continued")):
            yield before, "had stopped the run"


@rule("undone in reverse")
def undone_in_reverse(view: View) -> Iterator[Finding]:
    """A compensation undoes what was captured, all of it, the newest first, and only when the run has its end."""
    for name, trail in view.trails.items():
        captured: list[str] = []
        undone: list[str] = []
        begun: Event | None = None
        for event in trail:
            if event.name == "step.captured" and event.data["phase"] == "run":
                captured += [event.data["step"]] if event.data["step"] not in captured else []
            elif event.name == "execution.rolling_back":
                begun, undone = event, []
            elif event.name == "step.started" and event.data["phase"] == "rollback":
                undone += [event.data["step"]] if event.data["step"] not in undone else []
                if begun is None:
                    yield f"{name}: {event.where} undoes before a rollback began", (event,)
            elif event.name == "execution.rolled_back" and begun is not None:
                compensation = begun.data["mode"] == "compensation"
                if compensation and undone != captured[::-1]:
                    yield f"{name} undid {undone}; captured were {captured}", (begun, event)


@rule("rollback where it must")
def rollback_where_it_must(view: View) -> Iterator[Finding]:
    """A run that ends short of its goal is rolled back exactly where its package says so and something can be undone;
    a rollback command is refused only where nothing can be."""
    for name, trail in view.trails.items():
        plan = view.plans.get(name)
        spec = plan.package["spec"] if plan is not None and plan.package is not None else {}
        rollback = spec.get("rollback", {})
        automatic = bool(rollback.get("enabled")) and plan is not None and not plan.dry
        means, forced, seen = bool(rollback.get("handlers")), False, set[str]()
        for event in trail:
            seen.add(event.name)
            means = means or event.name == "step.captured"
            forced = forced or event.data.get("cause") == "rollback"
            if event.name in ("execution.failed", "execution.cancelled"):
                wanted = means and (forced or (automatic and "step.started" in seen))
                if bool(event.data.get("rollback_follows")) != wanted:
                    yield f"{name}: after {event.where} a rollback should{'' if wanted else ' not'} follow", (event,)
            elif _refuses_rollback(event) and means and "execution.accepted" in seen:
                yield f"{name}: {event.where} refuses a rollback, and there is something to undo", (event,)


def _refuses_rollback(event: Event) -> bool:
    return event.name == "command.rejected" and bool(event.data["command"] == "rollback")


@rule("takeover told")
def takeover_told(view: View) -> Iterator[Finding]:
    """A new owner of a running execution says that it goes on, and names exactly the steps that have no end."""
    for name, trail in view.trails.items():
        running: dict[str, Event] = {}
        active = None
        for event in trail:
            if event.name in ("execution.started", "execution.rolling_back"):
                active, running = event.epoch, {}
            elif event.name == "execution.resumed":
                active = event.epoch
                if set(event.data["in_doubt"]) != set(running):
                    told, had = sorted(event.data["in_doubt"]), sorted(running)
                    yield f"{name}: {event.where} says that {told} are in doubt; {had} were", (event, *running.values())
            elif event.name.startswith("step."):
                if active is not None and event.epoch > active:
                    yield f"{name}: {event.where} is a new owner's, which did not say that it goes on", (event,)
                    active = event.epoch
                if event.name == "step.started":
                    running[event.data["step"]] = event
                elif event.name != "step.captured":
                    running.pop(event.data["step"], None)


@rule("interrupted where it must")
def interrupted_where_it_must(view: View) -> Iterator[Finding]:
    """A step in doubt fails as interrupted where it may not be repeated (or killed too many owners), and nowhere else;
    one that may not be repeated begins under one owner only. An agent whose stop takes too long for such a step says so
    itself."""
    for name, trail in view.trails.items():
        for event in trail:
            if event.name != "step.failed" or event.data["error"]["type"] != "interrupted":
                continue
            doubts = _doubts(trail, event)
            stopped = event.data["error"]["message"].startswith("the agent was stopped while")
            if not stopped and (not doubts or doubts[-1].epoch != event.epoch):
                yield f"{name}: {event.where} was interrupted, but its owner had not found it in doubt", (event,)
            repeats = view.may_repeat(name, event.data["phase"], event.data["step"])
            if repeats and (stopped or len(doubts) < CRASH_LIMIT):
                yield f"{name}: {event.where} failed as interrupted, and may be repeated", (*doubts, event)
        yield from _begun_again(view, name, trail)


def _doubts(trail: Sequence[Event], failed: Event) -> list[Event]:
    """Where owners found that step in doubt before it failed."""
    step = failed.data["step"]
    return [e for e in trail if e.name == "execution.resumed" and step in e.data["in_doubt"] and e.seq < failed.seq]


def _begun_again(view: View, name: str, trail: Sequence[Event]) -> Iterator[Finding]:
    begun: dict[tuple[str, str, int], Event] = {}
    for event in trail:
        if event.name == "execution.rolling_back":
            begun = {}
        if event.name != "step.started":
            continue
        key = event.data["phase"], event.data["step"], event.data["attempt"]
        before = begun.setdefault(key, event)
        if before is not event and not view.may_repeat(name, key[0], key[1]):
            plan = view.plans.get(name)
            if plan is None or not plan.dry:
                yield f"{name}: {event.where} repeats what may not be repeated", (before, event)


@rule("run in order")
def run_in_order(view: View) -> Iterator[Finding]:
    """Steps of the run only between its start and its end, and what a run was planned with is what ran."""
    for name, trail in view.trails.items():
        planned: set[tuple[str, str]] = set()
        for event in trail:
            if event.name in ("execution.started", "execution.rolling_back"):
                phase = "run" if event.name == "execution.started" else "rollback"
                planned = {(phase, step["step"]) for step in event.data.get("steps", ())}
            elif event.is_end:
                planned = set()
            elif event.name.startswith("step.") and (event.data["phase"], event.data["step"]) not in planned:
                yield f"{name}: {event.where} is not of what runs then: {sorted(planned)}", (event,)
