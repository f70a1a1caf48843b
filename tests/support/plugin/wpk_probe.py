"""Steps of type `probe` do what a test asks for, and tell it what they did: fail, wait, capture, be undone."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, JsonValue

from consumer.errors import PermanentError, TemporaryError
from consumer.ports import Action, Adapter, JsonObject, Plan, Scope, StepContext
from consumer.workflow import values
from schemas.failure import Problem


@dataclass
class Seen:
    """What the steps of one execution did, in order: `run a 1`, `undo a`, `cancelled a`."""

    effects: list[str] = field(default_factory=list)
    release: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    contexts: list[StepContext] = field(default_factory=list)


#: By execution id.
seen: dict[str, Seen] = defaultdict(Seen)


class ProbeConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    output: JsonValue = None
    fail_times: int = 0
    """How many attempts fail before one succeeds."""
    permanent: bool = False
    crash: bool = False
    """An error that no adapter should raise."""
    wait: bool = False
    """Until the test releases the step."""
    ignore_cancel: bool = False
    capture: str | None = None
    undo_fails: bool = False
    repeatable: bool = False
    limit: float | None = None
    """Seconds that the configuration allows the step."""
    lines: tuple[str, ...] = ()
    delay: float | None = None
    block: float = 0
    """Seconds in which the event loop stands still: what no adapter may do."""


@dataclass(frozen=True)
class ProbeAction:
    config: ProbeConfig

    @property
    def repeatable(self) -> bool:
        return self.config.repeatable

    @property
    def time_limit(self) -> float | None:
        return self.config.limit

    async def plan(self, step: StepContext) -> Plan:
        seen[step.execution_id].effects.append(f"plan {step.step}")
        return Plan(summary=f"would run {step.step}", changes=True)

    async def run(self, step: StepContext) -> JsonObject:
        mine, config = seen[step.execution_id], self.config
        mine.contexts.append(step)
        for line in config.lines:
            await step.log("stdout", line)
        if config.capture is not None:
            record: JsonObject = {"was": config.capture, "undo_fails": config.undo_fails}
            await step.capture(record, f"{step.step} was {config.capture}")
        mine.effects.append(f"run {step.step} {step.attempt}")
        if config.block:
            time.sleep(config.block)  # noqa: ASYNC251 - see there
        if config.wait:
            await self._wait(step, mine)
        if config.crash:
            raise RuntimeError("a defect of the adapter")
        if step.attempt <= config.fail_times:
            kind = PermanentError if config.permanent else TemporaryError
            raise kind(f"attempt {step.attempt} failed as asked", code="probe", output={"attempt": step.attempt})
        return config.output if isinstance(config.output, dict) else {"value": config.output}

    async def _wait(self, step: StepContext, mine: Seen) -> None:
        try:
            await mine.release[step.step].wait()
        except asyncio.CancelledError:
            mine.effects.append(f"cancelled {step.step}")
            if not self.config.ignore_cancel:
                raise


class ProbeAdapter:
    @property
    def name(self) -> str:
        return "probe"

    @property
    def config_model(self) -> type[ProbeConfig]:
        return ProbeConfig

    def check(self, config: JsonObject, scope: Scope) -> Sequence[Problem]:
        return values.check_config(ProbeConfig, config, scope)

    def prepare(self, config: JsonObject, scope: Scope) -> Action:
        return ProbeAction(values.bind(ProbeConfig, config, scope))

    async def plan_undo(self, record: JsonObject, step: StepContext) -> Plan:
        return Plan(summary=f"would set {step.step} to {record['was']}", changes=True)

    async def undo(self, record: JsonObject, step: StepContext) -> JsonObject:
        seen[step.execution_id].effects.append(f"undo {step.step} to {record['was']}")
        if record["undo_fails"]:
            raise PermanentError("it can't be undone, as asked", code="probe")
        return {"restored": record["was"]}

    async def aclose(self) -> None:
        pass


def build(settings: object) -> Adapter:
    return ProbeAdapter()
