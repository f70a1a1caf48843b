"""The digest over a whole plan: what somebody who read a dry run has read."""

from __future__ import annotations

from pydantic import JsonValue

from schemas.canonical import digest
from schemas.events import Phase
from schemas.execution import ExecutionState, StepState, StepStatus


def plan_digest(state: ExecutionState, phase: Phase = "run") -> str | None:
    """The digest over the plans of all steps of a dry run, in their order; None where one of them isn't known.

    The same for two dry runs if and only if they are of the same package and parameters, and each step would do the
    same. A step that can't be planned counts by the kind of its failure where the package goes on all the same.
    """
    steps = [_step(step) for step in state.phase_steps(phase).values()]
    if not steps or None in steps:
        return None
    return digest(
        {
            "wpk_digest": state.wpk_digest,
            "parameters": (state.command or {}).get("parameters") or {},
            "phase": phase,
            "steps": steps,
        }
    )


def _step(step: StepState) -> JsonValue:
    told: dict[str, JsonValue] = {"step": step.step, "adapter": step.adapter, "status": step.status.value}
    if step.status is StepStatus.SKIPPED:
        return told
    if step.status is StepStatus.FAILED and step.continued and step.error is not None:
        return {**told, "error": step.error.type}
    planned = step.output.get("digest") if isinstance(step.output, dict) else None
    if step.status is StepStatus.SUCCEEDED and isinstance(planned, str):
        return {**told, "digest": planned}
    return None
