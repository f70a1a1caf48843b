"""What happens to a step: its attempts begin, end, are made again, or are found without an end after a crash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import JsonValue

from consumer.workflow import retry
from schemas import events
from schemas.events import EventData, Phase
from schemas.execution import ExecutionState, StepState, StepStatus
from schemas.failure import Failure
from schemas.usage import Usage
from schemas.wpk import Handler

#: How many owners may be lost, and not hand over in order, while they make one attempt of a step that may be repeated.
MAX_INTERRUPTIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """The attempt did what it should."""

    output: JsonValue
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt failed; `delay` (seconds) is the shortest pause the other side asks for."""

    failure: Failure
    output: JsonValue = None
    usage: Usage | None = None
    delay: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The attempt was stopped because the execution is cancelled."""

    reason: str


Outcome = Succeeded | Failed | Stopped


def stopping(state: ExecutionState, phase: Phase) -> bool:
    """Whether no further attempt of that phase may begin."""
    if phase == "run" and state.cancel is not None:
        return True
    return any(s.status is StepStatus.FAILED and not s.continued for s in state.phase_steps(phase).values())


def start(state: ExecutionState, handler: Handler, phase: Phase, now: datetime) -> list[EventData]:
    """The next attempt begins; none where the step may not start now.

    A step that is already running is one in doubt that is repeated: the same attempt, begun when it first began.
    """
    step = state.phase_steps(phase).get(handler.name)
    if step is None or step.status.settled:
        return []
    attempt, begun = step.attempt + 1, now
    if step.status is StepStatus.RUNNING:
        attempt, begun = step.attempt, step.started_at or now
    elif stopping(state, phase):
        return []
    return [
        events.StepStarted(
            step=handler.name,
            adapter=handler.type,
            phase=phase,
            attempt=attempt,
            started_at=begun,
            dry_run=is_dry(state, phase),
        )
    ]


def is_dry(state: ExecutionState, phase: Phase) -> bool:
    """Whether nothing may change in that phase."""
    return state.dry_run or (phase == "rollback" and state.rollback is not None and state.rollback.dry_run)


def end(
    state: ExecutionState, handler: Handler, phase: Phase, attempt: int, outcome: Outcome, *, now: datetime, draw: float
) -> list[EventData]:
    """What an attempt's outcome leads to. A stale outcome (another attempt, a step that does not run) leads to nothing.

    `draw` in [0, 1) is the jitter's share of the backoff.
    """
    step = state.phase_steps(phase).get(handler.name)
    if step is None or step.status is not StepStatus.RUNNING or step.attempt != attempt:
        return []
    if isinstance(outcome, Stopped) and (phase == "rollback" or state.cancel is None):
        message = f"it was stopped although the execution was not cancelled: {outcome.reason}"
        outcome = Failed(failure=Failure(type="internal", message=message))
    began = step.started_at or now
    same: dict[str, Any] = {
        "step": handler.name,
        "adapter": handler.type,
        "phase": phase,
        "attempt": attempt,
        "dry_run": is_dry(state, phase),
        "duration": max(0.0, round((now - began).total_seconds(), 3)),
    }
    match outcome:
        case Succeeded(output=output, usage=usage):
            return [events.StepSucceeded(**same, started_at=began, output=output, usage=usage)]
        case Stopped(reason=reason):
            return [events.StepCancelled(**same, started_at=began, reason=reason)]
        case Failed(failure=failure, output=output, usage=usage, delay=delay):
            same |= {"error": failure.model_copy(update={"step": handler.name}), "output": output, "usage": usage}
            if failure.retryable and attempt < handler.retry.max_attempts and not stopping(state, phase):
                pause = timedelta(milliseconds=round(retry.backoff(handler.retry, attempt, draw, delay or 0.0) * 1000))
                return [events.StepRetrying(**same, retry_at=now + pause)]
            return [events.StepFailed(**same, started_at=began, continued=handler.on_failure == "continue")]


def skip(state: ExecutionState, handler: Handler, phase: Phase, reason: str) -> list[EventData]:
    """The step is not run, and why."""
    step = state.phase_steps(phase).get(handler.name)
    if step is None or step.status is not StepStatus.PENDING:
        return []
    return [
        events.StepSkipped(
            step=handler.name, adapter=handler.type, phase=phase, reason=reason, dry_run=is_dry(state, phase)
        )
    ]


def fail_unstarted(state: ExecutionState, handler: Handler, phase: Phase, failure: Failure) -> list[EventData]:
    """The step can't even begin: its `when` or its configuration has no usable value."""
    step = state.phase_steps(phase).get(handler.name)
    if step is None or step.status not in (StepStatus.PENDING, StepStatus.RETRYING):
        return []
    return [
        events.StepFailed(
            step=handler.name,
            adapter=handler.type,
            phase=phase,
            attempt=step.attempt,
            error=failure.model_copy(update={"step": handler.name}),
            continued=handler.on_failure == "continue",
            dry_run=is_dry(state, phase),
        )
    ]


