"""What an attempt used of the agent's machine."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Usage(BaseModel):
    """What an attempt ran in and used of the agent's machine, as far as its adapter can tell."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    sandbox: Literal["bubblewrap", "landlock", "none"] | None = None
    """What held a shell step's command (docs/security.md)."""
    cpu_seconds: float | None = None
    """Processor time of its processes: of all in a control group, else of those that were waited for; missing in
    bubblewrap without a control group."""
    peak_memory_bytes: int | None = None
    """The most that they had in memory together, in a control group that counts it; else that one of them had, missing
    where it may have been less than the agent itself has."""
