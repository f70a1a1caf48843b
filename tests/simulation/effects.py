"""What is durable and what was done outside, judged in the moment it happens: no effect without its announcement, none
by an agent that is not the owner, none twice. And the adapter whose steps have those effects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict

from consumer.errors import PermanentError, TemporaryError
from consumer.journal import lineage
from consumer.ports import Action, Adapter, JsonObject, Plan, Scope, StepContext, Topic
from consumer.workflow import values
from schemas.failure import Problem
from tests.simulation.broker import Cluster
from tests.simulation.log import Entry
from tests.simulation.loop import Loop, Task, current

#: An owner proves itself so often before effects (`journal.owner.Limits.proof_seconds`): one that lost the partition
#: since then can't know it yet.
PROOF_SECONDS = 5.0
ADAPTER = "sim"
_ENDS = {"wpk.step.succeeded.v1", "wpk.step.failed.v1", "wpk.step.skipped.v1", "wpk.step.cancelled.v1"}
_RESULTS = ("completed", "failed", "cancelled", "rejected", "rolled_back", "rollback_failed")
_OVER = {f"wpk.execution.{name}.v1" for name in _RESULTS}
StepKey = tuple[str, str, str]
"""Execution, phase, step."""


class Truth:
    """What is durable, kept up to date record by record."""

    def __init__(self, cluster: Cluster) -> None:
        self._loop = cluster.loop
        self._progress = cluster.names.name(Topic.PROGRESS)
        self._results = cluster.names.name(Topic.RESULTS)
        self._state = cluster.names.name(Topic.STATE)
        self.owners: dict[int, tuple[int | None, float]] = {}
        """The epoch of each partition's owner, and since when."""
        self.started: set[tuple[str, str, str, int]] = set()
        """Attempts that were announced by the owner of that moment."""
        self.ended: dict[StepKey, str] = {}
        """Steps that are known to have their end: by the state, which is what the next owner goes by."""
        self._ends: dict[StepKey, tuple[int, int, str]] = {}
        """Ends in the events (epoch, sequence number, type) that the state need not know of yet."""
        self.rollbacks: dict[str, int] = {}
        """How many rollbacks of an execution have begun."""
        self.offsets: dict[tuple[str, int], int] = {}
        """The next command of each topic and partition, by the state."""
        self._names = cluster.names
        self._over: dict[str, tuple[int, bool]] = {}
        """Up to which event of each execution that is known, and whether it has ended."""
        self._kept: dict[str, int] = {}
        """How far the state goes of each execution: its last event's number."""
        self._partition_of: dict[str, int] = {}
        cluster.observers.append(self.see)

    @property
    def live(self) -> list[str]:
        """The accepted executions that have not ended, or of whose end the state does not know yet."""
        return [name for name, (seq, over) in self._over.items() if not over or seq > self._kept.get(name, 0)]

    def see(self, entry: Entry) -> None:
        """The next durable record of any topic."""
        if entry.topic == self._state:
            if entry.key == lineage.OWNER_KEY and entry.value is not None:
                self._claim(entry)
            elif entry.key == lineage.OFFSETS_KEY and entry.value is not None:
                self._take_offsets(entry, entry.value)
            elif entry.value is not None and not lineage.is_reserved(entry.key) and b"/" not in (entry.key or b"/"):
                self._take_state(entry, entry.key.decode(), entry.value)
        elif entry.topic in (self._progress, self._results) and entry.value is not None:
            self._event(entry.partition, orjson.loads(entry.value))

    def _take_offsets(self, entry: Entry, value: bytes) -> None:
        if lineage.epoch_of(entry.headers) == self.owners[entry.partition][0]:
            for role, offset in lineage.decode_offsets(value).items():
                self.offsets[self._names.name(role), entry.partition] = offset

    def _take_state(self, entry: Entry, name: str, value: bytes) -> None:
        owner, _ = self.owners[entry.partition]
        if lineage.epoch_of(entry.headers) != owner:
            return
        seq = orjson.loads(value)["seq"]
        self._kept[name] = max(seq, self._kept.get(name, 0))  # a late one may come again, and is void
        for step, (epoch, number, kind) in list(self._ends.items()):
            if step[0] == name and number <= seq:
                del self._ends[step]
                if epoch == owner:  # what a former owner did not get into the state is not known
                    self.ended[step] = kind

    def _claim(self, entry: Entry) -> None:
        assert entry.value is not None
        after = orjson.loads(entry.value)["after"]
        epoch, _ = self.owners.get(entry.partition, (None, 0.0))
        valid = after == epoch
        self._loop.note(f"claim of partition {entry.partition} at {entry.offset} after {after}, valid: {valid}")
        if valid:
            self.owners[entry.partition] = entry.offset, self._loop.time()
            self._go_back(entry.partition)

    def _go_back(self, partition: int) -> None:
        """The next owner goes by the state: what an event said that did not get into it is still to be done."""
        for name, (seq, _) in self._over.items():
            kept = self._kept.get(name, 0)
            if self._partition_of[name] == partition and seq > kept:
                self._over[name] = kept, False

    def _event(self, partition: int, event: JsonObject) -> None:
        data, kind = event["data"], str(event["type"])
        assert isinstance(data, dict)
        owner, _ = self.owners[partition]
        name = str(data["execution_id"])
        self._partition_of[name] = partition
        self._loop.note(f"{name}/{data['seq']} epoch {data['attempt_epoch']} {kind} {data.get('step', '')}")
        if owner is None or data["attempt_epoch"] != owner:
            return
        if kind == "wpk.step.started.v1":
            self.started.add((name, str(data["phase"]), str(data["step"]), int(str(data["attempt"]))))
        elif kind in _ENDS:
            self._ends[name, str(data["phase"]), str(data["step"])] = owner, int(str(data["seq"])), kind
        elif kind == "wpk.execution.rolling_back.v1":
            self._follow(name, data, over=False)
            self.rollbacks[name] = self.rollbacks.get(name, 0) + 1
            planned = data.get("steps")
            for step in planned if isinstance(planned, list) else []:
                assert isinstance(step, dict)
                self._ends.pop((name, "rollback", str(step["step"])), None)
                self.ended.pop((name, "rollback", str(step["step"])), None)
                self._forget_rollback(name, str(step["step"]))
        elif kind == "wpk.execution.accepted.v1":
            self._follow(name, data, over=False)
        elif kind in _OVER and data.get("command") is None:
            self._follow(name, data, over=not data.get("rollback_follows", False))

    def _follow(self, name: str, data: JsonObject, *, over: bool) -> None:
        """Results and progress are different topics: their order is that of the sequence."""
        seq = int(str(data["seq"]))
        if seq > self._over.get(name, (0, False))[0]:
            self._over[name] = seq, over

    def _forget_rollback(self, name: str, step: str) -> None:
        """A rollback that is made again begins with its first attempts again."""
        self.started = {each for each in self.started if each[:3] != (name, "rollback", step)}


