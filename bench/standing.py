"""What an agent holds and how it comes back: memory, restore, a kill, and the cost of a run after many."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator

from confluent_kafka import Producer

from bench import trail
from bench.approvals import waiting
from bench.figures import Figure, cpu_seconds
from bench.stage import Stage, Watch, delay, package, quiet_lines, stage
from bench.w3 import SHAPED, W3, WARM_UP, Plan, Worker, agents, worker
from consumer.client import partition_of
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.ports import Topic
from tests.audit import many
from tests.support.kafka import embedded_broker

_LEAST: dict[str, object] = {"WPK_PROCESSING_GUARANTEE": "at_least_once"}
SESSION = 6.0


def _one(name: str, unit: str, *values: float, floor: list[float] | None = None, higher: bool = False) -> Figure:
    return Figure(name=name, unit=unit, higher_is_better=higher, ours=list(values), floor=floor)


async def idle() -> list[Figure]:
    """Resident memory of an agent that owns 12 partitions and has nothing to do."""
    found = []
    for guarantee in ("at_least_once", "exactly_once"):
        async with stage(settings={"WPK_PROCESSING_GUARANTEE": guarantee}) as house, house.agent() as agent:
            with Watch(agent.pid) as watch:
                found.append(_one(f"memory of an idle agent ({guarantee})", "MB", watch.look().rss / 1e6))
    return found


async def waiting_memory(count: int = 10_000) -> list[Figure]:
    """What each execution that waits for an approval adds to the agent's memory."""
    told = await waiting(count / 10_000)
    each = float(str(told["bytes_per_waiting"]))
    return [_one("memory per waiting execution", "KB", each / 1000)]


async def flat(steps: tuple[int, ...] = (0, 10_000), burst: int = 2_000) -> list[Figure]:
    """CPU of the agent per W3 after so many have finished, beside what it was after none."""
    plan = Plan(burst=burst)
    async with stage(settings=_LEAST) as house, agents(house) as ours:
        await asyncio.to_thread(ours.burst, burst, W3)
        costs, done = [], 0
        for finished in steps:
            if finished > done:
                await asyncio.to_thread(ours.burst, finished - done, W3)
                done = finished
            some = [await asyncio.to_thread(ours.burst, plan.burst, W3) for _ in range(3)]
            costs.append([one.worker_ms for one in some])
    return [
        _one(f"CPU per W3 after {finished:,} finished runs", "ms", *cost, floor=costs[0])
        for finished, cost in zip(steps[1:], costs[1:], strict=True)
    ]


def _copies(found: list[tuple[bytes, bytes]], pattern: bytes, count: int) -> Iterator[tuple[bytes, bytes]]:
    """These records again and again, for other executions with names of the same length."""
    for number in range(count):
        name = b"r%d" % number
        name = name.ljust(len(pattern), b"_")
        for key, value in found:
            yield key.replace(pattern, name), value.replace(pattern, name)


async def restore(count: int = 100_000) -> list[Figure]:
    """From the start of an agent to its readiness, with so many ended executions in the state, beside none of them."""
    async with stage(settings=_LEAST) as house:
        pattern = f"w3-{WARM_UP + SHAPED // 2:08}".encode()
        async with agents(house) as ours:
            await asyncio.to_thread(ours.burst, SHAPED, W3)
        with house.reader(Topic.STATE.value) as reader:
            messages = await quiet_lines(reader, 1.5)
        newest = {m.key(): m.value() for m in messages if pattern in (m.key() or b"")}
        found = [(key, value) for key, value in newest.items() if key and value]
        assert found, "the state has nothing of a finished execution"
        empty = await _ready_after(house)
        await asyncio.to_thread(_write_state, house, list(_copies(found, pattern, count)))
        full = await _ready_after(house)
    name = f"restore of {count:,} executions"
    return [_one(name, "s", full[0] - empty[0]), _one(f"{name}, CPU", "s", full[1] - empty[1])]


def _write_state(house: Stage, rows: list[tuple[bytes, bytes]]) -> None:
    producer = Producer(
        {
            "log_level": 0,
            "bootstrap.servers": house.broker.bootstrap,
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    for key, value in rows:
        # By the execution's id, as commands are, whatever else the state's key holds.
        place = partition_of(re.search(rb"r\d+_*", key)[0].decode(), house.partitions)  # type: ignore[index]
        while True:
            with contextlib.suppress(BufferError):
                producer.produce(f"{house.prefix}.{Topic.STATE.value}", value, key=key, partition=place)
                break
            producer.poll(0.5)
    assert producer.flush(120) == 0


async def _ready_after(house: Stage) -> tuple[float, float]:
    """Seconds from an agent's start to its readiness, and seconds of a core that it used until then."""
    began = time.monotonic()
    async with house.agent() as agent:
        return time.monotonic() - began, cpu_seconds(agent.pid)


async def kill(rounds: int = 2) -> list[Figure]:
    """From the kill of one of two agents until executions on all partitions, sent right after it, have ended."""
    took: list[float] = []
    more: dict[str, object] = {"WPK_SESSION_TIMEOUT": f"{SESSION:g}s", "WPK_PROCESSING_GUARANTEE": "exactly_once"}
    async with stage(settings=more) as house, house.agent() as stays:
        for _ in range(rounds):
            async with house.agent() as dies:
                with worker(house, [stays.pid]) as made:
                    took.append(await _killed(made, dies.kill, rounds=len(took)))
    return [_one(f"from a kill to results again (session timeout {SESSION:g} s)", "s", *took)]


async def _killed(made: Worker, end: Callable[[], Awaitable[None]], *, rounds: int) -> float:
    # Names that no round before has used, on all partitions.
    for _ in range(rounds * 100):
        next(made.numbers)
    await asyncio.to_thread(made.burst, 48, package(delay()))
    began = time.monotonic()
    await end()
    await asyncio.to_thread(made.burst, 48, package(delay()))
    return time.monotonic() - began


async def replay(executions: int = 5_000) -> list[Figure]:
    """Events per second of a core that a checked replay of the trail gives, beside fetching and parsing them."""
    names = TopicNames(f"bench-{secrets.token_hex(3)}")
    with embedded_broker() as broker:
        connection = KafkaConnection(bootstrap_servers=broker.bootstrap)
        events = await many.write(connection, names, executions, transactions=False)
        pairs = [
            (
                events / await trail.replay(connection, names, events),
                events / await trail.floor(broker.bootstrap, names, events),
            )
            for _ in range(3)
        ]
    return [
        _one(
            "replay of the trail",
            "events/s",
            *(own for own, _ in pairs),
            floor=[bare for _, bare in pairs],
            higher=True,
        )
    ]
