"""What happens next in an execution that has been prepared: steps to start or to stop, a time to wait for, an end."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from pydantic import JsonValue

from consumer.workflow import answers, attempts, graph, program
from consumer.workflow.program import Program
from schemas import events
from schemas.events import EventData, JsonObject, Status
from schemas.execution import ExecutionState, StepState, StepStatus, completed
from schemas.failure import Failure
from schemas.plan import plan_digest
from schemas.wpk import WorkflowPackage

_BEGUN: dict[StepStatus, graph.Outcome] = {
    StepStatus.RUNNING: "running",
    StepStatus.RETRYING: "running",
    StepStatus.SUCCEEDED: "succeeded",
    StepStatus.FAILED: "failed",
    StepStatus.SKIPPED: "skipped",
    StepStatus.CANCELLED: "cancelled",
}
_WAITING_STATUSES = (Status.PENDING, Status.AWAITING_APPROVAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do now. Where there are drafts, make them durable and decide again; only then act on the rest."""

    drafts: list[EventData] = field(default_factory=list)
    start: tuple[str, ...] = ()
    """Steps whose next attempt may begin."""
    stop: tuple[str, ...] = ()
    """Running steps that are to be stopped."""
    wake_at: datetime | None = None
    """When to decide again even if nothing happens."""
    complete: bool = False
    """The run's steps are all done: `completion` gives the result, with the outputs."""


def advance(state: ExecutionState, package: WorkflowPackage, steps: Program, now: datetime) -> Decision:
    """What is next. `steps` is the program of the phase the state is in. Asking again changes nothing."""
    if state.status in _WAITING_STATUSES:
        return _waiting(state, now)
    if state.status is Status.RUNNING:
        return _running(state, package, steps, now)
    if state.status is Status.ROLLING_BACK:
        return _rolling_back(state, steps, now)
    if state.rollback_follows:  # its announcement became durable without its beginning
        return Decision(drafts=[_rollback_begins(state, package)])
    return Decision()


def overdue(state: ExecutionState, now: datetime) -> list[EventData]:
    """The end of an execution that has not begun and whose deadline has passed; else nothing."""
    if state.deadline is None or now < state.deadline:
        return []
    failure = Failure(type="deadline", message="its deadline passed before it began")
    return [_failed(state, failure, now)]


def _waiting(state: ExecutionState, now: datetime) -> Decision:
    if drafts := overdue(state, now):
        return Decision(drafts=drafts)
    expires = state.approval_expires_at if state.status is Status.AWAITING_APPROVAL else state.approved_until
    if expires is not None and now >= expires:
        return Decision(drafts=[answers.approval_expired(state, now)])
    return Decision(wake_at=_earliest(state.deadline, expires))


def _running(state: ExecutionState, package: WorkflowPackage, steps: Program, now: datetime) -> Decision:
    stopping = attempts.stopping(state, "run")
    if not stopping and all(step.status.settled for step in state.steps.values()):
        return Decision(complete=True)
    if state.cancel is None and state.deadline is not None and now >= state.deadline:
        return Decision(drafts=[events.ExecutionCancelling(cause="deadline", reason="its deadline passed")])
    running = tuple(name for name, step in state.steps.items() if step.status is StepStatus.RUNNING)
    if stopping:
        cancelled = _cancel_retrying(state.steps, "the execution is being stopped", dry_run=state.dry_run)
        if cancelled:
            return Decision(drafts=cancelled)
        if running:
            stop = running if state.cancel is not None else ()
            return Decision(stop=stop, wake_at=state.deadline if state.cancel is None else None)
        return Decision(drafts=_end(state, package, now))
    return _next_steps(state, state.steps, steps, now, state.deadline)


def _rolling_back(state: ExecutionState, steps: Program, now: datetime) -> Decision:
    known = state.rollback_steps
    dry = attempts.is_dry(state, "rollback")
    failed = [step for step in known.values() if step.status is StepStatus.FAILED]
    stopped = any(not step.continued for step in failed)
    if stopped:
        cancelled = _cancel_retrying(known, "the rollback is being stopped", dry_run=dry)
        if cancelled:
            return Decision(drafts=cancelled)
        if any(step.status is StepStatus.RUNNING for step in known.values()):
            return Decision()
    elif not all(step.status.settled for step in known.values()):
        return _next_steps(state, known, steps, now, None)
    fields = answers.result_fields(state, now)
    outcome = {"dry_run": dry, "outputs": state.outputs}
    # Where there is nothing but undo records, every one that could not be applied leaves something changed.
    bad = failed if steps.mode == "compensation" else [step for step in failed if not step.continued]
    if not bad:
        told = {"error": state.error, "error_message": state.error_message}
        digest = plan_digest(state, "rollback") if dry else None
        return Decision(drafts=[events.ExecutionRolledBack(**fields, **outcome, **told, plan_digest=digest)])
    first = bad[0].error or Failure(type="rollback_failed", message="a step of the rollback failed")
    failure = Failure(type=first.type, message=f"the rollback could not finish: {first.message}", step=bad[0].step)
    return Decision(
        drafts=[events.ExecutionRollbackFailed(**fields, **outcome, error=failure, error_message=failure.sentence)]
    )


