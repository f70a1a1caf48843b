"""What the engine sees of the world: adapters on one side, the journal on the other. Protocols and values only."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, JsonValue

from consumer.workflow.checks import NeedsRights
from consumer.workflow.facts import Facts
from consumer.workflow.scope import UNKNOWN, Scope, Unknown
from schemas.failure import Problem
from schemas.usage import Usage
from schemas.wpk import ResourceLimits

__all__ = [
    "UNKNOWN",
    "Action",
    "Adapter",
    "CommandTopic",
    "Facts",
    "Intention",
    "Journal",
    "JsonObject",
    "Packages",
    "Phase",
    "Plan",
    "Record",
    "Resolved",
    "Rights",
    "Scope",
    "SharedTopic",
    "StepContext",
    "Stream",
    "Topic",
    "Unknown",
    "Usage",
]

JsonObject = dict[str, JsonValue]
Phase = Literal["run", "rollback"]
Stream = Literal["stdout", "stderr", "agent"]


# --- adapters ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """One attempt of one step, as its adapter sees it."""

    execution_id: str
    workflow: str
    step: str
    phase: Phase
    attempt: int
    """1 for the first."""
    epoch: int
    """The owner's epoch: a fencing token for what the step changes outside."""
    dry_run: bool
    first_started_at: datetime
    """When this attempt first began; earlier than now where a new owner repeats an attempt after a crash."""
    repeated: bool = False
    """Whether a former owner began this attempt and was lost: what it did outside, if anything, is not known."""
    timeout: float | None = None
    """Seconds that the attempt may take, where it is known; the step runner ends it then."""
    limits: ResourceLimits
    """The package's `validation.resource_limits`."""
    log: Callable[[Stream, str], Awaitable[None]]
    """Publishes one line of output (no newline at its end); waits while the log is full, so that memory is bounded."""
    capture: Callable[[JsonObject, str], Awaitable[None]]
    """`await capture(record, summary)` makes durable what `undo` will need, *before* the change is made.

    The summary goes into the trail, the record only into the state. Called at most once an attempt; a later attempt
    of the same step keeps the first attempt's record: it holds the state before the step changed anything.
    """
    used: Callable[[Usage], None] = lambda usage: None
    """Tells what the attempt used, for the event of its end; of several calls the last one counts."""
    requested_by: str | None = None
    """Who asked for what is done: for the execution, or in the rollback phase for the rollback."""
    traceparent: str | None = None
    """W3C Trace Context of this attempt, for whatever it calls; None: it belongs to no trace."""
    captured: JsonObject | None = None
    """The record an earlier attempt of this step captured, if any."""
    originals: Mapping[str, JsonObject] = field(default_factory=dict)
    """In the rollback phase: what the run's steps captured, by step (for `replicas: original` and the like)."""
    shows_secret: Callable[[JsonValue], bool] = lambda value: False
    """Whether a secret of the execution can be read in the value: a record that does must be sealed to be captured."""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of the step, different for every other: `execution/phase/step`."""
        return f"{self.execution_id}/{self.phase}/{self.step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a step would do (dry run). `detail` is its output in the dry run's events; secrets are masked later."""

    summary: str
    """One line for a human: `scale deployment payments/api from 3 to 5`."""
    changes: bool
    """Whether it would change anything outside."""
    detail: JsonObject = field(default_factory=dict)


class Action(Protocol):
    """A step's configuration with all values in place, ready to be planned or run. Holds no resource."""

    @property
    def repeatable(self) -> bool:
        """Whether an attempt whose outcome a crash left unknown may simply be made again."""
        ...

    @property
    def time_limit(self) -> float | None:
        """Seconds that the configuration itself allows (a delay's duration, a wait's timeout); None: it says nothing.

        Where the step gives no `timeout`, its attempt gets the agent's default, or this and a margin if that is more.
        """
        ...

    # `waits`, a bool that an action need not have: whether a repeatable one does nothing but wait and look. When the
    # agent stops it is left to the next owner at once; others get the time that the stop has for them.

    async def plan(self, step: StepContext) -> Plan:
        """What `run` would do. Changes nothing outside. Raises StepError where it can't be known or would fail."""
        ...

    async def run(self, step: StepContext) -> JsonObject:
        """Does it, and gives the step's output. Raises StepError. Cancellation ends all it started, then re-raises.

        There is no timeout inside: the step runner cancels when the attempt's time is over.
        """
        ...


