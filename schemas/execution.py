"""The state of an execution, and the one fold over its events.

The agent's recovery, the client, `wpk status`, `wpk watch`, the audit replay and the tests all use `apply`. It is pure:
no clock, no I/O. States are frozen and share what did not change, so that `snapshot` sees by identity what did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from schemas import events
from schemas.canonical import digest
from schemas.events import Data, JsonObject, Phase, PlannedStep, Status
from schemas.evolve import evolve
from schemas.failure import Failure
from schemas.scalars import Moment


class StepStatus(StrEnum):
    """Where a step stands."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"

    @property
    def settled(self) -> bool:
        """Whether the step has its end."""
        return self not in _UNSETTLED


_UNSETTLED = frozenset({StepStatus.PENDING, StepStatus.RUNNING, StepStatus.RETRYING})


class StepState(BaseModel):
    """One step in one phase."""

    model_config = ConfigDict(frozen=True)

    step: str
    adapter: str
    phase: Phase = "run"
    needs: tuple[str, ...] = ()
    status: StepStatus = StepStatus.PENDING
    attempt: int = 0
    started_at: Moment | None = None
    """When the present (or last) attempt first began."""
    duration: float | None = None
    retry_at: Moment | None = None
    error: Failure | None = None
    continued: bool = False
    output: JsonValue = None
    captured: str | None = None
    """The summary of the undo record."""
    interruptions: int = 0
    """How many owners were lost, and did not hand over in order, while they made the present attempt."""
    in_doubt: bool = False
    """Found without an end by a new owner, and not begun again since: a loss of that owner interrupts nothing."""

    def found(self, *, handed_over: bool) -> StepState:
        """The step as a new owner finds it, when it has no end."""
        count = 0 if handed_over or self.in_doubt else 1
        return self.model_copy(update={"interruptions": self.interruptions + count, "in_doubt": True})


class Cancel(BaseModel):
    """A cancellation that was asked for."""

    model_config = ConfigDict(frozen=True)

    cause: events.CancelCause
    requested_by: str | None = None
    reason: str | None = None


class RollbackState(BaseModel):
    """The rollback that runs or ran last."""

    model_config = ConfigDict(frozen=True)

    trigger: str
    mode: str
    requested_by: str | None = None
    reason: str | None = None
    dry_run: bool = False
    previous: Status
    started_at: Moment


class Approval(BaseModel):
    """Of one person."""

    model_config = ConfigDict(frozen=True)

    by: str
    key: str | None = None
    """The policy's key that signed it."""
    plan_digest: str | None = None

    def is_of(self, name: str | None, key: str | None) -> bool:
        """Whether that is the same person: by name, or by the key, under whatever name."""
        return self.by.casefold() == (name or "").casefold() or (key is not None and key == self.key)


