"""Two values that say what is wrong: a `Problem` of a document, and the `Failure` of a step or an execution."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Problem(BaseModel):
    """One thing that is wrong with a package or a command: where, what, and what to do about it."""

    model_config = ConfigDict(frozen=True)

    path: str = Field(description="Where it is: `spec.handlers[2].config.replicas`; empty for the whole document.")
    message: str = Field(description="What is wrong, with the value, and the remedy.")
    severity: Literal["error", "warning"] = "error"
    line: int | None = Field(default=None, description="Line in the YAML text (1-based), where it is known.")
    column: int | None = Field(default=None, description="Column in the YAML text (1-based), where it is known.")

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def under(self, prefix: str) -> Problem:
        """The same problem, seen from a document that holds this one at `prefix`."""
        if not self.path:
            path = prefix
        elif self.path.startswith("["):
            path = prefix + self.path
        else:
            path = f"{prefix}.{self.path}"
        return self.model_copy(update={"path": path})


class Failure(BaseModel):
    """Why a step or an execution failed, as it goes over the wire."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(description="A stable code: `timeout`, `exit_code`, `http_status`, `interrupted`, …")
    message: str = Field(description="One sentence for a human; secrets are masked.")
    retryable: bool = Field(default=False, description="Whether trying again may help.")
    step: str | None = Field(default=None, description="The step that failed, where one did.")

    @property
    def sentence(self) -> str:
        """The message, with the step that it is about."""
        return f"{self.step}: {self.message}" if self.step else self.message
