"""The events that the agent publishes: CloudEvents 1.0 in structured mode, chained by hash.

One class for each type's data. A draft has only the fields of its own; `seal` adds what all have: the sequence number,
the hash chain, the owner's epoch. Types are added, never changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from schemas.canonical import canonical
from schemas.commands import CommandKind
from schemas.evolve import evolve
from schemas.failure import Failure, Problem
from schemas.scalars import Moment, format_moment
from schemas.usage import Usage

CONTENT_TYPE = "application/cloudevents+json"
_PREFIX, _SUFFIX = "wpk.", ".v1"

JsonObject = dict[str, JsonValue]
Phase = Literal["run", "rollback"]
Channel = Literal["events.progress", "events.logs", "events.results"]


class Status(StrEnum):
    """Where an execution stands."""

    PENDING = "pending"
    AWAITING_APPROVAL = "awaiting_approval"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    REJECTED = "rejected"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens without a new command (or a rollback that was announced)."""
        return self in _ENDED


_ENDED = frozenset(
    {
        Status.COMPLETED,
        Status.FAILED,
        Status.CANCELLED,
        Status.ROLLED_BACK,
        Status.ROLLBACK_FAILED,
        Status.REJECTED,
    }
)

EVENT_TYPES: dict[str, type[EventData]] = {}


class EventData(BaseModel):
    """What the data of every event has."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)
    name: ClassVar[str] = ""
    channel: ClassVar[Channel] = "events.progress"

    execution_id: str = ""
    workflow_id: str | None = None
    seq: int = 0
    """1, 2, 3 … without gaps in an execution, over all three topics."""
    prev_hash: str = ""
    """The hash of the event with the number before; empty in the first."""
    hash: str = ""
    """SHA-256 (hex) over the canonical JSON of the whole CloudEvent without this field."""
    dry_run: bool = False
    agent: str = ""
    """The agent that wrote it."""
    attempt_epoch: int = 0
    """Rises with every change of the partition's owner. Of two events with one seq the higher epoch holds."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        if cls.name:
            EVENT_TYPES[cls.event_type()] = cls

    @classmethod
    def event_type(cls) -> str:
        """The CloudEvents `type`: `wpk.step.started.v1`."""
        return f"{_PREFIX}{cls.name}{_SUFFIX}"


class UnknownEvent(EventData):
    """An event of a type that this version does not know; kept whole."""

    model_config = ConfigDict(frozen=True, extra="allow")


# --- commands ---


class Source(BaseModel):
    """The record that a command came in."""

    model_config = ConfigDict(frozen=True)

    topic: str
    partition: int
    offset: int
    timestamp: Moment | None = None
    signed_by: str | None = None
    """The name of the policy's key that signed the command."""


class CommandRejected(EventData):
    """A command was understood but is not allowed; `errors` lists everything at once."""

    name: ClassVar[str] = "command.rejected"
    command: CommandKind
    action: str | None = None
    errors: tuple[Problem, ...]
    requested_by: str | None = None
    source: Source | None = None
    policy_digest: str | None = None
    """Of the policy in force."""


class CommandDuplicate(EventData):
    """A command that was already taken came again; it changed nothing."""

    name: ClassVar[str] = "command.duplicate"
    command: CommandKind
    action: str | None = None
    status: Status | None = None
    requested_by: str | None = None
    source: Source | None = None


# --- executions ---


class ExecutionEvent(EventData):
    """Base of the events of an execution: where it stands after the event."""

    status: Status
    total_steps: int = 0
    steps_completed: int = 0
    current_step: str | None = None


class StepPlan(BaseModel):
    """What a dry run told of a step."""

    model_config = ConfigDict(frozen=True)

    summary: str
    digest: str | None = None


