"""An execution while one looks on: a block that is drawn again and again, or plain lines, each once."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from rich.text import Text

from consumer.cli.render import execution, problems
from consumer.cli.render.signs import step_sign
from consumer.cli.render.steps import Notes, note, rows
from consumer.cli.render.text import BAD, DIM, WAIT, clean, seconds
from schemas import events
from schemas.events import Event, EventData
from schemas.execution import ExecutionState, StepState, StepStatus

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
#: Newest lines of output that the block shows below its steps.
_TAIL = 4


class WatchView:
    """Takes events and states, gives lines."""

    def __init__(self) -> None:
        self.state: ExecutionState | None = None
        self.notes: defaultdict[tuple[str, str], Notes] = defaultdict(Notes)
        self.remarks: list[Text] = []
        """What came of commands: refusals, duplicates, a change of the agent."""
        self._tail: deque[tuple[str, str]] = deque(maxlen=_TAIL)

    def observe(self, event: Event, state: ExecutionState) -> None:
        """Takes the next event and the state after it."""
        self.state = state
        data = event.data
        if isinstance(data, events.StepEvent):
            noted = self.notes[data.phase, data.step]
            if isinstance(data, events.StepRetrying):
                noted.failures.append(data.error.message)
            elif isinstance(data, events.StepSkipped):
                noted.skipped = data.reason
        elif isinstance(data, events.LogLines) and data.step:
            for line in data.lines:
                self._tail.append((data.step, line.text))
            if data.lines and data.stream != "agent":
                self.notes[data.phase, data.step].last_line = data.lines[-1].text
        self.remarks += _remarks(data)

    def block(self, now: datetime, tick: int = 0) -> list[Text]:
        """The whole picture; `tick` turns the spinner."""
        state = self.state
        if state is None:
            return [
                Text(
                    f"{_SPINNER[tick % len(_SPINNER)]} waiting for an agent to take the command (does one run?)",
                    style=DIM,
                )
            ]
        lines = [execution.heading(state), *rows(state, now, notes=self.notes, spinner=_SPINNER[tick % len(_SPINNER)])]
        if not state.over and self._tail and state.current_step:
            lines += [Text(f"      {clean(step, 40)} │ {clean(text, 160)}", style=DIM) for step, text in self._tail]
        lines += self.remarks
        return lines + self.closing(now)

    def closing(self, now: datetime) -> list[Text]:
        """How it stands, and what to do next."""
        if self.state is None:
            return []
        ending = execution.ending(self.state, now)
        hints = execution.next_steps(self.state) if self.state.over or self.state.approval_expires_at else []
        return [*([ending] if ending else []), *(Text("      ").append(hint, style=DIM) for hint in hints)]

    def lines(self, event: Event) -> list[Text]:
        """What is new by this event, for an output that keeps every line; call it after `observe`."""
        plain = _PLAIN.get(type(event.data))
        found = plain(self, event) if plain else []
        data = event.data
        answers_another = isinstance(data, events.ExecutionRejected) and data.command is not None
        if isinstance(data, events.ExecutionResult) and not answers_another:
            found = [*found, *self.closing(event.time)]
        return [*found, *_remarks(event.data)]

    def _step(self, data: events.StepEvent) -> StepState | None:
        return self.state.phase_steps(data.phase).get(data.step) if self.state else None


def _remarks(data: EventData) -> list[Text]:
    match data:
        case events.CommandRejected():
            what = data.action or data.command
            return [
                Text(f"  ✘ the {what} command was refused", style=BAD),
                *(Text(f"      {text}") for text in problems.texts(data.errors)),
            ]
        case events.CommandDuplicate():
            what = data.action or data.command
            return [Text(f"  the {what} command was taken before; nothing is done twice", style=WAIT)]
        case events.ExecutionResumed():
            doubt = f"; in doubt: {', '.join(clean(name, 60) for name in data.in_doubt)}" if data.in_doubt else ""
            return [Text(f"  another agent goes on ({clean(data.agent, 60)}){doubt}", style=WAIT)]
        case events.ExecutionApproved() | events.ExecutionApprovalGiven():
            why = f": {clean(data.reason)}" if data.reason else ""
            more = f"; {clean(data.missing, 200)}" if isinstance(data, events.ExecutionApprovalGiven) else ""
            return [Text(f"  approved by {clean(data.approved_by, 60)}{why}{more}")]
        case events.ExecutionCancelling():
            who = f" by {clean(data.requested_by, 60)}" if data.requested_by else ""
            why = f": {clean(data.reason)}" if data.reason else ""
            cause = "the deadline passed; it is cancelled" if data.cause == "deadline" else f"cancelled{who}{why}"
            return [Text(f"  {cause}", style=WAIT)]
    return []


# --- plain lines, by type of event ---

Data = TypeVar("Data", bound=EventData)
_PLAIN: dict[type[EventData], Callable[[WatchView, Event], list[Text]]] = {}


def _on(*kinds: type[Data]) -> Callable[[Callable[[WatchView, Data], list[Text]]], None]:
    def register(plain: Callable[[WatchView, Data], list[Text]]) -> None:
        for kind in kinds:
            _PLAIN[kind] = lambda view, event: plain(view, event.data)  # type: ignore[arg-type]  # looked up by type

    return register


@_on(events.ExecutionAccepted)
def _accepted(view: WatchView, data: events.ExecutionAccepted) -> list[Text]:
    return [execution.heading(view.state)] if view.state else []


@_on(events.ExecutionResolved)
def _resolved(view: WatchView, data: events.ExecutionResolved) -> list[Text]:
    return [Text(f"  its package is {clean(data.package, 80)} of {clean(data.origin, 200)}", style=DIM)]


@_on(events.ExecutionAwaitingApproval)
def _awaiting(view: WatchView, data: events.ExecutionAwaitingApproval) -> list[Text]:
    if view.state is None or view.state.updated_at is None:
        return []
    return view.closing(view.state.updated_at)


@_on(events.ExecutionRollingBack)
def _rolling_back(view: WatchView, data: events.ExecutionRollingBack) -> list[Text]:
    how = "by its own handlers" if data.mode == "handlers" else "by its undo records"
    steps = "1 step" if data.total_steps == 1 else f"{data.total_steps} steps"
    return [Text(f"  ↶ rolling back {how}, {steps}", style=WAIT)]


@_on(events.StepStarted)
def _started(view: WatchView, data: events.StepStarted) -> list[Text]:
    again = f", attempt {data.attempt}" if data.attempt > 1 else ""
    return [Text(f"  ▸ {clean(data.step, 60)}  {clean(data.adapter, 12)}  started{again}", style=DIM)]


@_on(events.StepRetrying)
def _retrying(view: WatchView, data: events.StepRetrying) -> list[Text]:
    return [Text(f"  ⟳ {clean(data.step, 60)}  attempt {data.attempt} failed: {clean(data.error.message)}")]


@_on(events.StepSucceeded, events.StepFailed, events.StepSkipped, events.StepCancelled)
def _settled(view: WatchView, data: events.StepEvent) -> list[Text]:
    step = view._step(data)
    if step is None or view.state is None or view.state.updated_at is None:
        return []
    sign, style = step_sign(step)
    line = Text("  ").append(sign, style=style).append(f" {clean(data.step, 60)}  {clean(data.adapter, 12)}")
    if step.duration is not None:
        line.append(f"  {seconds(step.duration)}")
    noted = view.notes[data.phase, data.step]
    silent = Notes(failures=noted.failures, skipped=noted.skipped)  # its lines stand above already
    told = note(step, silent, view.state.updated_at)
    if told.plain and (step.status is not StepStatus.CANCELLED):
        line.append("  ").append_text(told)
    return [line]


@_on(events.LogLines)
def _log_lines(view: WatchView, data: events.LogLines) -> list[Text]:
    who = clean(data.step, 60) if data.step else "agent"
    return [Text(f"      {who} │ {clean(line.text)}", style=DIM) for line in data.lines]