@dataclass(frozen=True, slots=True)
class Mark:
    """An effect that began, or was finished."""

    kind: Literal["began", "done"]
    step: StepKey
    attempt: int
    round: int
    """Which rollback it belongs to; 0 in the run."""
    epoch: int
    agent: str
    at: float


class Effects:
    """The outside world: keeps every effect, and says what was wrong with it."""

    def __init__(self, loop: Loop, truth: Truth, partition_of: Callable[[str], int]) -> None:
        self._loop = loop
        self._truth = truth
        self._partition_of = partition_of
        self.marks: list[Mark] = []
        self.violations: list[str] = []

    def begin(self, step: StepContext, *, repeatable: bool) -> None:
        """An effect begins."""
        mark = self._mark("began", step)
        for problem in self._problems(step, mark, repeatable):
            self.violations.append(f"{problem}: {mark}")
        self.marks.append(mark)

    def finish(self, step: StepContext) -> None:
        """It is complete."""
        self.marks.append(self._mark("done", step))

    def _mark(self, kind: Literal["began", "done"], step: StepContext) -> Mark:
        key = step.execution_id, step.phase, step.step
        agent = current.get().name
        self._loop.note(f"{agent}: {kind} {'/'.join(key)} attempt {step.attempt} epoch {step.epoch}")
        round = self._truth.rollbacks.get(step.execution_id, 0) if step.phase == "rollback" else 0
        return Mark(kind, key, step.attempt, round, step.epoch, agent, self._loop.time())

    def _problems(self, step: StepContext, mark: Mark, repeatable: bool) -> list[str]:
        found = []
        truth = self._truth
        if step.dry_run:
            found.append("a dry run changed something")
        if (*mark.step, mark.attempt) not in truth.started:
            found.append("an effect before its step.started is durable")
        same = (mark.step, mark.attempt, mark.round)
        before = [m for m in self.marks if m.kind == "began" and (m.step, m.attempt, m.round) == same]
        if any(m.epoch == mark.epoch for m in before):
            found.append("an owner made the same attempt twice")
        if before and not repeatable:
            found.append("a step that may not be repeated was made again")
        owner, since = truth.owners[self._partition_of(step.execution_id)]
        blind = _was_frozen() or (owner != step.epoch and self._loop.time() - since <= PROOF_SECONDS)
        if not blind:
            if owner != step.epoch:
                found.append(f"an effect by who is not the owner any more (that is {owner})")
            if mark.step in truth.ended:
                found.append(f"an effect after the step's end ({truth.ended[mark.step]})")
        return found


