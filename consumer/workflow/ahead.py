"""A cancel that comes before its execution: the execute command still waits on the topic, because the agent is full.

It can't wait with it at the head of its topic, since the commands behind it may be what makes room. So it is kept in
the trail, as the first that is known of the execution, which then ends as soon as it is accepted.
"""

from __future__ import annotations

from datetime import datetime

from consumer.workflow import answers
from consumer.workflow.answers import Drafts
from schemas import events
from schemas.commands import ControlCommand
from schemas.events import Source, Status
from schemas.execution import ExecutionState


def cancel(state: ExecutionState | None, command: ControlCommand, *, source: Source) -> Drafts:
    """The cancel is kept for an execution that was not accepted yet."""
    if state is not None and state.cancel is not None:
        return [answers.duplicate(state, command, source)]
    return [
        events.ExecutionCancelling(
            status=Status.PENDING,
            cause="command",
            requested_by=command.requested_by,
            reason=command.reason,
            source=source,
        )
    ]


def end(state: ExecutionState, now: datetime) -> Drafts:
    """The end of an execution that was just accepted, where it had been cancelled before; else nothing."""
    if state.status is not Status.PENDING or state.cancel is None:
        return []
    return [answers.cancelled_unbegun(state, state.cancel.requested_by, state.cancel.reason, now)]