class ExecutionState(BaseModel):
    """All that is known of an execution."""

    model_config = ConfigDict(frozen=True)

    execution_id: str
    workflow_id: str | None = None
    workflow_name: str | None = None
    status: Status | None = None
    """None: no execute command was accepted; the id is known only from commands that were refused."""
    seq: int = 0
    last_hash: str = ""
    epoch: int = 0
    dry_run: bool = False
    validate_only: bool = False
    command: JsonObject | None = None
    command_digest: str | None = None
    parameters_digest: str | None = None
    """Of a dry run: over its parameters, for those who name it as theirs."""
    rehearsal: events.Rehearsal | None = None
    """The dry run that the command names."""
    wpk_digest: str | None = None
    requested_by: str | None = None
    command_key: str | None = None
    """The name of the policy's key that signed the execute command."""
    approved_by: str | None = None
    approval_expires_at: Moment | None = None
    approvals: tuple[Approval, ...] = ()
    """Those that were given, in their order."""
    approvals_missing: str | None = None
    """Whose are waited for, in words."""
    approved_until: Moment | None = None
    """An approved run begins by then or not at all."""
    labels: dict[str, str] = Field(default_factory=dict)
    deadline: Moment | None = None
    traceparent: str | None = None
    accepted_at: Moment | None = None
    started_at: Moment | None = None
    completed_at: Moment | None = None
    updated_at: Moment | None = None
    total_steps: int = 0
    alerts: tuple[events.PlannedAlert, ...] = ()
    steps: dict[str, StepState] = Field(default_factory=dict)
    rollback_steps: dict[str, StepState] = Field(default_factory=dict)
    cancel: Cancel | None = None
    rollback: RollbackState | None = None
    rollback_follows: bool = False
    outputs: JsonObject = Field(default_factory=dict)
    error: Failure | None = None
    plan_digest: str | None = None
    """Of a dry run that planned every step: the digest over the whole plan (`schemas.plan`)."""
    undo: dict[str, JsonObject] = Field(default_factory=dict)
    """Undo records by step, in the order in which they were captured; only the agent's state has them."""
    handing_over: bool = False
    """The owner may let go in order from here on: its agent stops, or the group is rebalanced. Only the agent's state
    has it. A crash leaves no such note, which is how the next owner tells the two apart."""

    @property
    def steps_completed(self) -> int:
        """How many steps of the run are done: succeeded, skipped, or failed where the package goes on."""
        return completed(self.steps)

    @property
    def current_step(self) -> str | None:
        """The first step that runs or waits for its next attempt."""
        steps = self.rollback_steps if self.status is Status.ROLLING_BACK else self.steps
        active = (StepStatus.RUNNING, StepStatus.RETRYING)
        return next((name for name, step in steps.items() if step.status in active), None)

    @property
    def error_message(self) -> str | None:
        """The failure in a sentence."""
        return self.error.sentence if self.error else None

    @property
    def approved_plan(self) -> str | None:
        """The digest of the plan that was approved, where an approval names one."""
        return next((given.plan_digest for given in self.approvals if given.plan_digest is not None), None)

    @property
    def over(self) -> bool:
        """Whether the execution has ended and no announced rollback is to come."""
        return self.status is not None and self.status.ended and not self.rollback_follows

    def phase_steps(self, phase: Phase) -> dict[str, StepState]:
        """The steps of that phase."""
        return self.steps if phase == "run" else self.rollback_steps


def completed(steps: Mapping[str, StepState]) -> int:
    """How many of the steps are done without stopping the run."""
    done = (StepStatus.SUCCEEDED, StepStatus.SKIPPED)
    return sum(step.status in done or step.continued for step in steps.values())


def apply(state: ExecutionState | None, event: events.Event) -> ExecutionState:
    """The state after the event. An event that is not the next in sequence changes nothing."""
    return fold(state, event.data, event.time)


def fold(state: ExecutionState | None, data: events.EventData, time: datetime) -> ExecutionState:
    """See `apply`."""
    if state is None:
        state = ExecutionState(execution_id=data.execution_id, workflow_id=data.workflow_id)
    if data.seq != state.seq + 1 or data.attempt_epoch < state.epoch:
        return state
    update: dict[str, object] = {
        "seq": data.seq,
        "last_hash": data.hash,
        "epoch": data.attempt_epoch,
        "updated_at": time,
    }
    reducer = _REDUCERS.get(type(data))
    if reducer is not None:
        update.update(reducer(state, data, time))
    return evolve(state, update)


def with_undo(state: ExecutionState, step: str, record: JsonObject) -> ExecutionState:
    """The state with a step's undo record; the first one stands: it holds what was before the step changed anything."""
    if step in state.undo:
        return state
    return state.model_copy(update={"undo": {**state.undo, step: record}})


# --- one function for each type of event ---

Update = dict[str, object]
_REDUCERS: dict[type[events.EventData], Callable[[ExecutionState, events.EventData, datetime], Update]] = {}


def _on(*kinds: type[Data]) -> Callable[[Callable[[ExecutionState, Data, datetime], Update]], None]:
    def register(reducer: Callable[[ExecutionState, Data, datetime], Update]) -> None:
        for kind in kinds:
            _REDUCERS[kind] = reducer  # type: ignore[assignment]  # looked up by the data's own type

    return register


