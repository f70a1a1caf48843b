"""Agents inside of the test's process, on a real broker, and a user's view of the topics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from consumer import agent
from consumer.journal import topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.settings import Settings
from schemas import events
from schemas.events import Event
from schemas.execution import ExecutionState
from schemas.trail import Trail
from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker

PLUGINS = Path(__file__).parent / "plugin"
#: Generous: a loaded machine with two cores runs two brokers and the tests.
PATIENCE = 60.0


def settings(kafka: KafkaBroker, prefix: str, **more: Any) -> Settings:
    """An agent's settings for a test: quick rebalances, two partitions, no network forbidden."""
    return Settings(
        **{
            "kafka_bootstrap_servers": kafka.bootstrap,
            "topic_prefix": prefix,
            "group_id": f"{prefix}-agents",
            "partitions": 2,
            "prometheus_port": 0,
            "prometheus_host": "127.0.0.1",
            "fetch_max_wait_ms": 10 if kafka.kind == "embedded" else 100,
            "session_timeout": 6,
            "http_allow": ("*",),
            "policy_file": "open",
            "shutdown_grace": 1,
            **more,
        }
    )


async def create_topics(config: Settings) -> None:
    """The topics of that prefix."""
    connection = KafkaConnection.of(config, client_id="test")
    await topics.create(connection, TopicNames(config.topic_prefix), config.partitions)


@dataclass(frozen=True, slots=True)
class Running:
    """An agent that is ready."""

    stop: asyncio.Event
    task: asyncio.Task[None]
    started: agent.Started

    async def end(self) -> None:
        """Stops it in order, as SIGTERM does."""
        self.stop.set()
        await self.task


@asynccontextmanager
async def running(config: Settings) -> AsyncIterator[Running]:
    """An agent while the block lasts; entered when it owns its partitions."""
    stop, ready = asyncio.Event(), asyncio.Event()
    told: list[agent.Started] = []
    task = asyncio.create_task(agent.work(config, stop, on_start=told.append, ready=ready))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait([task, waiting], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        assert ready.is_set(), "the agent was not ready in time"
        yield Running(stop, task, told[0])
    finally:
        waiting.cancel()
        stop.set()
        await task


class Topics:
    """What a user of the topics does: publishes commands, reads all that comes."""

    def __init__(self, config: Settings, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer) -> None:
        self._names = TopicNames(config.topic_prefix)
        self._producer = producer
        self._consumer = consumer
        self.trails: dict[str, Trail] = {}
        self.raw: dict[str, list[bytes]] = {}
        """The values of each execution's events, as they came."""
        self.dead: list[Any] = []

    async def publish(self, topic: str, body: object, key: str | None = None) -> None:
        """A command, as JSON unless it is bytes already."""
        value = body if isinstance(body, bytes) else json.dumps(body).encode()
        name = f"{self._names.prefix}.commands.{topic}"
        await self._producer.send_and_wait(name, value, key=key.encode() if key else None)

    async def execute(self, execution_id: str, package: object, **more: object) -> None:
        """An execute command."""
        await self.publish("execute", {"execution_id": execution_id, "wpk_content": package, **more}, execution_id)

    async def control(self, execution_id: str, action: str, **more: object) -> None:
        """A control command."""
        await self.publish("control", {"execution_id": execution_id, "action": action, **more}, execution_id)

    async def rollback(self, execution_id: str, **more: object) -> None:
        """A rollback command."""
        await self.publish("rollback", {"execution_id": execution_id, **more}, execution_id)

    async def read(self) -> None:
        """Takes in what has come."""
        for tp, records in (await self._consumer.getmany(timeout_ms=50)).items():
            for record in records:
                if tp.topic.endswith("dead-letter"):
                    self.dead.append(record)
                    continue
                event = events.decode(record.value)
                self.trails.setdefault(event.data.execution_id, Trail()).add(event)
                self.raw.setdefault(event.data.execution_id, []).append(record.value)

    def events(self, execution_id: str) -> list[Event]:
        """The events so far, in order."""
        trail = self.trails.get(execution_id)
        return trail.events if trail else []

    def names(self, execution_id: str) -> list[str]:
        """The events' names so far, log lines left out."""
        return [event.name for event in self.events(execution_id) if event.name != "log.lines"]

    def log(self, execution_id: str, step: str | None = None) -> list[str]:
        """The lines of the log so far."""
        batches = (e.data for e in self.events(execution_id) if isinstance(e.data, events.LogLines))
        return [line.text for batch in batches if step in (None, batch.step) for line in batch.lines]

    async def until(self, execution_id: str, check: Callable[[ExecutionState], object]) -> ExecutionState:
        """The state once it is as wanted."""

        async def look() -> ExecutionState | None:
            await self.read()
            trail = self.trails.get(execution_id)
            state = trail.state if trail else None
            return state if state is not None and check(state) else None

        state = await eventually(look, timeout=PATIENCE, because=f"{execution_id}: {self.names(execution_id)}")
        assert state is not None
        return state

    async def over(self, execution_id: str) -> ExecutionState:
        """The state at the execution's end."""
        return await self.until(execution_id, lambda state: state.over)

    async def event(self, execution_id: str, name: str, count: int = 1) -> Event:
        """The newest event of that name, once there are so many of them."""

        async def look() -> Event | None:
            await self.read()
            found = [event for event in self.events(execution_id) if event.name == name]
            return found[-1] if len(found) >= count else None

        event = await eventually(look, timeout=PATIENCE, because=f"{name} of {execution_id}")
        assert event is not None
        return event

    def assert_whole(self, execution_id: str) -> None:
        """The trail has no gap, no double, and its hash chain holds."""
        chain = sorted((orjson.loads(value)["data"]["seq"], value) for value in self.raw[execution_id])
        assert [seq for seq, _ in chain] == list(range(1, len(chain) + 1))
        before = ""
        for _, value in chain:
            data = orjson.loads(value)["data"]
            assert data["prev_hash"] == before
            assert data["hash"] == events.chain_hash(value)
            before = data["hash"]


@asynccontextmanager
async def user(config: Settings) -> AsyncIterator[Topics]:
    """A user of the topics, which must exist."""
    names = TopicNames(config.topic_prefix)
    roles = ("events.progress", "events.logs", "events.results", "dead-letter")
    producer = AIOKafkaProducer(bootstrap_servers=config.kafka_bootstrap_servers, acks="all")
    consumer = AIOKafkaConsumer(
        *(f"{names.prefix}.{role}" for role in roles),
        bootstrap_servers=config.kafka_bootstrap_servers,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=20,
    )
    await producer.start()
    try:
        await consumer.start()
        yield Topics(config, producer, consumer)
    finally:
        await consumer.stop()
        await producer.stop()