class Rehearsal(BaseModel):
    """The dry run that an execute command names, as its agent knew it when the command was accepted."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    execution_id: str
    problem: str | None = None
    """Why it does not count; None: it does."""
    completed_at: Moment | None = None
    plan_digest: str | None = None
    """Over its whole plan."""
    wpk_digest: str | None = None
    """Of its package, where the command itself only names one: what is found must be the same."""
    plans: dict[str, StepPlan] = Field(default_factory=dict)
    """Its plans by step, where its agent still had them in memory: to tell later what changed."""


class ExecutionAccepted(ExecutionEvent):
    """The command is durable; it will be worked on. Carries the whole command, so that the trail is complete."""

    name: ClassVar[str] = "execution.accepted"
    status: Status = Status.PENDING
    workflow_name: str | None = None
    command: JsonObject
    command_digest: str
    wpk_digest: str | None = None
    requested_by: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    deadline: Moment | None = None
    source: Source
    traceparent: str | None = None
    rehearsal: Rehearsal | None = None
    """The dry run that the command names."""


class ExecutionResolved(ExecutionEvent):
    """The package that the command had only named. From here on this very content is the execution's, whatever becomes
    of the registry."""

    name: ClassVar[str] = "execution.resolved"
    status: Status = Status.PENDING
    reference: str
    """As the command named it."""
    origin: str
    """Where it was found: the topic with the offset, or the URL."""
    package: str
    """Its `name-version`."""
    workflow_name: str | None = None
    wpk_content: JsonObject
    wpk_digest: str


class ExecutionAwaitingApproval(ExecutionEvent):
    name: ClassVar[str] = "execution.awaiting_approval"
    status: Status = Status.AWAITING_APPROVAL
    expires_at: Moment | None = None
    note: str | None = None
    missing: str | None = None
    """Whose approvals are waited for, in words."""
    policy_digest: str | None = None
    """Of the policy that asks for it."""


class ExecutionApprovalGiven(ExecutionEvent):
    """One of several approvals that are needed."""

    name: ClassVar[str] = "execution.approval_given"
    status: Status = Status.AWAITING_APPROVAL
    approved_by: str
    reason: str | None = None
    plan_digest: str | None = None
    """Of the plan that is approved."""
    missing: str
    """What is still waited for, in words."""
    source: Source | None = None
    policy_digest: str | None = None
    """Of the policy by which it counts."""


class ExecutionApproved(ExecutionEvent):
    """The last approval that was needed."""

    name: ClassVar[str] = "execution.approved"
    status: Status = Status.PENDING
    approved_by: str
    reason: str | None = None
    plan_digest: str | None = None
    """Of the plan that is approved."""
    source: Source | None = None
    policy_digest: str | None = None
    """Of the policy by which it counts."""


class PlannedStep(BaseModel):
    """A step that is to run."""

    model_config = ConfigDict(frozen=True)

    step: str
    adapter: str
    needs: tuple[str, ...] = ()


class Permission(BaseModel):
    """Why a run was allowed to begin. Steps whose values were not known then are judged again before they act."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    policy: str
    """The policy's file, or what it is else."""
    digest: str = ""
    """Of the policy file; empty for a policy without one."""
    rules: tuple[str, ...] = ()
    """The rules that allowed its steps."""
    signed_by: tuple[str, ...] = ()
    """The names of the keys that signed the package."""
    command_key: str | None = None
    """The name of the key that signed the command; None: it was not signed, and who asked for it is a claim."""


class PlannedAlert(BaseModel):
    """A message that is sent when the execution has ended. Secrets stand in it by name only."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    type: Literal["slack", "email", "webhook", "registry"]
    to: tuple[str, ...]
    """The URL, or the recipients of a mail; parameters are in place, `${secrets.NAME}` is not."""
    secret: str | None = None
    """What a webhook's message is signed with, as `${secrets.NAME}`."""
    on_failure: bool = False
    on_success: bool = False


class ExecutionStarted(ExecutionEvent):
    name: ClassVar[str] = "execution.started"
    status: Status = Status.RUNNING
    steps: tuple[PlannedStep, ...] = ()
    warnings: tuple[Problem, ...] = ()
    permission: Permission | None = None
    plan_digest: str | None = None
    """Of the plan that was approved, and was the same when it was made again just before."""
    alerts: tuple[PlannedAlert, ...] | None = None
    """Those of the package's alerts that the policy allows."""


class ExecutionResumed(ExecutionEvent):
    """A new owner took over after the former one ended or was lost."""

    name: ClassVar[str] = "execution.resumed"
    in_doubt: tuple[str, ...] = ()
    """Steps that were started and have no end; each is repeated or fails as `interrupted`."""
    handed_over: bool = False
    """True: the former owner had made known that it might let go (its agent was stopping, or the group was rebalanced),
    so that this is not counted as an interruption of the steps in doubt."""


