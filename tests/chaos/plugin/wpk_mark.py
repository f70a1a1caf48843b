"""Steps of type `mark` leave a mark outside of the agent before anything else, then take their time, and end as asked.

The mark is one line, written by one `write` to a file opened for appending; `tests.chaos.marks` reads it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from consumer.errors import PermanentError, TemporaryError
from consumer.ports import Action, Adapter, JsonObject, Plan, Scope, StepContext
from consumer.workflow import values
from schemas.failure import Problem


def build(settings: object) -> Adapter:
    return MarkAdapter()


class MarkConfig(BaseModel):
    """Where the mark is left, and what comes then."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    seconds: float = 0.0
    """How long the step takes after its mark."""
    fail_attempts: int = 0
    """How many attempts fail, after their mark, before one succeeds."""
    permanent: bool = False
    """Whether such a failure is one that no retry helps."""
    repeatable: bool = False
    capture: bool = False
    """Whether there is something to undo; the undo leaves a mark too, of the phase `rollback`."""
    lines: int = 0
    """Lines for the log."""


def leave(file: str, step: StepContext) -> None:
    """One line: idempotency key, attempt, epoch, seconds since the machine's start, process."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    line = f"{step.idempotency_key} {step.attempt} {step.epoch} {now:.4f} {os.getpid()}\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class MarkAction:
    config: MarkConfig

    @property
    def repeatable(self) -> bool:
        return self.config.repeatable

    @property
    def time_limit(self) -> float | None:
        return None

    async def plan(self, step: StepContext) -> Plan:
        return Plan(summary=f"leave a mark of {step.step}", changes=True)

    async def run(self, step: StepContext) -> JsonObject:
        config = self.config
        if config.capture:
            await step.capture({"file": config.file}, f"the file of {step.step}")
        leave(config.file, step)
        for number in range(config.lines):
            await step.log("stdout", f"line {number} of {step.step}")
        await asyncio.sleep(config.seconds)
        if step.attempt <= config.fail_attempts:
            kind = PermanentError if config.permanent else TemporaryError
            raise kind(f"attempt {step.attempt} fails as asked", code="asked", output={"attempt": step.attempt})
        return {"attempt": step.attempt, "epoch": step.epoch}


class MarkAdapter:
    @property
    def name(self) -> str:
        return "mark"

    @property
    def config_model(self) -> type[MarkConfig]:
        return MarkConfig

    def check(self, config: JsonObject, scope: Scope) -> Sequence[Problem]:
        return values.check_config(MarkConfig, config, scope)

    def prepare(self, config: JsonObject, scope: Scope) -> Action:
        return MarkAction(values.bind(MarkConfig, config, scope))

    async def plan_undo(self, record: JsonObject, step: StepContext) -> Plan:
        return Plan(summary=f"leave a mark of undoing {step.step}", changes=True)

    async def undo(self, record: JsonObject, step: StepContext) -> JsonObject:
        leave(str(record["file"]), step)
        return {"undone": step.step}

    async def aclose(self) -> None:
        """Nothing is open."""
