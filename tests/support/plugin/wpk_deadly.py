"""Steps of type `deadly` end the agent that runs them, as a crash in a library or the kernel's OOM killer would."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from consumer.errors import PermanentError
from consumer.ports import Action, Adapter, JsonObject, Plan, Scope, StepContext
from consumer.workflow import values
from schemas.failure import Problem


class DeadlyConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    mark: str
    """A file that gets a line for each attempt."""


@dataclass(frozen=True)
class Deadly:
    config: DeadlyConfig

    @property
    def repeatable(self) -> bool:
        return True

    @property
    def time_limit(self) -> float | None:
        return None

    def _mark(self, line: str) -> None:
        with Path(self.config.mark).open("a") as file:
            file.write(line)

    async def plan(self, step: StepContext) -> Plan:
        return Plan(summary="would end the agent", changes=True)

    async def run(self, step: StepContext) -> JsonObject:
        self._mark(f"{step.attempt} {step.epoch}\n")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it lives")


class DeadlyAdapter:
    @property
    def name(self) -> str:
        return "deadly"

    @property
    def config_model(self) -> type[DeadlyConfig]:
        return DeadlyConfig

    def check(self, config: JsonObject, scope: Scope) -> Sequence[Problem]:
        return values.check_config(DeadlyConfig, config, scope)

    def prepare(self, config: JsonObject, scope: Scope) -> Action:
        return Deadly(values.bind(DeadlyConfig, config, scope))

    async def plan_undo(self, record: JsonObject, step: StepContext) -> Plan:
        raise PermanentError("nothing to undo", code="nothing_to_undo")

    async def undo(self, record: JsonObject, step: StepContext) -> JsonObject:
        raise PermanentError("nothing to undo", code="nothing_to_undo")

    async def aclose(self) -> None:
        """Nothing is open."""


def build(settings: object) -> Adapter:
    return DeadlyAdapter()
