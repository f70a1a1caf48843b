"""An execution as spans of time: what a timeline draws."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from schemas import events
from schemas.events import Event, Phase, Status

Mood = Literal["runs", "good", "bad", "undo", "wait", "left"]


@dataclass(slots=True)
class Span:
    """From a moment to a moment; without an end it goes on."""

    begin: datetime
    mood: Mood
    label: str = ""
    end: datetime | None = None


@dataclass(slots=True)
class Lane:
    """One row: a step of one phase, or the execution's own waiting."""

    name: str
    phase: Phase | None
    adapter: str = ""
    spans: list[Span] = field(default_factory=list)

    def close(self, moment: datetime, mood: Mood | None = None, label: str = "") -> None:
        """Ends what goes on."""
        if self.spans and self.spans[-1].end is None:
            span = self.spans[-1]
            span.end, span.mood, span.label = moment, mood or span.mood, label or span.label

    def open(self, moment: datetime, mood: Mood, label: str = "") -> None:
        """Begins something; ends what went on."""
        self.close(moment)
        self.spans.append(Span(moment, mood, label))


@dataclass(slots=True)
class Timeline:
    """All lanes, in the order of the steps, and when it began and ended."""

    begin: datetime
    end: datetime
    lanes: list[Lane]
    marks: list[tuple[datetime, str]]
    """Moments of the whole: accepted, another agent, each end."""
    over: bool


def timeline(found: Iterable[Event], now: datetime) -> Timeline | None:
    """The timeline of these events; what goes on ends now. None where there are none."""
    drawing = _Drawing()
    for event in found:
        drawing.take(event)
    return drawing.done(now)


class _Drawing:
    def __init__(self) -> None:
        self._lanes: dict[tuple[Phase | None, str], Lane] = {}
        self._marks: list[tuple[datetime, str]] = []
        self._times: list[datetime] = []
        self._over = False

    def take(self, event: Event) -> None:
        """The next event."""
        data, time = event.data, event.time
        self._times.append(time)
        match data:
            case events.StepEvent():
                self._step(data, time)
            case events.ExecutionStarted() | events.ExecutionRollingBack():
                phase: Phase = "run" if isinstance(data, events.ExecutionStarted) else "rollback"
                for step in data.steps:
                    self._lane(phase, step.step, step.adapter)
                self._over = False
                self._marks.append((time, "started" if phase == "run" else "rolling back"))
            case events.ExecutionAwaitingApproval():
                self._lane(None, "approval", "").open(time, "wait", "waiting for approval")
            case events.ExecutionApprovalGiven():
                self._marks.append((time, f"approved by {data.approved_by}"))
            case events.ExecutionApproved():
                self._lane(None, "approval", "").close(time, "wait", f"approved by {data.approved_by}")
            case events.ExecutionResumed():
                self._marks.append((time, "another agent goes on"))
            case events.ExecutionResult():
                self._result(data, time)

    def _result(self, data: events.ExecutionResult, time: datetime) -> None:
        if isinstance(data, events.ExecutionRejected) and data.command is not None:
            return
        for lane in self._lanes.values():
            lane.close(time, "left")
        self._over = not data.rollback_follows
        self._marks.append((time, Status(data.status).replace("_", " ")))

    def _lane(self, phase: Phase | None, name: str, adapter: str) -> Lane:
        return self._lanes.setdefault((phase, name), Lane(name, phase, adapter))

    def _step(self, data: events.StepEvent, time: datetime) -> None:
        lane = self._lane(data.phase, data.step, data.adapter)
        match data:
            case events.StepStarted():
                lane.open(time, "runs", f"attempt {data.attempt}")
            case events.StepRetrying():
                lane.close(time, "bad", data.error.message)
                lane.open(time, "wait", f"waits for attempt {data.attempt + 1}")
            case events.StepSucceeded():
                lane.close(time, "undo" if data.phase == "rollback" else "good")
            case events.StepFailed():
                if not lane.spans or lane.spans[-1].end is not None:
                    lane.open(time, "bad")
                lane.close(time, "bad", data.error.message)
            case events.StepSkipped():
                lane.spans.append(Span(time, "left", f"skipped: {data.reason}", time))
            case events.StepCancelled():
                lane.close(time, "left", "cancelled")

    def done(self, now: datetime) -> Timeline | None:
        """The whole."""
        if not self._times:
            return None
        end = max(self._times) if self._over else max(now, *self._times)
        return Timeline(min(self._times), end, list(self._lanes.values()), self._marks, self._over)
