"""From an accepted command to an execution that may run: the package is read and checked, an approval asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import orjson
from pydantic import JsonValue, ValidationError

from consumer.engine import alerts, permits, senders
from consumer.engine.execution import Execution
from consumer.engine.looked import Question
from consumer.engine.permits import Permit
from consumer.engine.preflight import preflight
from consumer.engine.services import Services
from consumer.policy import steering
from consumer.policy.judge import Policy
from consumer.ports import JsonObject
from consumer.workflow import answers, approvals, checks, limits, program, rehearsals
from consumer.workflow.checks import Checked
from schemas import events
from schemas.events import EventData, Status
from schemas.execution import ExecutionState
from schemas.failure import Problem
from schemas.wpk import WorkflowPackage

#: A larger package is checked in a thread: its check takes longer than other executions should wait (bytes).
_INLINE = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a run needs of its command."""

    package: WorkflowPackage
    parameters: JsonObject
    permit: Permit
    policy: Policy
    """By which it was judged."""
    warnings: tuple[Problem, ...] = ()


async def prepare(execution: Execution, services: Services) -> Prepared | None:
    """Stages what follows from the check: the start, the wait for an approval, or the end (then there is no result).

    An execution that was already running is only read again: it was checked when it began.
    """
    state = execution.state
    if _ended(execution):  # cancelled before its task ran: its package was never checked, and may be none
        return None
    if state.status in (Status.PENDING, Status.AWAITING_APPROVAL):
        document = await _check(state, services)
        if _ended(execution):  # cancelled meanwhile
            return None
        while True:
            policy = services.policy
            checked, permit = await _judged(execution, document, services)
            if policy is services.policy:  # else its file changed meanwhile: who judges is who is in force
                break
        if _ended(execution):
            return None
        drafts = decide(execution.state, checked, permit, execution, services)
        execution.stage(*senders.with_policy(drafts, services))
        if checked.package is None or permit is None or _ended(execution):
            return None
        warnings = (*checked.warnings, *permit.warnings)
        return Prepared(
            package=checked.package, parameters=checked.parameters, permit=permit, policy=policy, warnings=warnings
        )
    try:
        package = package_of(state)
    except (ValidationError, ValueError) as error:
        raise RuntimeError(f"the package of {state.execution_id} can't be read again: {error}") from error
    parameters = checks.with_defaults(package, _parameters(state))[0]
    permit = await _permit(state, package, parameters, services)  # that it may run was decided: each step is judged
    return Prepared(package=package, parameters=parameters, permit=permit, policy=services.policy)


async def _judged(execution: Execution, checked: Checked, services: Services) -> tuple[Checked, Permit | None]:
    """The policy's answer to a package that is in order, and what a run that may begin lacks in rights."""
    state = execution.state
    if checked.package is None or checked.errors:
        return checked, None
    permit = await _permit(state, checked.package, checked.parameters, services)
    if not permit.problems:
        checked = _within(checked, permit, services)
    if not permit.problems and state.status is Status.PENDING and not _ended(execution):
        checked = await preflight(state, checked, services)
    if checked.package is not None and checked.package.spec.monitoring.alerts:
        permit = await alerts.planned(state, checked, permit, services)
    return checked, permit


def _within(checked: Checked, permit: Permit, services: Services) -> Checked:
    """With what the steps reach beyond the limits that the policy sets besides the package's own."""
    package = checked.package
    if package is None or permit.limits == package.spec.validation.resource_limits:
        return checked
    names = [handler.name for handler in (*package.spec.handlers, *package.spec.rollback.handlers)]
    scope = checks.scope_before(package, checked.parameters, names, services.environment)
    found = limits.exceeded(package, permit.limits, services.adapters, scope)
    return replace(checked, problems=(*checked.problems, *found))


def _ended(execution: Execution) -> bool:
    return execution.state.over


def package_of(state: ExecutionState) -> WorkflowPackage:
    """The package of an accepted execution. Raises ValueError where it is none."""
    return WorkflowPackage.model_validate((state.command or {}).get("wpk_content"))


def _parameters(state: ExecutionState) -> JsonObject:
    given = (state.command or {}).get("parameters")
    return given if isinstance(given, dict) else {}


async def _check(state: ExecutionState, services: Services) -> Checked:
    command = state.command or {}
    content = command.get("wpk_content")

    def check() -> Checked:
        return checks.check_package(
            content,
            _parameters(state),
            services.adapters,
            environment=services.environment,
            workflow_id=state.workflow_id,
        )

    written = orjson.dumps(content)
    if len(written) > _INLINE:
        return await asyncio.to_thread(check)
    question = Question.of(written, _parameters(state), state.workflow_id)
    known = services.looked.get(question) if question else None
    if known is None:
        known = check()
        if question is not None:
            services.looked.put(question, known)
    return known


