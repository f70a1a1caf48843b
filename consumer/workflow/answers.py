"""What a command leads to, given the state of the execution that it names: the events that answer it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import JsonValue

from consumer.workflow import approvals, program
from consumer.workflow.approvals import Quorum
from schemas import events
from schemas.canonical import digest
from schemas.commands import Command, CommandKind, ControlCommand, ExecuteCommand, RollbackCommand
from schemas.events import EventData, Source, Status
from schemas.execution import Approval, ExecutionState
from schemas.failure import Failure, Problem
from schemas.wpk import WorkflowPackage

Drafts = list[EventData]
#: What is told of problems must fit into a record, several times: so many of them, so many characters in all.
MAX_PROBLEMS, MAX_PROBLEM_TEXT = 100, 60_000
_MAX_PATH, _MAX_MESSAGE, _MAX_NAME = 300, 1000, 128


def execute(
    state: ExecutionState | None,
    command: ExecuteCommand,
    *,
    source: Source,
    now: datetime,
    traceparent: str | None = None,
) -> Drafts:
    """Accepted; or a duplicate (same id, same content); or refused (same id, other content)."""
    wanted = command.content_digest()
    if state is None or state.status is None:
        return [_accepted(command, wanted, source, now, traceparent)]
    if state.command_digest == wanted:
        return [
            events.CommandDuplicate(
                command="execute", status=state.status, requested_by=command.requested_by, source=source
            )
        ]
    before = "was already accepted with other content and" if state.command_digest else "was refused before:"
    message = (
        f"execution {state.execution_id} {before} is {state.status}; "
        "an id names one request for ever: send this one under a new execution_id"
    )
    return refuse(state, Asked.of(command), [Problem(path="execution_id", message=message)], source=source, now=now)


def _accepted(
    command: ExecuteCommand, wanted: str, source: Source, now: datetime, traceparent: str | None
) -> events.ExecutionAccepted:
    package = command.wpk_content if isinstance(command.wpk_content, dict) else None
    name, version = package_names(package)
    workflow_id = command.workflow_id or (f"{name}-{version or '0.0.0'}" if name else None)
    name = name or (workflow_id or "").rpartition("-")[0] or None
    limits = [command.deadline] if command.deadline else []
    if command.timeout is not None:
        limits.append(now + timedelta(seconds=command.timeout))
    return events.ExecutionAccepted(
        workflow_id=workflow_id,
        workflow_name=name,
        dry_run=command.dry_run,
        command=command.model_dump(mode="json", exclude_none=True),
        command_digest=wanted,
        wpk_digest=digest(package) if package is not None else None,
        requested_by=command.requested_by,
        labels=command.labels,
        deadline=min(limits) if limits else None,
        source=source,
        traceparent=traceparent,
    )


def package_names(package: dict[str, JsonValue] | None) -> tuple[str | None, str | None]:
    """The workflow's name and version in a package that need not be valid."""
    metadata = package.get("metadata") if package else None
    found = metadata if isinstance(metadata, dict) else {}
    name, version = found.get("name"), found.get("version")
    return (
        name[:_MAX_NAME] if isinstance(name, str) else None,
        version[:_MAX_NAME] if isinstance(version, str) else None,
    )


