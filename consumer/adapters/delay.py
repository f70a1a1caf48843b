"""Steps of type `delay`: a pause that survives a change of owner."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel, ConfigDict

from consumer.clock import Clock, SystemClock
from consumer.errors import PermanentError
from consumer.ports import Adapter, JsonObject, Plan, Scope, StepContext
from consumer.workflow import values
from schemas.failure import Problem
from schemas.scalars import Duration, format_duration

#: Seconds after which a long pause looks at the clock again, which may have been set, or the machine asleep.
_LOOK = 600.0


def build(settings: object) -> Adapter:
    """The adapter; it has no settings."""
    return DelayAdapter(SystemClock())


class DelayConfig(BaseModel):
    """A pause."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    duration: Duration
    """Counted from the first start of the attempt; `0s` does nothing."""


@dataclass(frozen=True, slots=True)
class DelayAction:
    """A pause that is ready."""

    seconds: float
    clock: Clock

    @property
    def repeatable(self) -> bool:
        """A pause that is taken up again goes on; it does not start anew."""
        return True

    @property
    def waits(self) -> bool:
        """See `ports.Action`."""
        return True

    @property
    def time_limit(self) -> float | None:
        return self.seconds

    async def plan(self, step: StepContext) -> Plan:
        return Plan(summary=f"wait {format_duration(self.seconds)}", changes=False, detail={"duration": self.seconds})

    async def run(self, step: StepContext) -> JsonObject:
        """Returns when `duration` has passed since `step.first_started_at`, whoever the owner was then."""
        end = step.first_started_at + timedelta(seconds=self.seconds)
        while self.seconds > 0:
            left = (end - self.clock.now()).total_seconds()
            if left <= 0:
                break
            # A clock that was set back must not make the pause longer than it is as a whole.
            await asyncio.sleep(min(left, self.seconds, _LOOK))
        return {"duration": self.seconds}


class DelayAdapter:
    """Steps of type `delay`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @property
    def name(self) -> str:
        return "delay"

    @property
    def config_model(self) -> type[DelayConfig]:
        return DelayConfig

    def check(self, config: JsonObject, scope: Scope) -> Sequence[Problem]:
        return values.check_config(DelayConfig, config, scope)

    def prepare(self, config: JsonObject, scope: Scope) -> DelayAction:
        return DelayAction(values.bind(DelayConfig, config, scope).duration, self._clock)

    async def plan_undo(self, record: JsonObject, step: StepContext) -> Plan:
        raise PermanentError("a delay changes nothing, so there is nothing to undo", code="nothing_to_undo")

    async def undo(self, record: JsonObject, step: StepContext) -> JsonObject:
        raise PermanentError("a delay changes nothing, so there is nothing to undo", code="nothing_to_undo")

    async def aclose(self) -> None:
        """Nothing is open."""
