"""W3: a workflow of three steps that do nothing, each durable, beside the floor on the same broker."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from bench import floor, shape
from bench.client import Client, Command
from bench.figures import Figure, cpu_seconds, quantile
from bench.shape import RecordShape
from bench.stage import Stage, delay, package, quiet_lines, stage
from consumer.ports import Topic
from tests.support import processes
from tests.support.daemon import Daemon
from tests.support.kafka import ProcessBroker

W3 = package(delay("one"), delay("two"), delay("three"))
#: Before anything is measured: imports, connections, and what is compiled or cached at first use.
WARM_UP = 200
#: An agent under a burst writes as it does under load, so its records are read after one.
SHAPED = 300
#: Submitted per second where latency is measured.
RATE = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    title: str = "W3"
    content: object = field(default_factory=lambda: W3)
    """The package of each command."""
    settings: dict[str, object] = field(default_factory=dict)
    """Of the agent, beside the guarantee."""
    amount: float = 1.0
    unit: str = "/s"
    """What one execution counts for in the throughput, and the unit that it then has."""
    warm_up: int = WARM_UP
    shaped: int = SHAPED
    kind: str = "apache"
    guarantee: str = "at_least_once"
    partitions: int = 12
    agents: int = 1
    rounds: int = 5
    burst: int = 2_000
    latencies: int = 200
    """Executions at a fixed rate, in each of two rounds; 0 measures none."""
    sends: str = "each"
    """How the floor sends: `each` record, or by `batch`."""

    @property
    def name(self) -> str:
        parts = [self.kind, self.guarantee]
        if self.partitions != 12:
            parts.append(f"{self.partitions} partitions")
        if self.agents > 1:
            parts.append(f"{self.agents} agents")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Worker:
    """Who works on commands, and the client for it."""

    house: Stage
    client: Client
    pids: Sequence[int]
    broker: int
    numbers: Iterator[int]

    def commands(self, count: int, content: object) -> list[Command]:
        """So many, with names that were not used before."""
        names = [f"w3-{next(self.numbers):08}" for _ in range(count)]
        return [(name.encode(), orjson.dumps({"execution_id": name, "wpk_content": content})) for name in names]

    def burst(self, count: int, content: object) -> Burst:
        """Submits so many at once, until all have ended."""
        commands = self.commands(count, content)
        before, broker = sum(map(cpu_seconds, self.pids)), cpu_seconds(self.broker)
        seconds = self.client.burst(commands)
        used, served = sum(map(cpu_seconds, self.pids)) - before, cpu_seconds(self.broker) - broker
        return Burst(count / seconds, used / count * 1000, served / count * 1000)

    def paced(self, count: int, content: object) -> Paced:
        """Submits so many at a fixed rate, until all have ended."""
        commands = self.commands(count, content)
        before = sum(map(cpu_seconds, self.pids))
        took = self.client.paced(commands, RATE)
        return Paced(took, (sum(map(cpu_seconds, self.pids)) - before) / count * 1000)


@dataclass(frozen=True, slots=True)
class Burst:
    """What one burst gave."""

    per_second: float
    worker_ms: float
    """Milliseconds of a core per execution."""
    broker_ms: float


@dataclass(frozen=True, slots=True)
class Paced:
    """What executions at a fixed rate gave."""

    took: list[float]
    """Seconds from when each was due to its end seen."""
    worker_ms: float
    """As of `Burst`; more than there, since there is nothing to be done together."""


_Bursts = tuple[Burst, Burst]
_Waits = tuple[Paced, Paced]
"""Of ours, and of the floor."""


def fetch_wait(house: Stage) -> int:
    """The embedded broker does not answer a fetch when a record comes; Apache Kafka does."""
    return 10 if house.broker.kind == "embedded" else 100


@contextmanager
def worker(house: Stage, pids: Sequence[int]) -> Iterator[Worker]:
    """The client for processes that work on this stage's commands."""
    assert isinstance(house.broker, ProcessBroker), "bursts are measured on a broker of this machine"
    wait = fetch_wait(house)
    with Client(house.broker.bootstrap, house.prefix, house.partitions, fetch_wait_ms=wait) as client:
        yield Worker(house, client, pids, house.broker.pid, itertools.count())


@asynccontextmanager
async def agents(house: Stage, count: int = 1, *, warm_up: int = WARM_UP) -> AsyncIterator[Worker]:
    """So many agents, warm, and their client."""
    async with contextlib.AsyncExitStack() as stack:
        running = [await stack.enter_async_context(house.agent()) for _ in range(count)]
        with worker(house, [agent.pid for agent in running]) as made:
            await asyncio.to_thread(made.burst, warm_up, W3)
            yield made


@asynccontextmanager
async def floor_beside(house: Stage, records: Sequence[RecordShape], plan: Plan) -> AsyncIterator[Worker]:
    """The floor on topics of its own of the same broker, warm, and its client."""
    own = Stage(house.broker, house.partitions, house.settings)
    await own.create_topics()
    with tempfile.TemporaryDirectory(prefix="wpk-floor-") as folder:
        file = Path(folder) / "shape.json"
        shape.save(records, file)
        command = [sys.executable, "-m", "bench.floor", "--shape", str(file), "--sends", plan.sends]
        variables = {**os.environ, **own.variables()}
        process = Daemon("floor", command, directory=Path(folder), environment=variables)
        process.start()
        try:
            await asyncio.to_thread(process.await_service, lambda: floor.READY in process.output, processes.PATIENCE)
            with worker(own, [process.pid]) as made:
                await asyncio.to_thread(made.burst, min(plan.warm_up, plan.burst), W3)
                yield made
        finally:
            await asyncio.to_thread(process.stop)


