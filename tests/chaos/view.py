"""A history made ready to be judged: events by execution, commands with their plans, and what a violation is."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from schemas import events as wire
from schemas.execution import ExecutionState
from schemas.trail import Trail
from tests.chaos.history import COMMANDS, EVENTS, History, Record
from tests.chaos.marks import Mark
from tests.chaos.published import NUMBER_HEADER, Command, Plan, Published

Json = dict[str, Any]
Mode = Literal["exactly_once", "at_least_once"]
Seconds = float

RUN_ENDS = ("execution.completed", "execution.failed", "execution.cancelled", "execution.rejected")
UNDO_ENDS = ("execution.rolled_back", "execution.rollback_failed")
STEP_ENDS = ("step.succeeded", "step.failed", "step.cancelled", "step.skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A promise that was not kept."""

    name: str
    """The invariant."""
    message: str
    """A sentence that names execution, topic, partition and offset, as far as there are such."""
    evidence: tuple[str, ...] = ()
    """What the sentence rests on, for a human."""

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One event as it lies in its topic."""

    record: Record
    raw: Json
    name: str
    """The type without prefix and version."""
    data: Json
    execution: str
    seq: int
    epoch: int
    time: Seconds
    """Since 1970."""

    @property
    def where(self) -> str:
        """It, for a human."""
        step = f" of {self.data['phase']} {self.data['step']}/{self.data.get('attempt')}" if "step" in self.data else ""
        return f"{self.name}{step} (seq {self.seq}, epoch {self.epoch}) at {self.record.place}"

    @property
    def is_end(self) -> bool:
        """Whether it ends a run or a rollback; an answer to a refused command does not."""
        return self.name in UNDO_ENDS or (self.name in RUN_ENDS and self.data.get("command") is None)


def parse(record: Record) -> Event:
    """The event in a record. Raises ValueError, KeyError or TypeError where it is none."""
    raw = json.loads(record.value or b"")
    data = raw["data"]
    return Event(
        record,
        raw,
        raw["type"].removeprefix("wpk.").removesuffix(".v1"),
        data,
        data["execution_id"],
        int(data["seq"]),
        int(data["attempt_epoch"]),
        datetime.fromisoformat(raw["time"]).timestamp(),
    )


@dataclass
class View:
    """What the invariants are judged on."""

    history: History
    marks: Sequence[Mark]
    published: Published
    mode: Mode
    forgets: bool = False
    """Whether the agents forget ended executions within the run (a short WPK_STATE_RETENTION)."""
    broken: list[tuple[Record, str]] = field(default_factory=list)
    """Records of the event topics that are no events."""

    @property
    def exact(self) -> bool:
        return self.mode == "exactly_once"

    @cached_property
    def events(self) -> list[Event]:
        """All events there are, by topic and partition in the order of their offsets."""
        found = []
        for record in self.history.of(*EVENTS):
            try:
                found.append(parse(record))
            except (ValueError, KeyError, TypeError) as error:
                self.broken.append((record, f"{type(error).__name__}: {error}"))
        return found

    @cached_property
    def every(self) -> dict[str, list[Event]]:
        """All events of each execution, repeated and stale ones too, by number, epoch and offset."""
        by_id: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            by_id[event.execution].append(event)
        for found in by_id.values():
            found.sort(key=lambda event: (event.seq, event.epoch, event.record.offset))
        return dict(by_id)

    @cached_property
    def trails(self) -> dict[str, list[Event]]:
        """The events of each execution that hold for a reader: of one number that with the highest epoch (the first of
        them), and none of an epoch older than one at a lower number."""
        return {name: list(self._held(found)) for name, found in self.every.items()}

    @staticmethod
    def _held(found: Sequence[Event]) -> Iterator[Event]:
        best: dict[int, Event] = {}
        for event in found:
            if event.seq not in best or event.epoch > best[event.seq].epoch:
                best[event.seq] = event
        epoch = -1
        for _, event in sorted(best.items()):
            if event.epoch >= epoch:
                epoch = event.epoch
                yield event

    @cached_property
    def folded(self) -> dict[str, ExecutionState]:
        """What the project's own fold makes of the events of each execution, in whatever order they lie."""
        found = {}
        for name, events in self.every.items():
            trail = Trail()
            for event in events:
                trail.add(wire.decode(event.record.value or b""))
            if trail.state is not None:
                found[name] = trail.state
        return found

    @cached_property
    def commands(self) -> list[tuple[Record, Command | None]]:
        """Every record of the command topics, with what was sent."""
        return [(record, self._command(record)) for record in self.history.of(*COMMANDS)]

    def _command(self, record: Record) -> Command | None:
        number = record.header(NUMBER_HEADER)
        return self.published.commands.get(int(number)) if number is not None and number.isdigit() else None

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """The plans by execution id, derived ones too. Of an id that is used twice the first counts."""
        found: dict[str, Plan] = {}
        for plan in self.published.plans.values():
            if plan.execution_id is not None:
                found.setdefault(plan.execution_id, plan)
        for record, command in self.commands:
            if command is not None and self.published.plans[command.plan].execution_id is None:
                name = f"{self.history.topic(record.role)}-{record.partition}-{record.offset}"
                found[name] = self.published.plans[command.plan]
        return found

    def handlers(self, execution: str, phase: str) -> dict[str, Json]:
        """The steps of that phase as the user wrote them; in a compensation there are none."""
        plan = self.plans.get(execution)
        if plan is None or plan.package is None:
            return {}
        spec = plan.package["spec"]
        found = spec["handlers"] if phase == "run" else spec.get("rollback", {}).get("handlers", [])
        return {handler["name"]: handler for handler in found}

    def may_repeat(self, execution: str, phase: str, step: str) -> bool:
        """Whether an attempt whose outcome is unknown may be made again: as the package says, else by the adapter."""
        handler = self.handlers(execution, phase).get(step)
        if handler is None:
            return phase == "rollback"  # what was captured is undone; an undo is repeatable
        if "on_interrupt" in handler:
            return bool(handler["on_interrupt"] == "retry")
        return handler["type"] == "delay" or bool(handler["config"].get("repeatable"))

    def leaves_marks(self, execution: str, phase: str, step: str) -> bool:
        """Whether that step leaves a mark when it runs."""
        plan, handler = self.plans.get(execution), self.handlers(execution, phase).get(step)
        if plan is None or plan.dry:
            return False
        return handler is None or handler["type"] != "delay"


Rule = Callable[[View], Iterator[Violation]]
RULES: dict[str, Rule] = {}
Finding = tuple[str, Sequence[Event | Record | Mark | str]]


def rule(name: str) -> Callable[[Callable[[View], Iterator[Finding]]], Rule]:
    """Makes a function that yields sentences and evidence the invariant of that name."""

    def register(function: Callable[[View], Iterator[Finding]]) -> Rule:
        def judge(view: View) -> Iterator[Violation]:
            for message, evidence in function(view):
                yield Violation(name=name, message=message, evidence=tuple(map(_shown, evidence)))

        RULES[name] = judge
        return judge

    return register


def _shown(item: Event | Record | Mark | str) -> str:
    if isinstance(item, Event):
        return f"{item.execution}: {item.where}"
    if isinstance(item, Record):
        return f"{item.place}: key {item.key!r}, value {(item.value or b'')[:300]!r}"
    return str(item)