CancelCause = Literal["command", "rollback", "deadline"]


class ExecutionCancelling(ExecutionEvent):
    name: ClassVar[str] = "execution.cancelling"
    status: Status = Status.RUNNING
    cause: CancelCause
    requested_by: str | None = None
    reason: str | None = None
    source: Source | None = None
    policy_digest: str | None = None
    """Of the policy that let it be asked for."""


class ExecutionRollingBack(ExecutionEvent):
    name: ClassVar[str] = "execution.rolling_back"
    status: Status = Status.ROLLING_BACK
    trigger: Literal["automatic", "command"]
    mode: Literal["handlers", "compensation"]
    """How: by the package's own handlers, or by the undo records in reverse order."""
    steps: tuple[PlannedStep, ...] = ()
    requested_by: str | None = None
    reason: str | None = None
    force: bool = False
    source: Source | None = None
    policy_digest: str | None = None
    """Of the policy that let it be asked for."""


class StepReport(BaseModel):
    """A step in a result."""

    model_config = ConfigDict(frozen=True)

    step: str
    phase: Phase
    adapter: str
    status: str
    attempts: int
    duration: float | None = None
    error: Failure | None = None


class ExecutionResult(ExecutionEvent):
    """Base of the results."""

    channel: ClassVar[Channel] = "events.results"
    workflow_name: str | None = None
    started_at: Moment | None = None
    completed_at: Moment
    duration: float | None = None
    """Seconds from the start (or from the acceptance where nothing started) to the end."""
    outputs: JsonObject = Field(default_factory=dict)
    error: Failure | None = None
    error_message: str | None = None
    steps: tuple[StepReport, ...] = ()
    wpk_digest: str | None = None
    requested_by: str | None = None
    approved_by: str | None = None
    rollback_follows: bool = False
    """True: a rollback begins at once, and one more result tells how it ended."""
    alerts: tuple[PlannedAlert, ...] | None = None
    """Whom the package wants told; the agents that send notices read it here."""
    plan_digest: str | None = None
    """Of a dry run that planned every step: the digest over the whole plan, the same for two runs that would do the
    same (`schemas.plan`)."""


class ExecutionCompleted(ExecutionResult):
    name: ClassVar[str] = "execution.completed"
    status: Status = Status.COMPLETED
    validate_only: bool = False
    warnings: tuple[Problem, ...] = ()


class ExecutionFailed(ExecutionResult):
    name: ClassVar[str] = "execution.failed"
    status: Status = Status.FAILED


class ExecutionCancelled(ExecutionResult):
    name: ClassVar[str] = "execution.cancelled"
    status: Status = Status.CANCELLED
    cancelled_by: str | None = None
    reason: str | None = None
    source: Source | None = None
    """Where the cancel lies, if this event is its answer: there was nothing to be stopped."""


class ExecutionRejected(ExecutionResult):
    """The run was refused before anything ran; with `command` it answers only that command, and the run stands."""

    name: ClassVar[str] = "execution.rejected"
    status: Status = Status.REJECTED
    errors: tuple[Problem, ...] = ()
    command: CommandKind | None = None
    source: Source | None = None
    """Where the command lies that refused the approval, if this event is its answer."""


class ExecutionRolledBack(ExecutionResult):
    name: ClassVar[str] = "execution.rolled_back"
    status: Status = Status.ROLLED_BACK


class ExecutionRollbackFailed(ExecutionResult):
    name: ClassVar[str] = "execution.rollback_failed"
    status: Status = Status.ROLLBACK_FAILED


# --- steps ---


class StepEvent(EventData):
    """Base of the events of a step's attempt."""

    step: str
    adapter: str
    phase: Phase = "run"
    attempt: int = 0
    total_steps: int = 0
    steps_completed: int = 0


class StepStarted(StepEvent):
    """Durable before the attempt's effect begins. The same attempt again: a new owner repeats it."""

    name: ClassVar[str] = "step.started"
    started_at: Moment


class StepCaptured(StepEvent):
    """The state before the change is recorded; `summary` says what, the record itself lies only in the state."""

    name: ClassVar[str] = "step.captured"
    summary: str