class Adapter(Protocol):
    """One kind of step. Built once by `build(settings)`, shared by all executions, closed by its owner."""

    @property
    def name(self) -> str:
        """The handler's `type`."""
        ...

    @property
    def config_model(self) -> type[BaseModel]:
        """The model of `config`, for the exported schema."""
        ...

    def check(self, config: JsonObject, scope: Scope) -> Sequence[Problem]:
        """All that is wrong with `config`, without I/O; paths are inside `config`. Values may be UNKNOWN."""
        ...

    def prepare(self, config: JsonObject, scope: Scope) -> Action:
        """The action for this configuration. No I/O. Raises ConfigError; no value is UNKNOWN here."""
        ...

    # `facts(config, scope) -> Sequence[Facts]`, which an adapter need not have: what a step of that configuration
    # touches, for the policy to judge by (`workflow.facts`); a step of several entries needs all of them allowed.
    # Without I/O. Steps of an adapter without it are allowed or denied as a whole.

    async def plan_undo(self, record: JsonObject, step: StepContext) -> Plan:
        """What `undo` would do with that record."""
        ...

    async def undo(self, record: JsonObject, step: StepContext) -> JsonObject:
        """Restores what `capture` recorded; gives what it did and could not restore. Repeatable. Raises StepError."""
        ...

    async def aclose(self) -> None:
        """Ends what the adapter opened."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Intention:
    """A step that is to run, as it is known before the first one does."""

    path: str
    """Of its config in the package."""
    config: JsonObject
    scope: Scope
    """Outputs and secrets are UNKNOWN."""
    undone: bool
    """Whether a rollback would undo it."""
    goes_on: bool
    """Whether the package goes on when the step fails."""


@runtime_checkable
class Rights(NeedsRights, Protocol):
    """What an adapter has besides where steps need rights of their own in the system that they work on."""

    async def preflight(self, steps: Sequence[Intention], requested_by: str | None) -> Sequence[Problem]:
        """An error for each right that is missing, with paths in the package; what can't be asked is a warning.

        So is what only those steps lack after whose failure the package goes on. Changes nothing. May raise what a step
        may raise: then nothing is known.
        """
        ...


# --- packages ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A package that was named, and found."""

    content: JsonObject
    digest: str
    """Of the content, computed here."""
    origin: str
    """Where it was found, for the trail."""


class Packages(Protocol):
    """Where packages are found that a command only names."""

    async def resolve(self, reference: str) -> Resolved:
        """The package of that `name-version` or digest.

        Raises PermanentError where there is none, or none that may be taken; TemporaryError where that can't be known
        now.
        """
        ...


# --- journal ----------------------------------------------------------------------------------------------------


class Topic(enum.StrEnum):
    """The output topics, by role; the journal knows their names and sends to its own partition number."""

    PROGRESS = "events.progress"
    LOGS = "events.logs"
    RESULTS = "events.results"
    STATE = "state"
    DEAD_LETTER = "dead-letter"


class SharedTopic(enum.StrEnum):
    """Topics that no partition's owner writes, with one partition each."""

    REGISTRY = "registry"


class CommandTopic(enum.StrEnum):
    """The topics that commands come on, by role."""

    EXECUTE = "commands.execute"
    ROLLBACK = "commands.rollback"
    CONTROL = "commands.control"


@dataclass(frozen=True, slots=True)
class Record:
    """One record to be written. Of STATE records with the same key in one batch only the last is written."""

    topic: Topic
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Journal(Protocol):
    """The one writer of a partition number's output topics. Dies once and for ever; a successor is a new object."""

    @property
    def partition(self) -> int: ...

    @property
    def epoch(self) -> int:
        """Rises with every change of owner (the offset of the owner's claim record)."""
        ...

    @property
    def alive(self) -> bool: ...

    def append(self, records: Sequence[Record], offsets: Mapping[CommandTopic, int] | None = None) -> Awaitable[None]:
        """Queues the records (and the next offsets to be consumed) at once, in call order. Awaited, it is durable.

        All of one call become visible together (exactly_once). Raises OwnershipLost: then the outcome is unknown.
        Cancelling the wait does not take the records back.
        """
        ...

    @property
    def fresh(self) -> bool:
        """Whether the ownership was proven so recently that an effect may begin: by a durable append, for instance."""
        ...

    async def may_act(self) -> None:
        """Returns while the owner may begin effects; waits out a hold (rebalance). Raises OwnershipLost."""
        ...

    async def backlog(self) -> None:
        """Waits while more is queued than is good for memory. Raises OwnershipLost."""
        ...
