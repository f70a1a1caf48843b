"""A supervisor over a journal in memory, with steps that do what a test asks for, and a user's view of the trail."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer.adapters import delay
from consumer.clock import SystemClock
from consumer.engine.incoming import Incoming, Understood
from consumer.engine.services import Limits, NoPackages, Services
from consumer.engine.strays import Strays
from consumer.engine.supervisor import Partition, Supervisor, supervising
from consumer.policy.command_signatures import Signed
from consumer.policy.judge import Policy
from consumer.policy.load import OPEN
from consumer.ports import CommandTopic, Journal, Packages, Topic
from consumer.telemetry.metrics import Metrics
from schemas import events, snapshot
from schemas.commands import Command, ControlCommand, ExecuteCommand, RollbackCommand
from schemas.events import Event, Source
from schemas.execution import ExecutionState, apply
from tests.support.eventually import eventually
from tests.support.memory_journal import Log, MemoryJournal

PLUGINS = Path(__file__).parent / "plugin"
#: Generous: the machine may be loaded.
PATIENCE = 60.0
ROLES = {
    ExecuteCommand: CommandTopic.EXECUTE,
    RollbackCommand: CommandTopic.ROLLBACK,
    ControlCommand: CommandTopic.CONTROL,
}
_offsets = count()
Sign = Callable[[Signed], Sequence[tuple[str, bytes]]]


def probe_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plug-in whose steps do what a test asks for, with nothing seen yet."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    module = importlib.import_module("wpk_probe")
    module.seen.clear()
    return module


class ShiftedClock:
    """The system's clock, moved by a test."""

    def __init__(self) -> None:
        self.shift = timedelta()
        self._clock = SystemClock()

    def now(self) -> datetime:
        return self._clock.now() + self.shift


@dataclass
class House:
    """One agent's engine and its log. `move` gives the partition to a new owner."""

    supervisor: Supervisor
    journal: MemoryJournal
    partition: Partition
    clock: ShiftedClock
    services: Services
    traceparent: str | None = None
    """What the commands come with."""

    @property
    def log(self) -> Log:
        return self.journal.log

    def events(self, execution_id: str = "e1") -> list[Event]:
        """The durable events of an execution, in order."""
        topics = (Topic.PROGRESS, Topic.LOGS, Topic.RESULTS)
        found = [
            events.decode(record.value)
            for topic in topics
            for record in self.log.records(topic)
            if record.value is not None and record.key == execution_id.encode()
        ]
        return sorted(found, key=lambda event: event.data.seq)

    def names(self, execution_id: str = "e1") -> list[str]:
        """Their names, log lines left out."""
        return [event.name for event in self.events(execution_id) if event.name != "log.lines"]

    def lines(self, execution_id: str = "e1", stream: str | None = None) -> list[str]:
        """The lines of the log topic."""
        batches = [e.data for e in self.events(execution_id) if isinstance(e.data, events.LogLines)]
        return [line.text for batch in batches if stream in (None, batch.stream) for line in batch.lines]

    def state(self, execution_id: str = "e1") -> ExecutionState | None:
        """What the durable events say; raises where they have a gap or a double."""
        state: ExecutionState | None = None
        for event in self.events(execution_id):
            after = apply(state, event)
            assert after is not state, f"{event.name} {event.data.seq} is not the next"
            state = after
        return state

    def kept(self, execution_id: str = "e1") -> ExecutionState:
        """What a next owner would load."""
        return load(self.log)[execution_id]

    async def send(
        self,
        command: Command,
        headers: Sign = lambda signed: (),
        *,
        awaited: bool = False,
        key: bytes | None = b"e1",
    ) -> None:
        """The command, taken in and durable. `headers` may sign it."""
        execution_id, value = command.execution_id or "e1", command.model_dump_json().encode()
        incoming = Incoming(
            topic=ROLES[type(command)],
            source=Source(topic="t", partition=0, offset=next(_offsets)),
            content=Understood(execution_id=execution_id, command=command, traceparent=self.traceparent),
            key=key,
            value=value,
            headers=tuple(headers(Signed(topic="t", execution_id=execution_id, key=key, value=value))),
        )
        await (await self.supervisor.take(self.partition, incoming, awaited=awaited))

    async def execute(self, wpk: dict[str, Any], execution_id: str = "e1", **more: Any) -> None:
        await self.send(ExecuteCommand(execution_id=execution_id, wpk_content=wpk, **more))

    async def control(self, action: str, execution_id: str = "e1", **more: Any) -> None:
        await self.send(ControlCommand.model_validate({"execution_id": execution_id, "action": action, **more}))

    async def rollback(self, execution_id: str = "e1", **more: Any) -> None:
        await self.send(RollbackCommand(execution_id=execution_id, **more))

    async def until(self, check: Any, execution_id: str = "e1") -> ExecutionState:
        """The durable state once it is as wanted."""

        def look() -> ExecutionState | None:
            state = self.state(execution_id)
            return state if state is not None and check(state) else None

        found = await eventually(look, timeout=PATIENCE, because=f"{execution_id}: {self.names(execution_id)}")
        assert found is not None
        return found

    async def over(self, execution_id: str = "e1") -> ExecutionState:
        """The state when it has ended and its task is gone."""
        state = await self.until(lambda state: state.over, execution_id)
        await eventually(lambda: execution_id not in self.partition.live, timeout=PATIENCE, because="it lives on")
        return state

    async def runs(self, step: str, execution_id: str = "e1") -> None:
        """Waits until the step has begun."""
        await self.until(lambda state: state.current_step == step, execution_id)

    async def move(self) -> None:
        """The owner is lost; the next one, here too, goes on with what is durable."""
        journal = self.journal.successor()
        await self.supervisor.drop(self.partition)
        self.journal, self.partition = journal, await self.supervisor.adopt(journal, load(journal.log).items())


def load(log: Log) -> dict[str, ExecutionState]:
    """The states that lie in the state topic."""
    return snapshot.load({key.decode(): value for key, value in log.state().items()})


@dataclass
class Secrets:
    values: dict[str, str] = field(default_factory=dict)

    async def __call__(self, names: Iterable[str]) -> Mapping[str, str]:
        return {name: self.values[name] for name in names if name in self.values}


@asynccontextmanager
async def house(
    probe: Any,
    *,
    journal: MemoryJournal | None = None,
    adapters: Mapping[str, Any] | None = None,
    secrets: dict[str, str] | None = None,
    policy: Policy = OPEN,
    packages: Packages | None = None,
    grace: float = 15.0,
    **limits: Any,
) -> AsyncIterator[House]:
    """An engine that owns partition 0 and has accepted nothing yet (or goes on with what the journal's log holds)."""
    journal = journal or MemoryJournal()
    clock = ShiftedClock()
    services = Services(
        agent="tester",
        clock=clock,
        adapters={"probe": probe.build(None), "delay": delay.build(None), **(adapters or {})},  # type: ignore[arg-type]
        secrets=Secrets(secrets or {}),
        policy=policy,
        metrics=Metrics(CollectorRegistry()),
        draw=lambda: 0.5,
        limits=Limits(**limits),
        packages=packages or NoPackages(),
        strays=Strays(grace),
    )

    async def read_state(owner: Journal) -> Mapping[str, bytes]:
        return {key.decode(): value for key, value in journal.log.state().items()}

    async with supervising(services, read_state) as supervisor:
        yield House(supervisor, journal, await supervisor.adopt(journal, load(journal.log).items()), clock, services)


def package(*handlers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "probing", "version": "1.2.0"}, "spec": {"handlers": list(handlers), **spec}}


def step(name: str, config: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "probe", "config": config or {}, **more}
