"""Who is told of how an execution ended, and what: pure functions of the result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from consumer.workflow import values
from consumer.workflow.scope import UNKNOWN, ExecutionScope
from schemas.events import Event, ExecutionRejected, ExecutionResult, PlannedAlert, Status
from schemas.scalars import format_moment

JsonObject = dict[str, JsonValue]
_MAX_MESSAGE = 1000
_MAX_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One message to one place."""

    id: str
    """The same each time it is sent, and no other's: what a receiver knows a repetition by."""
    alert: PlannedAlert
    summary: JsonObject
    trusted: bool
    """Whether the agent's operator chose the address: then none is forbidden."""

    @property
    def line(self) -> str:
        """For people: `restart-unhealthy failed: restart-deployment: no such pod`."""
        name = self.summary["workflow_name"] or self.summary["workflow_id"] or "a workflow"
        status = str(self.summary["status"]).replace("_", " ")
        why = self.summary["error_message"]
        return f"{name} {status}" + (f": {why}" if why else "")


def of_result(event: Event, own: Sequence[PlannedAlert]) -> Iterator[Notice]:
    """What is to be sent of that event; `own` are the alerts of the agent itself, for all executions.

    Only ends are told: no plans, no refused commands about an execution that stands as it was, and no failure whose
    rollback is about to begin, for the result after that tells both.
    """
    data = event.data
    if not isinstance(data, ExecutionResult) or data.dry_run or data.rollback_follows:
        return
    if getattr(data, "validate_only", False) or (isinstance(data, ExecutionRejected) and data.command is not None):
        return
    good = data.status is Status.COMPLETED
    told = _summary(event, data)
    for place, alerts in (("own", own), ("package", data.alerts or ())):
        for index, alert in enumerate(alerts):
            if alert.on_success if good else alert.on_failure:
                yield Notice(id=_id(data, place, index), alert=alert, summary={**told}, trusted=place == "own")


def _id(data: ExecutionResult, place: str, index: int) -> str:
    # By the hash two results of one seq are told apart: without transactions a replaced owner's may stand there too.
    text = f"{data.execution_id}/{data.seq}/{data.hash}/{place}/{index}"
    return f"wpk_{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _summary(event: Event, data: ExecutionResult) -> JsonObject:
    """What a receiver is told. Outputs are left out: who may read them is the matter of the results topic."""
    error = data.error
    message = data.error_message
    return {
        "type": event.type,
        "execution_id": data.execution_id,
        "workflow_id": data.workflow_id,
        "workflow_name": data.workflow_name,
        "status": data.status.value,
        "seq": data.seq,
        "started_at": format_moment(data.started_at) if data.started_at else None,
        "completed_at": format_moment(data.completed_at),
        "duration": data.duration,
        "requested_by": data.requested_by,
        "approved_by": data.approved_by,
        "error_type": error.type if error else None,
        "error_message": message[:_MAX_MESSAGE] if message else None,
        "steps": [
            {"step": each.step, "phase": each.phase, "status": each.status, "attempts": each.attempts}
            for each in data.steps[:_MAX_STEPS]
        ],
        "wpk_digest": data.wpk_digest,
        "agent": data.agent,
    }


def reveal(text: str, secrets: Mapping[str, str]) -> str:
    """The text with the values of its secrets. Raises KeyError with a sentence where one is missing."""
    scope = ExecutionScope(
        parameters={}, execution_id=UNKNOWN, workflow="", attempt=UNKNOWN, outputs={}, secrets=secrets.get
    )
    found = values.substitute(text, scope)
    if found.problems:
        raise KeyError(found.problems[0].message)
    return values.as_text(found.value)