def bounded(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """The problems as they can be told: not too many, none too long, and how many more there are."""
    kept: list[Problem] = []
    left = MAX_PROBLEM_TEXT
    for problem in problems[:MAX_PROBLEMS]:
        short = problem.model_copy(
            update={"path": _cut(problem.path, _MAX_PATH), "message": _cut(problem.message, _MAX_MESSAGE)}
        )
        left -= len(short.path) + len(short.message)
        if left < 0:
            break
        kept.append(short)
    more = len(problems) - len(kept)
    if more:
        severity = "error" if any(problem.severity == "error" for problem in problems[len(kept) :]) else "warning"
        kept.append(Problem(path="", message=f"and {more} more", severity=severity))
    return tuple(kept)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A command that is to be refused, as far as it is known."""

    kind: CommandKind
    action: str | None = None
    requested_by: str | None = None
    workflow_id: str | None = None

    @classmethod
    def of(cls, command: Command) -> Asked:
        """What is said of a valid command."""
        return cls(
            kind=command.kind,
            action=command.action if isinstance(command, ControlCommand) else None,
            requested_by=command.requested_by,
            workflow_id=command.workflow_id if isinstance(command, ExecuteCommand) else None,
        )


def refuse(
    state: ExecutionState | None,
    asked: Asked,
    problems: Sequence[Problem],
    *,
    source: Source,
    now: datetime,
    code: str = "rejected",
) -> Drafts:
    """The command is not carried out, and why; with a result, so that whoever waits for one gets it.

    Where the id was unknown and the command an execute, this is the execution's own end. Else the result names the
    command that it answers, and the execution stands as it was.
    """
    own_end = asked.kind == "execute" and (state is None or state.status is None)
    errors = bounded(problems)
    return [
        events.CommandRejected(
            workflow_id=asked.workflow_id,
            command=asked.kind,
            action=asked.action,
            errors=errors,
            requested_by=asked.requested_by,
            source=source,
        ),
        rejection(
            state,
            errors,
            now=now,
            command=None if own_end else asked.kind,
            requested_by=asked.requested_by,
            code=code,
        ),
    ]


def rejection(
    state: ExecutionState | None,
    errors: Sequence[Problem],
    *,
    now: datetime,
    command: CommandKind | None = None,
    requested_by: str | None = None,
    code: str = "rejected",
    source: Source | None = None,
) -> events.ExecutionRejected:
    """The result with status `rejected`."""
    errors = bounded(errors)
    message = _cut("; ".join(str(error) for error in errors), 4 * _MAX_MESSAGE)
    return events.ExecutionRejected(
        workflow_name=state.workflow_name if state else None,
        completed_at=now,
        error=Failure(type=code, message=message),
        error_message=message,
        errors=errors,
        command=command,
        requested_by=requested_by or (state.requested_by if state else None),
        approved_by=state.approved_by if state else None,
        wpk_digest=state.wpk_digest if state else None,
        source=source,
    )


def _unknown(execution_id: str) -> Problem:
    return Problem(
        path="execution_id",
        message=f"execution {execution_id} is not known on this partition: it never existed, its retention has passed, "
        "its execute command still waits for an agent that has room, or went to another partition than this one "
        "(use the execution_id as key and murmur2, the Java client's default partitioner)",
    )


def control(
    state: ExecutionState | None,
    command: ControlCommand,
    *,
    source: Source,
    now: datetime,
    quorums: Sequence[Quorum] = approvals.ANYBODY,
) -> Drafts:
    """Approve, reject or cancel. `quorums`: whose approvals the run needs."""
    if state is None or state.status is None:
        return refuse(state, Asked.of(command), [_unknown(command.execution_id)], source=source, now=now)
    match command.action:
        case "approve":
            answer = _approve(state, command, source, now, quorums)
        case "reject":
            answer = _reject(state, command, source, now)
        case "cancel":
            answer = _cancel(state, command, source, now)
    if isinstance(answer, str):
        return refuse(state, Asked.of(command), [Problem(path="action", message=answer)], source=source, now=now)
    return answer


def _approve(
    state: ExecutionState, command: ControlCommand, source: Source, now: datetime, quorums: Sequence[Quorum]
) -> Drafts | str:
    who, key = command.requested_by, source.signed_by
    if state.approved_by is not None or any(given.is_of(who, key) for given in state.approvals):
        return [duplicate(state, command, source)]
    if state.status is not Status.AWAITING_APPROVAL:
        return f"execution {state.execution_id} is {state.status}, it does not wait for an approval"
    refused = approvals.refusal(state, command, source)
    if refused is not None or who is None:
        return refused or "an approval must say by whom it is"
    if state.approval_expires_at is not None and now >= state.approval_expires_at:
        return "the time for an approval is over"
    given = (*state.approvals, Approval(by=who, key=key, plan_digest=command.digest))
    missing = approvals.missing(quorums, given)
    if missing is not None:
        return [
            events.ExecutionApprovalGiven(
                approved_by=who, reason=command.reason, plan_digest=command.digest, missing=missing, source=source
            )
        ]
    return [events.ExecutionApproved(approved_by=who, reason=command.reason, plan_digest=command.digest, source=source)]


def approval_expired(state: ExecutionState, now: datetime) -> events.ExecutionRejected:
    """The end of an execution whose approvals did not come in time, or that did not begin while they counted."""
    message = "nobody approved it in time"
    if state.approved_by is not None:
        message = f"it was approved by {state.approved_by}, but did not begin within the time for which that counts"
    elif state.approvals:
        given = ", ".join(each.by for each in state.approvals)
        message = f"too few approved it in time: {given} did, and {state.approvals_missing}"
    problem = Problem(path="approval", message=f"{message}; submit it again under a new id")
    return rejection(state, [problem], now=now, code="approval_expired")


def duplicate(state: ExecutionState, command: ControlCommand, source: Source) -> events.CommandDuplicate:
    """The command was answered before."""
    return events.CommandDuplicate(
        command="control",
        action=command.action,
        status=state.status,
        requested_by=command.requested_by,
        source=source,
    )


def _reject(state: ExecutionState, command: ControlCommand, source: Source, now: datetime) -> Drafts | str:
    if state.status is Status.REJECTED and state.error is not None and state.error.type == "approval_rejected":
        return [duplicate(state, command, source)]
    if state.status is not Status.AWAITING_APPROVAL:
        return f"execution {state.execution_id} is {state.status}, it does not wait for an approval"
    who = command.requested_by or "somebody who gave no name"
    why = f": {command.reason}" if command.reason else ""
    problem = Problem(path="approval", message=f"rejected by {who}{why}")
    return [rejection(state, [problem], now=now, code="approval_rejected", source=source)]


def _cancel(state: ExecutionState, command: ControlCommand, source: Source, now: datetime) -> Drafts | str:
    if state.cancel is not None and not state.over:
        return [duplicate(state, command, source)]
    if state.status in (Status.PENDING, Status.AWAITING_APPROVAL):
        return [cancelled_unbegun(state, command.requested_by, command.reason, now, source)]
    if state.status is Status.RUNNING:
        return [
            events.ExecutionCancelling(
                cause="command", requested_by=command.requested_by, reason=command.reason, source=source
            )
        ]
    if state.status is Status.ROLLING_BACK or state.rollback_follows:
        return "the rollback runs; it can't be cancelled, or the target would stay half changed"
    return f"execution {state.execution_id} has ended: it is {state.status}"


def cancelled_unbegun(
    state: ExecutionState, requested_by: str | None, reason: str | None, now: datetime, source: Source | None = None
) -> events.ExecutionCancelled:
    """The end of an execution that was cancelled before it began; with `source` it answers the cancel there."""
    return events.ExecutionCancelled(
        **result_fields(state, now),
        cancelled_by=requested_by,
        reason=reason,
        source=source,
        error=Failure(type="cancelled", message="cancelled before it began"),
        error_message="cancelled before it began",
    )


def rollback(
    state: ExecutionState | None,
    command: RollbackCommand,
    package: WorkflowPackage | None,
    *,
    source: Source,
    now: datetime,
) -> Drafts:
    """Undo what ended; with `force` also what runs."""
    if state is None or state.status is None:
        return refuse(state, Asked.of(command), [_unknown(command.execution_id)], source=source, now=now)
    reason = _why_not(state, command, package)
    if reason is not None or package is None:
        problem = Problem(path="execution_id", message=reason or "its package can't be read")
        return refuse(state, Asked.of(command), [problem], source=source, now=now)
    if state.status is Status.RUNNING:
        return [
            events.ExecutionCancelling(
                cause="rollback",
                requested_by=command.requested_by,
                reason=command.reason,
                source=source,
            )
        ]
    return [
        rolling_back(
            state,
            package,
            trigger="command",
            requested_by=command.requested_by,
            reason=command.reason,
            dry_run=command.dry_run,
            source=source,
        )
    ]


def _why_not(state: ExecutionState, command: RollbackCommand, package: WorkflowPackage | None) -> str | None:
    name, status = f"execution {state.execution_id}", state.status
    spec = package.spec if package else None
    means = package is not None and program.can_undo(package, state)
    asked = state.cancel is not None and state.cancel.cause == "rollback" and status is Status.RUNNING
    unstarted = (Status.PENDING, Status.AWAITING_APPROVAL, Status.REJECTED)
    reasons = (
        (
            state.dry_run or state.validate_only,
            f"{name} was a dry run: it changed nothing, so there is nothing to undo",
        ),
        (status is Status.ROLLING_BACK or state.rollback_follows or asked, f"{name} is being rolled back already"),
        (status is Status.ROLLED_BACK, f"{name} was rolled back already"),
        (status in unstarted, f"{name} is {status}: nothing of it ran, so there is nothing to undo"),
        (
            status is Status.ROLLBACK_FAILED and not command.force,
            f"the rollback of {name} failed; to try it again send the command with force",
        ),
        (
            status is Status.RUNNING and not command.force,
            f"{name} still runs; cancel it first, or send the command with force, which cancels it",
        ),
        (
            status is Status.RUNNING and command.dry_run,
            f"{name} still runs, and a dry run may not cancel it; cancel it first",
        ),
        (
            spec is not None and not spec.safety.rollback_enabled and not command.force,
            "the package forbids it (spec.safety.rollback_enabled is false); force overrides that",
        ),
        (
            status is not Status.RUNNING and not means,
            f"{name} left no undo records and its package has no rollback handlers: there is nothing to undo with",
        ),
    )
    return next((reason for applies, reason in reasons if applies), None)


def rolling_back(
    state: ExecutionState,
    package: WorkflowPackage,
    *,
    trigger: str,
    requested_by: str | None = None,
    reason: str | None = None,
    dry_run: bool = False,
    source: Source | None = None,
) -> events.ExecutionRollingBack:
    """The event that begins a rollback."""
    how = program.rollback_program(package, state)
    return events.ExecutionRollingBack(
        trigger="command" if trigger == "command" else "automatic",
        mode=how.mode,
        steps=how.planned(),
        total_steps=len(how.handlers),
        requested_by=requested_by,
        reason=reason,
        dry_run=dry_run,
        source=source,
    )


def result_fields(state: ExecutionState, now: datetime) -> dict[str, object]:
    """What every result says of the execution."""
    begin = state.started_at or state.accepted_at
    reports = tuple(
        events.StepReport(
            step=step.step,
            phase=step.phase,
            adapter=step.adapter,
            status=step.status,
            attempts=step.attempt,
            duration=step.duration,
            error=step.error,
        )
        for steps in (state.steps, state.rollback_steps)
        for step in steps.values()
    )
    return {
        "workflow_name": state.workflow_name,
        "started_at": state.started_at,
        "completed_at": max(now, begin) if begin else now,
        "duration": max(0.0, round((now - begin).total_seconds(), 3)) if begin else None,
        "steps": reports,
        "wpk_digest": state.wpk_digest,
        "alerts": state.alerts or None,
        "requested_by": state.requested_by,
        "approved_by": state.approved_by,
        "total_steps": state.total_steps,
        "steps_completed": state.steps_completed,
    }
