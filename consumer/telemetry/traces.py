"""Spans of executions, as W3C Trace Context and OpenTelemetry know them: which there are, and their ids. Pure.

Spans are made of events that are durable, and say what the trail says. All ids but the command's own are derived from
the execution, so that an owner that takes over goes on in the same trace, and an attempt that it makes again is the
same span: the one that tells how it ended tells it. What an agent has not sent when it is killed is not sent later.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from schemas import events
from schemas.events import EventData, Phase, Status
from schemas.execution import ExecutionState, StepStatus
from schemas.failure import Failure

#: https://www.w3.org/TR/trace-context/#traceparent-header; of later versions these fields are read as of version 00.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = 0x01
_FAILED = frozenset({Status.FAILED, Status.REJECTED, Status.ROLLBACK_FAILED})
_ENDS = (events.StepSucceeded, events.StepFailed, events.StepRetrying, events.StepCancelled)
_MAX_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class Context:
    """Where a span stands: what a `traceparent` says."""

    trace_id: int
    span_id: int
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{_SAMPLED if self.sampled else 0:02x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that took its time and has ended."""

    trace_id: int
    span_id: int
    parent: int | None
    """None: it is the first of its trace."""
    name: str
    start: datetime
    end: datetime
    attributes: Mapping[str, str | int | bool]
    failed: bool = False
    message: str = ""
    """Why it failed; secrets are masked in it, as in the event."""
    began: datetime | None = None
    """Of an execution: when its first step could begin."""
    of_command: bool = False
    """It is the execution: its parent, if any, is the span of another program that published the command."""


class Traces(Protocol):
    """Who is told of events once they are durable; there is none where no traces are sent."""

    def told(self, data: EventData, before: ExecutionState | None, after: ExecutionState) -> None:
        """The event is durable; the states are those around it. Never waits, never raises."""
        ...

    def sampled(self, state: ExecutionState) -> bool:
        """Whether the spans of the execution are sent. Never waits, never raises."""
        ...


def parse(traceparent: str | None) -> Context | None:
    """What the header says; None where it says nothing valid."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None or found[1] == "ff":
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    return Context(trace_id, span_id, bool(int(found[4], 16) & _SAMPLED)) if trace_id and span_id else None


def trace_id(state: ExecutionState) -> int:
    """The command's trace, or else one of the execution's own."""
    given = parse(state.traceparent)
    return given.trace_id if given else _derived(state, "trace", size=16)


def step_traceparent(state: ExecutionState, traces: Traces | None, phase: Phase, step: str, attempt: int) -> str | None:
    """What the attempt tells those that it calls. Without traces of the agent's own it passes on the command's."""
    if traces is None:
        return state.traceparent
    return str(Context(trace_id(state), _attempt_id(state, phase, step, attempt), traces.sampled(state)))


def exemplar(state: ExecutionState, traces: Traces | None) -> str | None:
    """The id of a trace that was recorded, as hexadecimal digits."""
    given = parse(state.traceparent)
    recorded = traces.sampled(state) if traces is not None else given is not None and given.sampled
    return f"{trace_id(state):032x}" if recorded else None


def spans_of(data: EventData, before: ExecutionState | None, after: ExecutionState) -> Iterator[Span]:
    """What came to its end with the event."""
    if before is None:
        return
    if isinstance(data, _ENDS):
        yield from _attempt(data, before, after)
    elif isinstance(data, events.ExecutionRejected) and data.command is not None:
        return  # it answers a command; the run stands
    elif isinstance(data, events.ExecutionRolledBack | events.ExecutionRollbackFailed):
        yield from _rollback(data, before)
    elif isinstance(data, events.ExecutionResult):
        yield execution_span(after, data.completed_at)


def execution_span(state: ExecutionState, end: datetime) -> Span:
    """From the acceptance of the command to the execution's first result."""
    given = parse(state.traceparent)
    attributes = {**_common(state), "wpk.execution.dry_run": state.dry_run}
    if state.status is not None:
        attributes["wpk.execution.status"] = state.status.value
    failed = state.status in _FAILED
    return Span(
        trace_id=trace_id(state),
        span_id=_execution_id(state),
        parent=given.span_id if given else None,
        name=f"execute {state.workflow_name or 'unknown'}",
        start=state.accepted_at or end,
        end=end,
        attributes={**attributes, **_error(state.error if failed else None)},
        failed=failed,
        message=_message(state.error) if failed else "",
        began=state.started_at,
        of_command=True,
    )