def in_doubt(state: ExecutionState, phase: Phase) -> list[StepState]:
    """The steps that were started and have no end."""
    return [step for step in state.phase_steps(phase).values() if step.status is StepStatus.RUNNING]


def may_repeat(handler: Handler, *, repeatable: bool, dry: bool) -> bool:
    """Whether an attempt of the step whose outcome is unknown may be made again.

    `on_interrupt` decides over what the adapter says of the action; a dry run's step may always be repeated.
    """
    return dry or handler.on_interrupt == "retry" or (handler.on_interrupt is None and repeatable)


def interrupted(step: str) -> Failure:
    """The agent stops, and the attempt had to be ended although it may not be repeated."""
    return Failure(
        type="interrupted",
        message=(
            f"the agent was stopped while {step} ran, and the stop's grace was over before it ended; "
            "whether it took effect is not known, and it may not be repeated (on_interrupt: retry would allow it)"
        ),
        step=step,
    )


def resume(
    state: ExecutionState,
    phase: Phase,
    handlers: Mapping[str, Handler],
    repeatable: Callable[[Handler], bool],
    now: datetime,
) -> list[EventData]:
    """A new owner goes on: it says so, and fails the steps in doubt that may not be made again.

    Those are the ones that are not repeatable, and those that have been made again too often: a step that ends the
    agent (its memory, a crash in a library) would end every successor, and each time all that runs beside it.
    """
    doubtful = in_doubt(state, phase)
    dry = is_dry(state, phase)
    status = state.status or events.Status.RUNNING
    handed_over = state.handing_over and bool(doubtful)
    drafts: list[EventData] = [
        events.ExecutionResumed(
            status=status, in_doubt=tuple(step.step for step in doubtful), handed_over=handed_over, dry_run=dry
        )
    ]
    for step in doubtful:
        handler = handlers[step.step]
        losses = step.found(handed_over=handed_over).interruptions
        if not may_repeat(handler, repeatable=repeatable(handler), dry=dry):
            message = _unrepeatable(step, handler)
        elif losses >= MAX_INTERRUPTIONS and handler.type != "delay":  # a delay does nothing that could end an agent
            message = _too_often(step, losses)
        else:
            continue
        began = step.started_at or now
        drafts.append(
            events.StepFailed(
                step=step.step,
                adapter=step.adapter,
                phase=phase,
                attempt=step.attempt,
                started_at=began,
                duration=max(0.0, round((now - began).total_seconds(), 3)),
                error=Failure(type="interrupted", message=message, step=step.step),
                continued=handler.on_failure == "continue",
                dry_run=dry,
            )
        )
    return drafts


def _unrepeatable(step: StepState, handler: Handler) -> str:
    rule = (
        "its on_interrupt: fail forbids to make it again"
        if handler.on_interrupt == "fail"
        else "it may not simply be made again (on_interrupt: retry would allow it)"
    )
    return (
        f"the agent was interrupted while {step.step} ran; whether it took effect is not known: {_look(step)}; {rule}"
    )


def _too_often(step: StepState, losses: int) -> str:
    return (
        f"the agent was lost {losses} times while it made this attempt of {step.step}, so it is not made again: it may "
        f"be what ends the agent (out of memory, a crash in a library); whether it took effect is not known: "
        f"{_look(step)}, and at the agents' logs"
    )


def _look(step: StepState) -> str:
    return "look at " + (f"what it was to change ({step.captured})" if step.captured else "what it was to change")