def _was_frozen() -> bool:
    """Whether the process stood still since the attempt began: nothing within it can prevent what follows."""
    task = asyncio.current_task()
    while isinstance(task, Task):
        if task.get_name() == ADAPTER:
            return task.process.thaws != task.born_thaws
        task = task.parent
    return False


class SimConfig(BaseModel):
    """What a simulated step does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float = 0.0
    fail_times: int = 0
    permanent: bool = False
    repeatable: bool = False
    capture: bool = False
    again: bool = False
    """Whether it may be made again after a crash, all in all (`on_interrupt` decides over `repeatable`)."""


@dataclass(frozen=True, slots=True)
class SimAction:
    """A step that leaves marks."""

    config: SimConfig
    effects: Effects

    @property
    def repeatable(self) -> bool:
        return self.config.repeatable

    @property
    def time_limit(self) -> float | None:
        return None

    async def plan(self, step: StepContext) -> Plan:
        return Plan(summary=f"would run {step.step}", changes=True)

    async def run(self, step: StepContext) -> JsonObject:
        config = self.config
        if config.capture:
            await step.capture({"before": step.step}, f"{step.step} as it was")
        self.effects.begin(step, repeatable=config.again)
        if config.seconds:
            await asyncio.sleep(config.seconds)
        if step.attempt <= config.fail_times:
            kind = PermanentError if config.permanent else TemporaryError
            raise kind(f"attempt {step.attempt} failed as drawn", code="drawn")
        self.effects.finish(step)
        return {"attempt": step.attempt}


class SimAdapter:
    """The adapter of one agent."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects

    @property
    def name(self) -> str:
        return ADAPTER

    @property
    def config_model(self) -> type[BaseModel]:
        return SimConfig

    def check(self, config: JsonObject, scope: Scope) -> Sequence[Problem]:
        return values.check_config(SimConfig, config, scope)

    def prepare(self, config: JsonObject, scope: Scope) -> Action:
        return SimAction(values.bind(SimConfig, config, scope), self._effects)

    async def plan_undo(self, record: JsonObject, step: StepContext) -> Plan:
        return Plan(summary=f"would undo {step.step}", changes=True)

    async def undo(self, record: JsonObject, step: StepContext) -> JsonObject:
        self._effects.begin(step, repeatable=True)
        await asyncio.sleep(0)
        self._effects.finish(step)
        return {"undone": record["before"]}

    async def aclose(self) -> None:
        """Nothing is open."""


def adapters(effects: Effects, delay: Adapter) -> dict[str, Adapter]:
    """What the agents of a schedule have."""
    return {ADAPTER: SimAdapter(effects), "delay": delay}
