"""The commands that users publish: execute, rollback, control.

An unknown field is an error here: a mistyped `dry_run` must not become a real run.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from schemas.canonical import digest
from schemas.scalars import Duration, ExecutionId, Moment

CommandKind = Literal["execute", "rollback", "control"]

#: Who somebody is stands in every event that is about the command, so that it has a bound.
Who = Annotated[str, StringConstraints(strip_whitespace=True, max_length=256)] | None
LabelName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
LabelValue = Annotated[str, StringConstraints(max_length=256)]


class CommandModel(BaseModel):
    """Base of the commands."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    kind: ClassVar[CommandKind]


class ExecuteCommand(CommandModel):
    """Run a workflow package."""

    kind: ClassVar[CommandKind] = "execute"

    execution_id: ExecutionId | None = None
    """The idempotency key; else the record's key, else derived from topic, partition and offset."""
    workflow_id: str | None = Field(default=None, min_length=1, max_length=256)
    """`name-version`; where `wpk_content` is absent it names a package of the registry, so or by its digest
    (`sha256:…`)."""
    wpk_content: dict[str, JsonValue] | str | None = None
    """The package, as an object or as YAML text."""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    dry_run: bool = False
    """Nothing outside the agent changes; the same events are published, marked."""
    validate_only: bool = False
    """Answers what validation says and runs nothing."""
    dry_run_id: ExecutionId | None = None
    """The execution that was this one's dry run: of the same package and parameters, on the same partition. The command
    is refused where it was another, or did not complete."""
    deadline: Moment | None = None
    """The run ends by then, or is cancelled and fails."""
    timeout: Duration | None = None
    """The same, counted from the acceptance."""
    approved_by: Who = None
    """A claim of the sender, kept for the trail; it is no approval: that is a control command."""
    requested_by: Who = None
    labels: dict[LabelName, LabelValue] = Field(default_factory=dict, max_length=64)

    @model_validator(mode="after")
    def _names_a_package(self) -> ExecuteCommand:
        if self.wpk_content is None and self.workflow_id is None:
            raise ValueError("there is nothing to run: give wpk_content, or workflow_id for a package of the registry")
        if self.dry_run_id is not None and self.dry_run:
            raise ValueError("a dry run needs no dry run before it; leave dry_run_id out")
        return self

    def content_digest(self) -> str:
        """The digest of what is asked for; the id is left out. The same id with another digest is another request."""
        return digest(self.model_dump(mode="json", exclude={"execution_id"}, exclude_defaults=True))


class RollbackCommand(CommandModel):
    """Undo an execution that completed, failed or was cancelled."""

    kind: ClassVar[CommandKind] = "rollback"

    execution_id: ExecutionId
    reason: str | None = Field(default=None, max_length=2000)
    requested_by: Who = None
    dry_run: bool = False
    force: bool = False
    """Also for a running execution, which is cancelled first."""


class ControlCommand(CommandModel):
    """Approve, reject or cancel an execution."""

    kind: ClassVar[CommandKind] = "control"

    execution_id: ExecutionId
    action: Literal["approve", "reject", "cancel"]
    reason: str | None = Field(default=None, max_length=2000)
    requested_by: Who = None
    digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """approve: the digest of the plan that is approved, as its dry run told it. The run is refused if what it would do
    is something else by then."""

    @model_validator(mode="after")
    def _approves_a_plan(self) -> ControlCommand:
        if self.digest is not None and self.action != "approve":
            raise ValueError("only an approval names a digest; leave it out")
        return self


Command = ExecuteCommand | RollbackCommand | ControlCommand