@_on(events.ExecutionAccepted)
def _accepted(state: ExecutionState, data: events.ExecutionAccepted, time: datetime) -> Update:
    return {
        "status": Status.PENDING,
        "workflow_id": data.workflow_id,
        "workflow_name": data.workflow_name,
        "dry_run": data.dry_run,
        "validate_only": bool(data.command.get("validate_only")),
        "command": data.command,
        "command_digest": data.command_digest,
        "wpk_digest": data.wpk_digest,
        "requested_by": data.requested_by,
        "command_key": data.source.signed_by,
        "labels": data.labels,
        "deadline": data.deadline,
        "traceparent": data.traceparent,
        "accepted_at": time,
        "parameters_digest": digest(data.command.get("parameters") or {}) if data.dry_run else None,
        "rehearsal": data.rehearsal,
    }


@_on(events.ExecutionResolved)
def _resolved(state: ExecutionState, data: events.ExecutionResolved, time: datetime) -> Update:
    return {
        "command": {**(state.command or {}), "wpk_content": data.wpk_content},
        "wpk_digest": data.wpk_digest,
        "workflow_id": data.package,
        "workflow_name": data.workflow_name or state.workflow_name,
    }


@_on(events.ExecutionAwaitingApproval)
def _awaiting(state: ExecutionState, data: events.ExecutionAwaitingApproval, time: datetime) -> Update:
    return {
        "status": Status.AWAITING_APPROVAL,
        "approval_expires_at": data.expires_at,
        "approvals_missing": data.missing,
    }


@_on(events.ExecutionApprovalGiven)
def _approval_given(state: ExecutionState, data: events.ExecutionApprovalGiven, time: datetime) -> Update:
    return {"approvals": _with_approval(state, data), "approvals_missing": data.missing}


def _with_approval(
    state: ExecutionState, data: events.ExecutionApprovalGiven | events.ExecutionApproved
) -> tuple[Approval, ...]:
    key = data.source.signed_by if data.source else None
    return (*state.approvals, Approval(by=data.approved_by, key=key, plan_digest=data.plan_digest))


@_on(events.ExecutionApproved)
def _approved(state: ExecutionState, data: events.ExecutionApproved, time: datetime) -> Update:
    given = _with_approval(state, data)
    return {
        "status": Status.PENDING,
        "approved_by": ", ".join(each.by for each in given),
        "approvals": given,
        "approvals_missing": None,
        "approval_expires_at": None,
        "approved_until": state.approval_expires_at,
    }


def _planned(steps: tuple[PlannedStep, ...], phase: Phase) -> dict[str, StepState]:
    return {s.step: StepState(step=s.step, adapter=s.adapter, phase=phase, needs=s.needs) for s in steps}


@_on(events.ExecutionStarted)
def _started(state: ExecutionState, data: events.ExecutionStarted, time: datetime) -> Update:
    return {
        "status": Status.RUNNING,
        "started_at": time,
        "rehearsal": state.rehearsal.model_copy(update={"plans": {}}) if state.rehearsal else None,
        "total_steps": data.total_steps,
        "steps": _planned(data.steps, "run"),
        "alerts": data.alerts or (),
    }


@_on(events.ExecutionResumed)
def _resumed(state: ExecutionState, data: events.ExecutionResumed, time: datetime) -> Update:
    rollback = state.status is Status.ROLLING_BACK
    steps = state.rollback_steps if rollback else state.steps
    found = {name: steps[name].found(handed_over=data.handed_over) for name in data.in_doubt if name in steps}
    return {"rollback_steps" if rollback else "steps": {**steps, **found}, "handing_over": False}


@_on(events.ExecutionCancelling)
def _cancelling(state: ExecutionState, data: events.ExecutionCancelling, time: datetime) -> Update:
    return {
        "cancel": Cancel(
            cause=data.cause,
            requested_by=data.requested_by,
            reason=data.reason,
        )
    }