def _rollback(data: events.ExecutionResult, before: ExecutionState) -> Iterator[Span]:
    rollback = before.rollback
    if rollback is None:
        return
    failed = isinstance(data, events.ExecutionRollbackFailed)
    attributes: dict[str, str | int | bool] = {
        **_common(before),
        "wpk.execution.dry_run": rollback.dry_run,
        "wpk.execution.status": data.status.value,
        "wpk.rollback.trigger": rollback.trigger,
        "wpk.rollback.mode": rollback.mode,
    }
    yield Span(
        trace_id=trace_id(before),
        span_id=_rollback_id(before),
        parent=_execution_id(before),
        name="rollback",
        start=rollback.started_at,
        end=data.completed_at,
        attributes={**attributes, **_error(data.error if failed else None)},
        failed=failed,
        message=_message(data.error) if failed else "",
    )


def _attempt(data: events.StepEvent, before: ExecutionState, after: ExecutionState) -> Iterator[Span]:
    step = before.phase_steps(data.phase).get(data.step)
    if step is None or step.status is not StepStatus.RUNNING or step.started_at is None:
        return  # it never began, or its last attempt has its span already: a cancel in a backoff
    duration: float | None = getattr(data, "duration", None)
    error: Failure | None = getattr(data, "error", None)
    attributes: dict[str, str | int | bool] = {
        **_common(before),
        "wpk.step.name": data.step,
        "wpk.step.adapter": data.adapter,
        "wpk.step.phase": data.phase,
        "wpk.step.attempt": step.attempt,
        "wpk.step.status": data.name.removeprefix("step."),
    }
    if step.interruptions:
        attributes["wpk.step.interruptions"] = step.interruptions
    yield Span(
        trace_id=trace_id(before),
        span_id=_attempt_id(before, data.phase, data.step, step.attempt),
        parent=_execution_id(before) if data.phase == "run" else _rollback_id(before),
        name=f"step {data.step}",
        start=step.started_at,
        end=after.updated_at or step.started_at if duration is None else step.started_at + timedelta(seconds=duration),
        attributes={**attributes, **_error(error)},
        failed=error is not None,
        message=_message(error),
    )


def _common(state: ExecutionState) -> dict[str, str | int | bool]:
    found: dict[str, str | int | bool] = {"wpk.execution.id": state.execution_id}
    if state.workflow_id:
        found["wpk.workflow.id"] = state.workflow_id
    if state.workflow_name:
        found["wpk.workflow.name"] = state.workflow_name
    return found


def _error(error: Failure | None) -> dict[str, str | int | bool]:
    """https://opentelemetry.io/docs/specs/semconv/registry/attributes/error/"""
    return {"error.type": error.type} if error is not None else {}


def _message(error: Failure | None) -> str:
    return error.message[:_MAX_MESSAGE] if error is not None else ""


# --- ids ---


def _derived(state: ExecutionState, *what: str, size: int = 8) -> int:
    """An id from what stays the same of an execution, and is of it alone: its name may come again one day."""
    accepted = state.accepted_at.isoformat() if state.accepted_at else ""
    text = "\0".join((state.execution_id, accepted, *what))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1  # 0 is no id


def _execution_id(state: ExecutionState) -> int:
    return _derived(state, "execution")


def _rollback_id(state: ExecutionState) -> int:
    began = state.rollback.started_at.isoformat() if state.rollback else ""
    return _derived(state, "rollback", began)


def _attempt_id(state: ExecutionState, phase: Phase, step: str, attempt: int) -> int:
    began = state.rollback.started_at.isoformat() if phase == "rollback" and state.rollback else ""
    return _derived(state, phase, began, step, str(attempt))
