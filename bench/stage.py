"""What the measurements stand on: a broker and agents of their own, a publisher, a reader, and a watch on memory."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from tests.support import processes
from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker, apache_broker, embedded_broker

_QUIET = {"log_level": 0}
MB = 1 << 20
#: Seconds without any progress after which a load has failed.
STILL = 120.0
Figures = dict[str, object]


def package(*steps: dict[str, object], approval: bool = False) -> dict[str, object]:
    """A package of these steps."""
    return {
        "apiVersion": "v1",
        "kind": "WorkflowPackage",
        "metadata": {"name": "bounds", "version": "1.0.0"},
        "spec": {"handlers": list(steps), "safety": {"approval_required": approval}},
    }


def mb(size: float) -> float:
    """Bytes in MB."""
    return round(size / MB, 1)


def delay(name: str = "wait", duration: str = "0s", **more: object) -> dict[str, object]:
    """A step that waits, by default not at all."""
    return {"name": name, "type": "delay", "config": {"duration": duration}, **more}


def executes(prefix: str, count: int, content: object, **more: object) -> Iterator[tuple[str, object]]:
    """Execute commands of that content, with names of their own."""
    for number in range(count):
        name = f"{prefix}-{number}"
        yield name, {"execution_id": name, "wpk_content": content, **more}


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at one moment."""

    seconds: float
    """Since the watch began."""
    rss: int
    """Resident memory in bytes."""
    files: int
    """Open file descriptors, sockets included."""