@_on(events.ExecutionRollingBack)
def _rolling_back(state: ExecutionState, data: events.ExecutionRollingBack, time: datetime) -> Update:
    rollback = RollbackState(
        trigger=data.trigger,
        mode=data.mode,
        requested_by=data.requested_by,
        reason=data.reason,
        dry_run=data.dry_run,
        previous=state.status or Status.FAILED,
        started_at=time,
    )
    return {
        "status": Status.ROLLING_BACK,
        "rollback": rollback,
        "rollback_follows": False,
        "rollback_steps": _planned(data.steps, "rollback"),
    }


@_on(events.ExecutionCompleted, events.ExecutionFailed, events.ExecutionCancelled)
def _ended(state: ExecutionState, data: events.ExecutionResult, time: datetime) -> Update:
    return {
        "status": data.status,
        "completed_at": data.completed_at,
        "outputs": data.outputs,
        "error": data.error,
        "rollback_follows": data.rollback_follows,
        "plan_digest": data.plan_digest,
    }


@_on(events.ExecutionRejected)
def _rejected(state: ExecutionState, data: events.ExecutionRejected, time: datetime) -> Update:
    if data.command is not None:  # it answers a command that was refused; the run stands
        return {}
    return {"status": Status.REJECTED, "completed_at": data.completed_at, "error": data.error}


@_on(events.ExecutionRolledBack, events.ExecutionRollbackFailed)
def _rolled_back(state: ExecutionState, data: events.ExecutionResult, time: datetime) -> Update:
    if state.rollback is not None and state.rollback.dry_run:  # a plan of a rollback changes nothing
        return {"status": state.rollback.previous}
    update: Update = {"status": data.status, "completed_at": data.completed_at}
    if data.status is Status.ROLLBACK_FAILED:
        update["error"] = data.error
    return update


def _step(state: ExecutionState, data: events.StepEvent, **update: object) -> Update:
    name = "steps" if data.phase == "run" else "rollback_steps"
    steps = state.phase_steps(data.phase)
    known = steps.get(data.step) or StepState(step=data.step, adapter=data.adapter, phase=data.phase)
    update = {"adapter": data.adapter, "in_doubt": False, **update}
    if data.attempt != known.attempt:
        update["interruptions"] = 0
    return {name: {**steps, data.step: evolve(known, update)}}


@_on(events.StepStarted)
def _step_started(state: ExecutionState, data: events.StepStarted, time: datetime) -> Update:
    return _step(
        state, data, status=StepStatus.RUNNING, attempt=data.attempt, started_at=data.started_at, retry_at=None
    )


@_on(events.StepCaptured)
def _step_captured(state: ExecutionState, data: events.StepCaptured, time: datetime) -> Update:
    return _step(state, data, captured=data.summary)


@_on(events.StepRetrying)
def _step_retrying(state: ExecutionState, data: events.StepRetrying, time: datetime) -> Update:
    return _step(
        state, data, status=StepStatus.RETRYING, error=data.error, retry_at=data.retry_at, duration=data.duration
    )


@_on(events.StepSucceeded)
def _step_succeeded(state: ExecutionState, data: events.StepSucceeded, time: datetime) -> Update:
    return _step(state, data, status=StepStatus.SUCCEEDED, duration=data.duration, output=data.output, error=None)


@_on(events.StepFailed)
def _step_failed(state: ExecutionState, data: events.StepFailed, time: datetime) -> Update:
    return _step(
        state,
        data,
        status=StepStatus.FAILED,
        duration=data.duration,
        error=data.error,
        output=data.output,
        continued=data.continued,
        retry_at=None,
    )


@_on(events.StepSkipped)
def _step_skipped(state: ExecutionState, data: events.StepSkipped, time: datetime) -> Update:
    return _step(state, data, status=StepStatus.SKIPPED)


@_on(events.StepCancelled)
def _step_cancelled(state: ExecutionState, data: events.StepCancelled, time: datetime) -> Update:
    return _step(state, data, status=StepStatus.CANCELLED, duration=data.duration, retry_at=None)
