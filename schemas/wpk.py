"""The workflow package, as wpk-format.md describes it: what teams write, validated with every error at once.

Fields without a mark existed in other WPK tools before this agent, so they are accepted as they stand; unknown fields
are kept and reported as warnings (`unknown_fields`), never fatal.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from schemas.failure import Problem
from schemas.scalars import DnsLabel, Duration, Moment, Quantity, SemVer, StepName


class PackageModel(BaseModel):
    """Base of the package's parts: unknown fields are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, use_attribute_docstrings=True)


class Metadata(PackageModel):
    name: DnsLabel
    """The workflow's name, a DNS label; the label `workflow_name` of the metrics."""
    version: SemVer = "0.0.0"
    description: str | None = None
    author: str | None = None
    created: Moment | None = None
    tags: tuple[str, ...] = ()
    signature: str = ""
    """A base64 cosign blob signature over the canonical package without this field; empty: unsigned."""


class Requirements(PackageModel):
    """What the run needs of its surroundings, as Kubernetes quantities."""

    cpu: Quantity | None = None
    memory: Quantity | None = None
    storage: Quantity | None = None


class Runtime(PackageModel):
    type: Literal["k8s", "docker", "shell"] = "shell"
    """Where the package is meant to run."""
    version: str | None = None
    requirements: Requirements = Requirements()


class Safety(PackageModel):
    mode: Literal["manual", "auto"] = "manual"
    approval_required: bool = False
    """True: the execution waits for an approve command before anything runs."""
    dry_run_required: bool = False
    rollback_enabled: bool = True
    """False: nothing is undone when the run fails, whatever `rollback` says."""


class Trigger(PackageModel):
    """Kept and reported; the agent itself is triggered by commands."""

    type: Literal["webhook", "schedule", "event"]
    config: dict[str, JsonValue] = Field(default_factory=dict)


class Retry(PackageModel):
    max_attempts: int = Field(default=1, ge=1, le=1000)
    """Attempts in all, the first one included."""
    backoff: Duration = 1.0
    """Pause before the second attempt; with jitter, its upper bound."""
    multiplier: float = Field(default=2.0, ge=1.0, le=100.0)
    """Each further pause is that many times the one before."""
    max_backoff: Duration = 300.0
    """No pause is longer."""
    jitter: bool = True
    """Full jitter: the pause is drawn evenly between 0 and its bound."""


class Handler(PackageModel):
    """One step."""

    name: StepName
    type: str = Field(min_length=1, max_length=63)
    """The adapter's name: k8s, shell, api, delay, or one from a plug-in."""
    config: dict[str, JsonValue]
    """The adapter's own; here an unknown field is an error."""
    timeout: Duration | None = None
    """Of one attempt; None: the agent's default."""
    retry: Retry = Retry()
    needs: tuple[str, ...] = ()
    """Steps that must have succeeded first; once one step has it, the list is a graph."""
    when: str | None = Field(default=None, min_length=1, max_length=4096)
    """A CEL expression; false: the step is skipped."""
    on_failure: Literal["stop", "continue"] = "stop"
    on_interrupt: Literal["retry", "fail"] | None = None
    """For an attempt whose outcome a crash left unknown; None: as the adapter says of the action."""


class Rollback(PackageModel):
    enabled: bool = False
    handlers: tuple[Handler, ...] = ()
    """Empty while enabled: compensate automatically from the undo records, in reverse order."""


class ResourceLimits(PackageModel):
    max_pods: int | None = Field(default=None, ge=0)
    max_namespaces: int | None = Field(default=None, ge=0)
    max_replicas: int | None = Field(default=None, ge=0)
    max_nodes: int | None = Field(default=None, ge=0)


class Validation(PackageModel):
    schema_version: str = "v1"
    required_permissions: tuple[str, ...] = ()
    resource_limits: ResourceLimits = ResourceLimits()


class Alert(PackageModel):
    """A message that is sent when the execution ends."""

    type: Literal["slack", "email", "webhook"]
    webhook: str | None = None
    url: str | None = None
    secret: str | None = None
    """Of a webhook: what its messages are signed with, as `${secrets.NAME}`."""
    recipients: tuple[str, ...] = ()
    on_failure: bool = False
    on_success: bool = False


class Monitoring(PackageModel):
    metrics_enabled: bool = True
    logging_level: Literal["debug", "info", "warn", "error"] = "info"
    alerts: tuple[Alert, ...] = ()


class Spec(PackageModel):
    runtime: Runtime = Runtime()
    safety: Safety = Safety()
    triggers: tuple[Trigger, ...] = ()
    parameters: dict[str, JsonValue] | None = None
    """A JSON Schema (2020-12) of the command's parameters, with defaults."""
    handlers: tuple[Handler, ...] = Field(min_length=1)
    rollback: Rollback = Rollback()
    outputs: dict[str, JsonValue] = Field(default_factory=dict)
    """Name to template; published with the result."""
    validation: Validation = Validation()
    monitoring: Monitoring = Monitoring()


class WorkflowPackage(PackageModel):
    """A whole package."""

    api_version: Literal["v1"] = Field(default="v1", alias="apiVersion")
    kind: Literal["WorkflowPackage"] = "WorkflowPackage"
    metadata: Metadata
    spec: Spec

    @property
    def workflow_id(self) -> str:
        """`name-version`, as commands write it."""
        return f"{self.metadata.name}-{self.metadata.version}"


def unknown_fields(model: BaseModel, path: str = "") -> Iterator[Problem]:
    """A warning for each field that the format does not know, with the nearest known name."""
    fields = type(model).model_fields
    known = sorted({field.alias or name for name, field in fields.items()})
    for name in model.model_extra or {}:
        near = get_close_matches(name, known, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        yield Problem(
            path=f"{path}.{name}" if path else name,
            message=f"unknown field, kept but unused{hint}",
            severity="warning",
        )
    for name, field in fields.items():
        here = f"{path}.{field.alias or name}" if path else (field.alias or name)
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from unknown_fields(value, here)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from unknown_fields(item, f"{here}[{index}]")
