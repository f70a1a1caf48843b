"""A whole plug-in: steps of type `lamp` switch a lamp, and a rollback switches it back to what it was.

It needs nothing of the agent but `consumer.ports`, `consumer.errors` and `consumer.workflow.values`. In a project of
its own, pyproject.toml names it:

    [project.entry-points."wpk.adapters"]
    lamp = "wpk_lamp:build"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from consumer.errors import PermanentError
from consumer.ports import Action, Adapter, JsonObject, Plan, Scope, StepContext
from consumer.workflow import values
from schemas.failure import Problem

Light = Literal["on", "off"]

#: The house: what the adapter changes.
lamps: dict[str, Light] = {"hall": "off", "door": "on"}


def build(settings: object) -> Adapter:
    return LampAdapter()


class LampConfig(BaseModel):
    """Which lamp, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lamp: str
    light: Light = "on"


@dataclass(frozen=True)
class Switch:
    config: LampConfig

    @property
    def repeatable(self) -> bool:
        return True  # on twice is on

    @property
    def time_limit(self) -> float | None:
        return None

    def before(self) -> Light:
        if self.config.lamp not in lamps:
            known = ", ".join(sorted(lamps))
            raise PermanentError(f'there is no lamp "{self.config.lamp}"; there are: {known}', code="not_found")
        return lamps[self.config.lamp]

    async def plan(self, step: StepContext) -> Plan:
        before, after = self.before(), self.config.light
        summary = f"switch the {self.config.lamp} lamp {after} (it is {before})"
        return Plan(summary=summary, changes=before != after, detail={"before": before, "after": after})

    async def run(self, step: StepContext) -> JsonObject:
        before = self.before()
        await step.capture({"lamp": self.config.lamp, "light": before}, f"{self.config.lamp} lamp: {before}")
        lamps[self.config.lamp] = self.config.light
        await step.log("agent", f"the {self.config.lamp} lamp is {self.config.light}")
        return {"before": before, "after": self.config.light}


class LampAdapter:
    @property
    def name(self) -> str:
        return "lamp"

    @property
    def config_model(self) -> type[LampConfig]:
        return LampConfig

    def check(self, config: JsonObject, scope: Scope) -> Sequence[Problem]:
        return values.check_config(LampConfig, config, scope)

    def prepare(self, config: JsonObject, scope: Scope) -> Action:
        return Switch(values.bind(LampConfig, config, scope))

    async def plan_undo(self, record: JsonObject, step: StepContext) -> Plan:
        return await Switch(LampConfig.model_validate(record)).plan(step)

    async def undo(self, record: JsonObject, step: StepContext) -> JsonObject:
        config = LampConfig.model_validate(record)
        lamps[config.lamp] = config.light
        return {"lamp": config.lamp, "light": config.light}

    async def aclose(self) -> None:
        """Nothing is open."""
