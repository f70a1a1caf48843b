"""What a policy judges: a run, its steps, and the verdicts on them. Values only."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from consumer.ports import Facts
from consumer.workflow.facts import Anything, Called
from consumer.workflow.scope import Unknown
from schemas.events import Phase
from schemas.wpk import WorkflowPackage

#: What every step has for conditions, whatever its adapter.
STEP_FIELDS = frozenset({"name", "adapter", "phase", "secrets"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is asked for, and by whom. The requester is who the command says it is; proven where it is signed."""

    workflow: str
    version: str = "0.0.0"
    mode: Literal["manual", "auto"] = "manual"
    tags: tuple[str, ...] = ()
    requester: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False
    signed_by: tuple[str, ...] = ()
    """The names of the policy's keys that signed the package."""
    command_key: str | None = None
    """The name of the policy's key that signed the command."""

    @classmethod
    def of(
        cls,
        package: WorkflowPackage,
        *,
        requester: str | None,
        labels: Mapping[str, str],
        dry_run: bool,
        signed_by: tuple[str, ...],
        command_key: str | None = None,
    ) -> Run:
        """A run of that package."""
        return cls(
            workflow=package.metadata.name,
            version=package.metadata.version,
            mode=package.spec.safety.mode,
            tags=package.metadata.tags,
            requester=requester,
            labels=labels,
            dry_run=dry_run,
            signed_by=signed_by,
            command_key=command_key,
        )

    def variables(self) -> dict[str, JsonValue]:
        """As conditions see it."""
        return {
            "workflow": {
                "name": self.workflow,
                "version": self.version,
                "mode": self.mode,
                "tags": list(self.tags),
                "signed_by": list(self.signed_by),
            },
            "request": {
                "requester": self.requester or "",
                "labels": dict(self.labels),
                "dry_run": self.dry_run,
                "signed_by": self.command_key or "",
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step, as far as it is known."""

    name: str
    adapter: str
    phase: Phase = "run"
    facts: Sequence[Facts] = ({},)
    """One entry for each thing that it touches; all of them must be allowed."""
    secrets: frozenset[str] = frozenset()
    """The names of the secrets that it uses or may use."""

    @property
    def place(self) -> str:
        """For messages."""
        return f"the rollback's step {self.name}" if self.phase == "rollback" else f"the step {self.name}"

    def variables(self, facts: Facts) -> dict[str, JsonValue]:
        """As conditions see it: what is not certain is not there."""
        certain: dict[str, JsonValue] = {
            name: fact for name, fact in facts.items() if not isinstance(fact, Anything | Unknown | Called)
        }
        secrets: list[JsonValue] = [*sorted(self.secrets)]
        named: dict[str, JsonValue] = {"name": self.name, "adapter": self.adapter, "phase": self.phase}
        return {**certain, **named, "secrets": secrets}


class Decision(enum.StrEnum):
    """What becomes of a step."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    LATER = "later"
    """It depends on values that are not known yet; it is judged again when they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """On one step, and by which rule."""

    decision: Decision
    rules: tuple[str, ...] = ()
    """That decided it; none where no rule allows the step."""
    message: str = ""
    """Why it is refused or open, with the remedy."""