class StepRetrying(StepEvent):
    name: ClassVar[str] = "step.retrying"
    error: Failure
    output: JsonValue = None
    usage: Usage | None = None
    duration: float
    retry_at: Moment


class StepSucceeded(StepEvent):
    name: ClassVar[str] = "step.succeeded"
    started_at: Moment
    duration: float
    output: JsonValue = None
    usage: Usage | None = None


class StepFailed(StepEvent):
    name: ClassVar[str] = "step.failed"
    started_at: Moment | None = None
    duration: float | None = None
    error: Failure
    output: JsonValue = None
    usage: Usage | None = None
    continued: bool = False
    """True: the package says that the run goes on all the same."""


class StepSkipped(StepEvent):
    name: ClassVar[str] = "step.skipped"
    reason: str


class StepCancelled(StepEvent):
    name: ClassVar[str] = "step.cancelled"
    started_at: Moment | None = None
    duration: float | None = None
    reason: str | None = None


# --- logs ---


class LogLine(BaseModel):
    model_config = ConfigDict(frozen=True)

    time: Moment
    text: str


class LogLines(EventData):
    """Lines of a step's output, or notes of the agent, in a batch."""

    name: ClassVar[str] = "log.lines"
    channel: ClassVar[Channel] = "events.logs"
    step: str | None = None
    phase: Phase = "run"
    attempt: int = 0
    stream: Literal["stdout", "stderr", "agent"]
    lines: tuple[LogLine, ...]


# --- the envelope ---


class Event(BaseModel):
    """A CloudEvent 1.0 in structured mode."""

    model_config = ConfigDict(frozen=True, extra="allow")

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str
    time: Moment
    subject: str
    datacontenttype: Literal["application/json"] = "application/json"
    data: EventData

    @property
    def name(self) -> str:
        """The type without prefix and version: `step.started`."""
        return self.type.removeprefix(_PREFIX).removesuffix(_SUFFIX)


Draft = TypeVar("Draft", bound=EventData)


Data = TypeVar("Data", bound=EventData)


def seal(draft: Data, *, common: Mapping[str, JsonValue], prev_hash: str, time: datetime) -> tuple[Data, bytes]:
    """The event's data and its record's value: numbered, chained, encoded.

    `common` gives execution_id, workflow_id, seq, dry_run, agent and attempt_epoch, and what else replaces the draft's
    own. The hash covers the canonical JSON of the whole event without the field `hash`.
    """
    data = draft.model_dump(mode="json", exclude_none=True)
    data.update(common, prev_hash=prev_hash)
    for name in [name for name, value in common.items() if value is None]:
        del data[name]
    del data["hash"]
    subject = str(common["execution_id"])
    envelope: JsonObject = {
        "specversion": "1.0",
        "id": f"{subject}/{common['seq']}/{common['attempt_epoch']}",
        "source": f"/wpk-agent/{common['agent']}",
        "type": draft.event_type(),
        "time": format_moment(time),
        "subject": subject,
        "datacontenttype": "application/json",
        "data": data,
    }
    value = hashlib.sha256(canonical(envelope)).hexdigest()
    data["hash"] = value
    sealed = evolve(draft, {**common, "prev_hash": prev_hash, "hash": value})
    return sealed, orjson.dumps(envelope)  # in the order in which it was given: people read it


class EventError(ValueError):
    """A record that is no event of ours."""


def decode(value: bytes) -> Event:
    """The event in a record's value. Raises EventError. An unknown type is kept as UnknownEvent."""
    try:
        raw = orjson.loads(value)
        kind = EVENT_TYPES.get(raw["type"], UnknownEvent)
        raw["data"] = kind.model_validate(raw["data"])
        return Event.model_validate(raw)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise EventError(f"no event of this agent: {str(error)[:200]}") from error


def chain_hash(value: bytes) -> str:
    """The hash that the event in `value` should carry, computed from its bytes. Raises EventError."""
    try:
        raw = orjson.loads(value)
        raw["data"].pop("hash", None)
        return hashlib.sha256(canonical(raw)).hexdigest()
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise EventError(f"no event of this agent: {str(error)[:200]}") from error


def event_models() -> Iterator[tuple[str, type[EventData]]]:
    """All event types with their data's model, in the order of this module."""
    yield from EVENT_TYPES.items()
