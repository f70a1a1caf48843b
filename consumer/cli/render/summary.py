"""An execution as one JSON document: what `--json` prints, and the fields that `wpk status` shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydantic import JsonValue

from schemas.execution import ExecutionState, StepState
from schemas.failure import Problem
from schemas.plan import plan_digest
from schemas.scalars import format_moment

JsonObject = dict[str, JsonValue]


def summary(state: ExecutionState, *, details: bool = True) -> JsonObject:
    """The state's fields; with `details` the steps with their outputs too."""
    document: JsonObject = {
        "execution_id": state.execution_id,
        "workflow_id": state.workflow_id,
        "workflow_name": state.workflow_name,
        "status": state.status,
        "over": state.over,
        "dry_run": state.dry_run,
        "accepted_at": _moment(state.accepted_at),
        "started_at": _moment(state.started_at),
        "completed_at": _moment(state.completed_at),
        "updated_at": _moment(state.updated_at),
        "current_step": state.current_step,
        "steps_completed": state.steps_completed,
        "total_steps": state.total_steps,
        "error_message": state.error_message,
        "error": state.error.model_dump(mode="json", exclude_none=True) if state.error else None,
        "requested_by": state.requested_by,
        "approved_by": state.approved_by,
        "approval_expires_at": _moment(state.approval_expires_at),
        "deadline": _moment(state.deadline),
        "labels": dict(state.labels),
        "outputs": state.outputs,
        "wpk_digest": state.wpk_digest,
        "plan_digest": state.plan_digest,
        "seq": state.seq,
    }
    if details:
        document["steps"] = [_step(step) for step in state.steps.values()]
        document["rollback_steps"] = [_step(step) for step in state.rollback_steps.values()]
    return document


def _step(step: StepState) -> JsonObject:
    found: JsonObject = step.model_dump(mode="json", exclude_none=True)
    return found


def _moment(value: datetime | None) -> str | None:
    return format_moment(value) if value else None


def plan_document(state: ExecutionState, refused: Sequence[Problem] = ()) -> JsonObject:
    """What a dry run found, as one document."""
    steps = list(state.rollback_steps.values() if state.rollback_steps else state.steps.values())
    plans: list[JsonValue] = []
    for step in steps:
        output = step.output if isinstance(step.output, dict) else {}
        plans.append(
            {
                "step": step.step,
                "adapter": step.adapter,
                "status": step.status,
                "plan": output.get("plan"),
                "changes": output.get("changes"),
                "detail": output.get("detail"),
                "digest": output.get("digest"),
                "error": step.error.model_dump(mode="json", exclude_none=True) if step.error else None,
            }
        )
    return {
        "execution_id": state.execution_id,
        "workflow_id": state.workflow_id,
        "status": state.status,
        "error_message": state.error_message,
        "errors": [problem.model_dump(mode="json", exclude_none=True) for problem in refused],
        "steps": plans,
        "plan_digest": plan_digest(state, "rollback" if state.rollback_steps else "run"),
    }