class Watch:
    """Looks at a process again and again, in a thread of its own; `peak` is the kernel's own figure."""

    def __init__(self, pid: int, interval: float = 0.5) -> None:
        self._pid = pid
        self._interval = interval
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.curve: list[Sample] = []
        self.peak = 0

    def look(self) -> Sample:
        """The process now."""
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{self._pid}/status").read_text().splitlines() if ":" in line
        )
        self.peak = int(fields["VmHWM"].split()[0]) * 1024
        files = len(os.listdir(f"/proc/{self._pid}/fd"))  # noqa: PTH208 - only their number is asked for
        return Sample(time.monotonic() - self._began, int(fields["VmRSS"].split()[0]) * 1024, files)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self.curve.append(self.look())
            except (OSError, KeyError):  # it has ended
                return

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, KeyError):
            self.curve.append(self.look())
        self._stop.set()
        self._thread.join()

    def drawn(self, points: int = 12) -> list[tuple[float, float]]:
        """The curve by some of its points: seconds, and MB."""
        step = max(1, len(self.curve) // points)
        return [(round(s.seconds, 1), round(s.rss / MB, 1)) for s in self.curve[::step]]


@dataclass
class Stage:
    """One broker, with topics of its own for one agent group."""

    broker: KafkaBroker
    partitions: int
    settings: dict[str, object] = field(default_factory=dict)
    prefix: str = field(default_factory=lambda: f"bench-{secrets.token_hex(4)}")

    def variables(self, **more: object) -> dict[str, str]:
        """The environment of an agent."""
        merged: dict[str, object] = {"WPK_PARTITIONS": self.partitions, **self.settings, **more}
        return processes.environment(self.broker, self.prefix, **merged)

    async def create_topics(self) -> None:
        await processes.create_topics(self.variables())

    @asynccontextmanager
    async def agent(self, *, ready: bool = True, **more: object) -> AsyncIterator[processes.AgentProcess]:
        """An agent while the block lasts. Its last words are not shown: they are thousands of lines."""
        with contextlib.redirect_stdout(io.StringIO()):
            async with processes.agent(self.variables(**more), ready=False) as running:
                if ready:
                    await _ready(running)
                with contextlib.redirect_stdout(_terminal):
                    yield running

    def publish(self, role: str, bodies: Iterable[tuple[str, object]]) -> float:
        """Publishes (execution id, body) on `commands.<role>`; the seconds until the broker had all."""
        began = time.monotonic()
        producer = Producer(
            {
                **_QUIET,
                "bootstrap.servers": self.broker.bootstrap,
                "acks": "all",
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "queue.buffering.max.messages": 1_000_000,
                "message.max.bytes": 8 * MB,
            }
        )
        failed: list[str] = []

        def told(error: object, _message: Message) -> None:
            if error is not None:
                failed.append(str(error))

        for execution_id, body in bodies:
            value = body if isinstance(body, bytes) else orjson.dumps(body)
            producer.produce(f"{self.prefix}.commands.{role}", value, key=execution_id, on_delivery=told)
            producer.poll(0)
        assert producer.flush(120) == 0 and not failed, failed[:3]
        return time.monotonic() - began

    @contextmanager
    def reader(self, *topics: str) -> Iterator[Consumer]:
        """A `read_committed` consumer of these topics, from their beginning, without a group."""
        consumer = Consumer(
            {
                **_QUIET,
                "bootstrap.servers": self.broker.bootstrap,
                "group.id": f"{self.prefix}-bench",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "fetch.message.max.bytes": 8 * MB,
            }
        )
        consumer.assign(
            [
                TopicPartition(f"{self.prefix}.{topic}", number, OFFSET_BEGINNING)
                for topic in topics
                for number in range(self.partitions)
            ]
        )
        try:
            yield consumer
        finally:
            consumer.close()


async def _ready(agent: processes.AgentProcess) -> None:
    """Returns when it is ready; many partitions, or a large state, may take long on a machine with other work."""

    async def look() -> bool:
        return (await agent.get("/readyz"))[0] == 200

    await eventually(look, timeout=600, interval=0.05, because="the agent is ready")


_terminal = io.TextIOWrapper(os.fdopen(os.dup(1), "wb", buffering=0), write_through=True)


@asynccontextmanager
async def stage(
    *, kind: str = "apache", partitions: int = 12, settings: dict[str, object] | None = None
) -> AsyncIterator[Stage]:
    """A stage with its topics, on a broker that nobody else uses."""
    with apache_broker() if kind == "apache" else embedded_broker() as broker:
        made = Stage(broker, partitions, settings or {})
        await made.create_topics()
        yield made


class Ends:
    """The results that came, by execution: how often, and with which status."""

    def __init__(self) -> None:
        self.times: Counter[bytes] = Counter()
        self.statuses: Counter[str] = Counter()

    def add(self, messages: Iterable[Message]) -> None:
        """Takes records of the results topic in."""
        for message in messages:
            if message.error() is None:
                data = orjson.loads(message.value())["data"]
                refused = data.get("command") is not None  # it answers a command; the execution stands
                if not data.get("rollback_follows") and not refused:
                    self.times[message.key()] += 1
                    self.statuses[data["status"]] += 1

    async def until(
        self, consumer: Consumer, count: int, *, limit: float, each: Callable[[], None] = lambda: None
    ) -> float:
        """Reads until so many executions have ended; the seconds. Raises TimeoutError after `limit` seconds in which
        nothing came."""
        began = moved = time.monotonic()
        while len(self.times) < count:
            messages = await asyncio.to_thread(consumer.consume, 1000, 0.2)
            self.add(messages)
            each()
            if messages:
                moved = time.monotonic()
            elif time.monotonic() - moved > limit:
                raise TimeoutError(f"{len(self.times)} of {count} have ended, none in the last {limit:g} s")
        return time.monotonic() - began

    def once(self) -> bool:
        """Whether each ended exactly once."""
        return all(times == 1 for times in self.times.values())


async def quiet_lines(consumer: Consumer, seconds: float) -> list[Message]:
    """All records until none comes for so long."""
    found: list[Message] = []
    quiet = time.monotonic()
    while time.monotonic() - quiet < seconds:
        messages = await asyncio.to_thread(consumer.consume, 1000, 0.2)
        if messages:
            quiet = time.monotonic()
            found += [message for message in messages if message.error() is None]
    return found