def _cancel_retrying(known: dict[str, StepState], reason: str, *, dry_run: bool) -> list[EventData]:
    return [
        events.StepCancelled(
            step=step.step,
            adapter=step.adapter,
            phase=step.phase,
            attempt=step.attempt,
            started_at=step.started_at,
            duration=step.duration,
            reason=reason,
            dry_run=dry_run,
        )
        for step in known.values()
        if step.status is StepStatus.RETRYING
    ]


def _next_steps(
    state: ExecutionState, known: dict[str, StepState], steps: Program, now: datetime, deadline: datetime | None
) -> Decision:
    follows = steps.graph.ready({name: _BEGUN[step.status] for name, step in known.items() if step.status in _BEGUN})
    if follows.skip:
        drafts: list[EventData] = []
        for skip in follows.skip:
            lost = known.get(skip.need)
            reason = f"it needs {skip.need}, which {_fate(lost)}"
            drafts += attempts.skip(state, steps.handlers[skip.name], steps.phase, reason)
        return Decision(drafts=drafts)
    retrying = [step for step in known.values() if step.status is StepStatus.RETRYING]
    due = [step.step for step in retrying if step.retry_at is None or now >= step.retry_at]
    later = [step.retry_at for step in retrying if step.step not in due]
    return Decision(start=(*due, *follows.start), wake_at=_earliest(deadline, *later))


def _fate(step: StepState | None) -> str:
    if step is None or step.status is StepStatus.PENDING:
        return "is skipped too"
    return {StepStatus.SKIPPED: "was skipped", StepStatus.CANCELLED: "was cancelled"}.get(step.status, "failed")


def completion(state: ExecutionState, outputs: JsonObject, now: datetime) -> events.ExecutionCompleted:
    """The result of a run whose steps are all done."""
    digest = plan_digest(state) if state.dry_run else None
    return events.ExecutionCompleted(**answers.result_fields(state, now), outputs=outputs, plan_digest=digest)


def _end(state: ExecutionState, package: WorkflowPackage, now: datetime) -> list[EventData]:
    """The run ends without being complete; its rollback begins in the same moment where there is one."""
    cancel = state.cancel
    forced = cancel is not None and cancel.cause == "rollback"
    means = program.can_undo(package, state)
    follows = (forced and means) or program.rolls_back_by_itself(package, state)
    drafts: list[EventData] = []
    if cancel is not None and cancel.cause != "deadline":
        by = f" by {cancel.requested_by}" if cancel.requested_by else ""
        message = f"cancelled{by}" + (f": {cancel.reason}" if cancel.reason else "")
        if forced and not means:
            message += "; nothing is undone: it left no undo records and its package has no rollback handlers"
        failure = Failure(type="cancelled", message=message)
        drafts.append(
            events.ExecutionCancelled(
                **answers.result_fields(state, now),
                cancelled_by=cancel.requested_by,
                reason=cancel.reason,
                error=failure,
                error_message=failure.message,
                rollback_follows=follows,
            )
        )
    else:
        drafts.append(_failed(state, _cause(state), now, follows=follows))
    if follows:
        drafts.append(_rollback_begins(state, package))
    return drafts


def _rollback_begins(state: ExecutionState, package: WorkflowPackage) -> EventData:
    cancel = state.cancel
    if cancel is None or cancel.cause != "rollback":
        return answers.rolling_back(state, package, trigger="automatic")
    return answers.rolling_back(
        state, package, trigger="command", requested_by=cancel.requested_by, reason=cancel.reason
    )


def _cause(state: ExecutionState) -> Failure:
    if state.cancel is not None:
        return Failure(type="deadline", message="its deadline passed while it ran")
    first = next(s for s in state.steps.values() if s.status is StepStatus.FAILED and not s.continued)
    error = first.error or Failure(type="failed", message="it failed")
    return error.model_copy(update={"step": first.step})


def _failed(state: ExecutionState, failure: Failure, now: datetime, *, follows: bool = False) -> events.ExecutionFailed:
    return events.ExecutionFailed(
        **answers.result_fields(state, now), error=failure, error_message=failure.sentence, rollback_follows=follows
    )


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)


def progress(draft: EventData, state: ExecutionState) -> dict[str, JsonValue]:
    """The counts that a status line shows, as they are after the event; they replace the draft's own."""
    if isinstance(draft, events.StepEvent):
        known = state.phase_steps(draft.phase)
        done = completed(known)
        if isinstance(draft, events.StepSucceeded | events.StepSkipped) or (
            isinstance(draft, events.StepFailed) and draft.continued
        ):
            done += 1
        return {"total_steps": len(known), "steps_completed": done}
    if isinstance(draft, events.ExecutionEvent) and not isinstance(
        draft, events.ExecutionStarted | events.ExecutionRollingBack | events.ExecutionResult
    ):
        return {
            "total_steps": max(state.total_steps, draft.total_steps),
            "steps_completed": state.steps_completed,
            "current_step": state.current_step,
        }
    return {}