async def _permit(
    state: ExecutionState, package: WorkflowPackage, parameters: JsonObject, services: Services
) -> Permit:
    if _is_large((state.command or {}).get("wpk_content")):
        return await asyncio.to_thread(permits.of_run, state, package, parameters, services)
    return permits.of_run(state, package, parameters, services)


def _is_large(content: JsonValue) -> bool:
    return len(orjson.dumps(content)) > _INLINE


def decide(
    state: ExecutionState, checked: Checked, permit: Permit | None, execution: Execution, services: Services
) -> list[EventData]:
    """What the check and the policy's answer lead to."""
    now = execution.now()
    if checked.package is None or checked.errors or permit is None:
        return _refused(state, checked.errors, now, code="invalid")
    forbidden = [*permit.problems, *_unrehearsed(state, permit)]
    if forbidden:
        return _refused(state, forbidden, now, code="forbidden")
    if state.validate_only:
        fields = answers.result_fields(state, now)
        fields["total_steps"] = len(checked.package.spec.handlers)
        warnings = answers.bounded((*checked.warnings, *permit.warnings))
        return [events.ExecutionCompleted(**fields, validate_only=True, warnings=warnings)]
    if _must_wait(state, checked.package, permit):
        return _waiting(state, checked.package, permit, now, services)
    if ended := _approved_no_more(state, permit, services.policy, now):
        return ended
    # An approved plan is made again before it begins, by the runner.
    return [start(checked.package, permit, (*checked.warnings, *permit.warnings))] if not state.approved_plan else []


def _approved_no_more(state: ExecutionState, permit: Permit, policy: Policy, now: datetime) -> list[EventData]:
    """The end of what was approved, where that is too little by the policy of now, or too long ago."""
    people = [(given.by, given.key) for given in state.approvals]
    missing = approvals.missing(steering.quorums(policy, permit.run, people), state.approvals) if people else None
    if missing is not None and state.approved_by is not None:
        message = f"it was approved by {state.approved_by}, but by the policy of now {missing}"
        problem = Problem(path="approval", message=f"{message}; submit it under a new id")
        return _refused(state, [problem], now, code="forbidden")
    if state.approved_until is not None and now >= state.approved_until:
        return [answers.approval_expired(state, now)]
    return []


def _unrehearsed(state: ExecutionState, permit: Permit) -> list[Problem]:
    """What is wrong with the dry run that the run has named, or needs."""
    first = None if state.validate_only else permit.dry_run_first
    problem = rehearsals.problem(
        state.rehearsal,
        wpk_digest=state.wpk_digest,
        accepted_at=state.accepted_at,
        within=first.within if first else None,
        wanted_by=first.wanted_by if first else "",
    )
    return [problem] if problem is not None else []


def _waiting(
    state: ExecutionState, package: WorkflowPackage, permit: Permit, now: datetime, services: Services
) -> list[EventData]:
    if state.status is Status.AWAITING_APPROVAL:
        return []
    claim = (state.command or {}).get("approved_by")
    note = f"approved_by={claim} in the command is no approval; an approve command is" if claim else None
    policy, longest = services.policy, services.limits.approval_timeout
    return [
        events.ExecutionAwaitingApproval(
            expires_at=now + timedelta(seconds=steering.patience(policy, permit.run, longest)),
            note=note,
            missing=approvals.missing(steering.quorums(policy, permit.run, ()), ()),
            total_steps=len(package.spec.handlers),
        )
    ]


def _refused(state: ExecutionState, problems: Sequence[Problem], now: datetime, *, code: str) -> list[EventData]:
    errors = answers.bounded(problems)
    return [
        events.CommandRejected(command="execute", errors=errors, requested_by=state.requested_by),
        answers.rejection(state, errors, now=now, code=code),
    ]


def start(package: WorkflowPackage, permit: Permit, warnings: tuple[Problem, ...] = ()) -> events.ExecutionStarted:
    """The event that begins the run."""
    steps = program.run_program(package).planned()
    return events.ExecutionStarted(
        steps=steps,
        total_steps=len(steps),
        warnings=answers.bounded(warnings),
        permission=permit.permission,
        alerts=permit.alerts or None,
    )


def _must_wait(state: ExecutionState, package: WorkflowPackage, permit: Permit) -> bool:
    asked = package.spec.safety.approval_required or permit.must_wait
    return asked and not state.dry_run and state.approved_by is None