async def records_of_a_run(house: Stage, ours: Worker, plan: Plan) -> list[RecordShape]:
    """What the agent writes for one execution in the middle of a burst."""
    await asyncio.to_thread(ours.burst, plan.shaped, plan.content)
    middle = f"w3-{plan.warm_up + plan.shaped // 2:08}".encode()
    with house.reader(*(topic.value for topic in Topic)) as reader:
        return shape.of_run(await quiet_lines(reader, 1.5), house.prefix, middle)


def completed(ours: Worker) -> None:
    """Raises AssertionError unless all that the agent ended was completed, once each."""
    assert len(ours.client.results) == len(ours.client.seen), "an execution ended twice"
    statuses = {orjson.loads(result)["data"]["status"] for result in ours.client.results}
    assert statuses == {"completed"}, statuses


async def by_turns(plan: Plan, ours: Worker, bare: Worker) -> tuple[list[_Bursts], list[_Waits]]:
    """Bursts, then a fixed rate, of the one and the other by turns, so that both meet the same machine."""
    bursts = [
        (
            await asyncio.to_thread(ours.burst, plan.burst, plan.content),
            await asyncio.to_thread(bare.burst, plan.burst, plan.content),
        )
        for _ in range(plan.rounds)
    ]
    waits = [
        (
            await asyncio.to_thread(ours.paced, plan.latencies, plan.content),
            await asyncio.to_thread(bare.paced, plan.latencies, plan.content),
        )
        for _ in range(2 if plan.latencies else 0)
    ]
    return bursts, waits


async def guarantees(plan: Plan) -> list[Figure]:
    """exactly_once beside at_least_once on the same broker: what transactions cost. The floor is at_least_once."""
    once: dict[str, object] = {"WPK_PROCESSING_GUARANTEE": "exactly_once"}
    async with stage(kind="apache", partitions=plan.partitions, settings=once) as house, agents(house) as ours:
        other = Stage(house.broker, house.partitions, {"WPK_PROCESSING_GUARANTEE": "at_least_once"})
        await other.create_topics()
        async with agents(other) as least:
            bursts, _ = await by_turns(plan, ours, least)
            completed(ours)
    return throughput(plan, bursts, "exactly_once beside at_least_once")


async def measure(plan: Plan) -> tuple[list[Figure], dict[str, object]]:
    """Throughput, CPU and latency, ours and the floor's by turns; and the records that the floor writes."""
    settings: dict[str, object] = {"WPK_PROCESSING_GUARANTEE": plan.guarantee, **plan.settings}
    async with stage(kind=plan.kind, partitions=plan.partitions, settings=settings) as house:
        async with agents(house, plan.agents, warm_up=plan.warm_up) as ours:
            records = await records_of_a_run(house, ours, plan)
            async with floor_beside(house, records, plan) as bare:
                bursts, waits = await by_turns(plan, ours, bare)
                completed(ours)
    found = [*throughput(plan, bursts, plan.name), *_latency(plan, waits), *_written(plan, records)]
    return found, {"records": shape.told(records)}


def _written(plan: Plan, records: Sequence[RecordShape]) -> list[Figure]:
    """What one execution writes: no speed, but what a broker has to store."""
    sizes = {"records": float(len(records)), "KB": sum(map(shape.size, records)) / 1000}
    return [
        Figure(name=f"{plan.title} {unit} written ({plan.name})", unit=unit, higher_is_better=False, ours=[value])
        for unit, value in sizes.items()
    ]


def throughput(plan: Plan, bursts: Sequence[_Bursts], label: str) -> list[Figure]:
    """The figures of these bursts."""

    def figure(what: str, unit: str, attribute: str, factor: float) -> Figure:
        return Figure(
            name=f"{plan.title} {what} ({label})",
            unit=unit,
            higher_is_better=attribute == "per_second",
            ours=[getattr(ours, attribute) * factor for ours, _ in bursts],
            floor=[getattr(bare, attribute) * factor for _, bare in bursts],
        )

    each = "ms" if plan.unit == "/s" else f"ms per {plan.unit.removesuffix('/s')}"
    return [
        figure("throughput", plan.unit, "per_second", plan.amount),
        figure("CPU of the worker", each, "worker_ms", 1 / plan.amount),
        figure("CPU of the broker", each, "broker_ms", 1 / plan.amount),
    ]


def _latency(plan: Plan, waits: Sequence[_Waits]) -> list[Figure]:
    def figure(what: str, of: Callable[[Paced], float]) -> Figure:
        return Figure(
            name=f"{plan.title} {what} at {RATE:g}/s ({plan.name})",
            unit="ms",
            higher_is_better=False,
            ours=[of(ours) for ours, _ in waits],
            floor=[of(bare) for _, bare in waits],
        )

    if not waits:
        return []
    return [
        figure("latency p50", lambda paced: quantile(paced.took, 0.5) * 1000),
        figure("latency p99", lambda paced: quantile(paced.took, 0.99) * 1000),
        figure("CPU of the worker", lambda paced: paced.worker_ms),
    ]


def main() -> None:
    """`python -m bench.w3`: for who changes the hot path and wants only this."""
    import argparse  # noqa: PLC0415

    from bench.figures import table  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m bench.w3", description=__doc__)
    parser.add_argument("--broker", choices=("apache", "embedded"), default="apache")
    parser.add_argument("--guarantee", choices=("at_least_once", "exactly_once"), default="at_least_once")
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--burst", type=int, default=2_000)
    parser.add_argument("--latencies", type=int, default=200)
    parser.add_argument("--sends", choices=("each", "batch"), default="each")
    asked = vars(parser.parse_args())
    figures, facts = asyncio.run(measure(Plan(kind=asked.pop("broker"), **asked)))
    print(json.dumps(facts, indent=2))
    print(table(figures))


if __name__ == "__main__":
    main()
