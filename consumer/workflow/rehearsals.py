"""The dry run that an execute command names: whether it counts, as far as the partition's owner knows.

It must lie on the same partition: only that owner knows its state, which is durable and comes with the partition
(decision 0009).
"""

from __future__ import annotations

from datetime import datetime

from schemas.canonical import digest
from schemas.commands import ExecuteCommand
from schemas.events import Rehearsal, Status, StepPlan
from schemas.execution import ExecutionState, StepState
from schemas.failure import Problem
from schemas.scalars import format_duration, format_moment

PATH = "dry_run_id"
_OTHER = "was of another package"
#: Plans that are kept of a dry run stand in the state's head until the run begins, so that they must be few and short.
_MOST_STEPS, _MAX_SUMMARY = 50, 200
_UNKNOWN = (
    "is not known on this partition: it never existed, its retention has passed, or it lies on another one; send the "
    "command under an execution_id that lies where the dry run does, as wpk submit --dry-run-id chooses it"
)


def of(command: ExecuteCommand, known: ExecutionState | None) -> Rehearsal | None:
    """What is known of the dry run that the command names; None where it names none."""
    if command.dry_run_id is None:
        return None
    problem = _why_not(command, known)
    return Rehearsal(
        execution_id=command.dry_run_id,
        problem=problem,
        completed_at=known.completed_at if known is not None and problem is None else None,
        plan_digest=known.plan_digest if known is not None and problem is None else None,
        wpk_digest=known.wpk_digest if known is not None and problem is None and command.wpk_content is None else None,
        plans=_plans(known) if known is not None and problem is None else {},
    )


def _plans(known: ExecutionState) -> dict[str, StepPlan]:
    if len(known.steps) > _MOST_STEPS:
        return {}
    return {name: told(step) for name, step in known.steps.items() if step.output is not None}


def told(step: StepState) -> StepPlan:
    """What a dry run's step tells of itself, short."""
    output = step.output if isinstance(step.output, dict) else {}
    summary, digest_of = output.get("plan"), output.get("digest")
    text = summary if isinstance(summary, str) else step.error.message if step.error else str(step.status)
    return StepPlan(
        summary=text if len(text) <= _MAX_SUMMARY else text[: _MAX_SUMMARY - 1] + "…",
        digest=digest_of if isinstance(digest_of, str) else None,
    )


def _why_not(command: ExecuteCommand, known: ExecutionState | None) -> str | None:
    package = command.wpk_content
    if known is None or known.status is None:
        return _UNKNOWN
    reasons = (
        (not known.dry_run, "was no dry run, but a real one"),
        (known.validate_only, "was no dry run, but a validation only"),
        (not known.over, f"has not ended: it is {known.status}; wait for its end"),
        (known.status is not Status.COMPLETED, f"did not complete: it is {known.status}"),
        (isinstance(package, dict) and digest(package) != known.wpk_digest, _OTHER),
        (
            known.parameters_digest is None,
            "was made by an older agent, which did not note its parameters; make another",
        ),
        (digest({**command.parameters}) != known.parameters_digest, "had other parameters"),
    )
    return next((reason for applies, reason in reasons if applies), None)


def problem(
    rehearsal: Rehearsal | None,
    *,
    wpk_digest: str | None,
    accepted_at: datetime | None,
    within: float | None,
    wanted_by: str,
) -> Problem | None:
    """Why a run may not begin for want of a dry run. `within`: how old it may be (seconds); None: none is wanted."""
    if rehearsal is not None and rehearsal.wpk_digest not in (None, wpk_digest):
        return Problem(path=PATH, message=f"execution {rehearsal.execution_id} {_OTHER}")
    if rehearsal is not None and rehearsal.problem is not None:
        return Problem(path=PATH, message=f"execution {rehearsal.execution_id} {rehearsal.problem}")
    if within is None:
        return None
    if rehearsal is None:
        message = f"{wanted_by} wants a dry run first; make one (wpk plan), and name it: wpk submit --dry-run-id ID"
        return Problem(path=PATH, message=message)
    ended = rehearsal.completed_at
    if ended is None or accepted_at is None or (accepted_at - ended).total_seconds() <= within:
        return None
    message = (
        f"execution {rehearsal.execution_id} ended at {format_moment(ended)}, and {wanted_by} wants a dry run of the "
        f"last {format_duration(within)}; make another"
    )
    return Problem(path=PATH, message=message)
