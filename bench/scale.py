"""What many agents would carry, computed from what a few were measured to.

    python -m bench.scale       writes the tables of docs/scale.md from bench/results.json

A model of few lines on purpose: each can be read, doubted, and held against a measurement (`held`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bench import budgets
from bench.figures import Figure, number
from consumer.ports import CommandTopic, Topic
from tests.support.processes import ROOT

PAGE: Final[Path] = ROOT / "docs" / "scale.md"
Guarantee = Literal["at_least_once", "exactly_once"]
GUARANTEES: Final[tuple[Guarantee, ...]] = ("at_least_once", "exactly_once")

#: An agent or a broker that is planned for more than this share of a core is late whenever work comes in bursts.
PLANNED: Final = 0.5
#: Work comes unevenly: the busiest hour of a day has about three times the day's mean.
PEAK: Final = 3.0
REPLICATION: Final = 3
TOPICS: Final = len(CommandTopic) + len(Topic)
#: Replicas that one broker is commonly held to (Confluent's and AWS MSK's guidance for their larger brokers).
REPLICAS_PER_BROKER: Final = 4_000
#: The group's coordinator answers all members of a rebalance in one thread of request handlers; per member, with the
#: subscription and the assignment that it carries (seconds). An assumption, not measured here.
JOIN_SECONDS: Final = 0.002
HEARTBEAT: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the model starts from: costs of one W3 and of one agent, all from results.json."""

    worker_ms: Mapping[Guarantee, float]
    """Milliseconds of a core of the agent."""
    broker_ms: Mapping[Guarantee, float]
    """Of the broker; with replication each replica costs about as much again."""
    kb: float
    """Written by one execution."""
    idle_mb: float
    waiting_kb: float
    restored_per_second: float
    """Ended executions that one core restores."""

    @classmethod
    def of(cls, found: Mapping[str, Figure]) -> Measured:
        """Raises KeyError with the name of what was not measured."""
        cpu = "W3 CPU of the {} (apache, {})"
        return cls(
            worker_ms={one: found[cpu.format("worker", one)].value for one in GUARANTEES},
            broker_ms={one: found[cpu.format("broker", one)].value for one in GUARANTEES},
            kb=found["W3 KB written (apache, at_least_once)"].value,
            idle_mb=found["memory of an idle agent (exactly_once)"].value,
            waiting_kb=found["memory per waiting execution"].value,
            restored_per_second=100_000 / found["restore of 100,000 executions, CPU"].value,
        )

    def agent_rate(self, guarantee: Guarantee) -> float:
        """W3 per second of one agent that has a core."""
        return 1000 / self.worker_ms[guarantee]

    def rate_on(self, cores: int, agents: int, guarantee: Guarantee) -> float:
        """W3 per second of agents that share a machine with their broker: each agent has at most one core, and all
        processes together have `cores`."""
        worker, broker = self.worker_ms[guarantee], self.broker_ms[guarantee]
        return min(agents * 1000 / worker, cores * 1000 / (worker + broker))


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """So much is to be done."""

    name: str
    mean: float
    """Executions per second over a day."""
    peak: float
    """Per second, at what is planned for."""


LOADS: Final = (
    Load(name="a million a day", mean=1e6 / 86_400, peak=PEAK * 1e6 / 86_400),
    Load(name="a million an hour, day and night", mean=1e6 / 3_600, peak=1e6 / 3_600),
    Load(name="a million an hour, and its threefold for minutes", mean=1e6 / 3_600, peak=PEAK * 1e6 / 3_600),
)


def agents_for(load: Load, measured: Measured, guarantee: Guarantee) -> int:
    """Agents of one core each, planned half full, and at least two, so that one may die."""
    return max(2, math.ceil(load.peak / (PLANNED * measured.agent_rate(guarantee))))


def broker_cores(load: Load, measured: Measured, guarantee: Guarantee) -> float:
    """Cores of all brokers together, with replication, planned half full."""
    return load.peak * measured.broker_ms[guarantee] / 1000 * REPLICATION / PLANNED


def stored_gb_a_day(load: Load, measured: Measured) -> float:
    """What is written on all replicas in a day, before compaction and retention."""
    return load.mean * 86_400 * measured.kb * REPLICATION / 1e6


def ranges(partitions: int, members: Sequence[float]) -> dict[int, float]:
    """Who owns what by Kafka's range assignor: members in the order of their ids, each a run of partitions."""
    ordered = sorted(members)
    share, more = divmod(partitions, len(ordered))
    owners, place = {}, 0
    for index, member in enumerate(ordered):
        for _ in range(share + (index < more)):
            owners[place] = member
            place += 1
    return owners


def moved(partitions: int, agents: int, *, rounds: int = 50, seed: int = 1) -> tuple[float, float]:
    """The share of all partitions that change hands when one more agent comes: by range, and by the fewest possible.

    Ids are random, as aiokafka's are, so that a new member stands anywhere in the order.
    """
    drawn = random.Random(seed)
    total = 0
    for _ in range(rounds):
        members = [drawn.random() for _ in range(agents)]
        before, after = ranges(partitions, members), ranges(partitions, [*members, drawn.random()])
        total += sum(before[place] != after[place] for place in before)
    fewest = partitions // (agents + 1) / partitions
    return total / rounds / partitions, fewest


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A cluster of agents and its topics."""

    agents: int
    partitions: int

    @property
    def replicas(self) -> int:
        """Replicas of all topics' partitions."""
        return TOPICS * self.partitions * REPLICATION

    @property
    def brokers(self) -> int:
        """Brokers that hold so many."""
        return max(REPLICATION, math.ceil(self.replicas / REPLICAS_PER_BROKER))

    @property
    def producers(self) -> int:
        """One per owned partition, in each guarantee; with exactly_once each is a transactional id."""
        return self.partitions

    @property
    def connections(self) -> int:
        """Each producer talks to the leaders of its partition's five output topics, to its coordinator, and to one
        broker for metadata; each agent's consumer to all leaders it fetches from. At most the number of brokers."""
        return self.producers * min(self.brokers, len(Topic) + 2) + self.agents * self.brokers

    @property
    def rebalance(self) -> float:
        """Seconds until all know what they own: each member learns of it by a heartbeat, then all join, then all get
        their assignment. What moves is restored after that."""
        return HEARTBEAT + 2 * self.agents * JOIN_SECONDS

    def restore(self, measured: Measured, executions: float) -> float:
        """Seconds to restore what one agent takes over from one that died, of so many ended executions in all: they
        are spread evenly, and by range many agents take a little each; at worst one takes all of it."""
        return executions / self.agents / measured.restored_per_second


LAYOUTS: Final = (
    Layout(agents=2, partitions=12),
    Layout(agents=10, partitions=100),
    Layout(agents=100, partitions=1_000),
    Layout(agents=1_000, partitions=1_000),
    Layout(agents=1_000, partitions=10_000),
)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def needs(measured: Measured) -> str:
    """What a load takes."""
    rows = [
        [
            load.name,
            guarantee,
            number(load.peak),
            number(agents_for(load, measured, guarantee)),
            number(broker_cores(load, measured, guarantee)),
            number(stored_gb_a_day(load, measured)),
        ]
        for load in LOADS
        for guarantee in GUARANTEES
    ]
    return _markdown(["W3", "guarantee", "/s at the peak", "agents", "cores of brokers", "GB a day, 3 replicas"], rows)


def layouts(measured: Measured) -> str:
    """What a number of agents and partitions means."""
    rows = []
    for one in LAYOUTS:
        by_range, fewest = moved(one.partitions, one.agents)
        rows.append(
            [
                f"{one.agents:,} / {one.partitions:,}",
                f"{one.replicas:,}",
                f"{one.brokers:,}",
                f"{one.producers:,}",
                f"{one.connections:,}",
                f"{one.rebalance:.1f} s",
                f"{by_range:.0%} / {fewest:.1%}",
                f"{one.restore(measured, 7e6):,.1f} s",
            ]
        )
    return _markdown(
        [
            "agents / partitions",
            "replicas",
            "brokers for them",
            "producers",
            "connections",
            "rebalance",
            "moves when one joins: range / fewest",
            "restore of a dead agent's share of 7 million",
        ],
        rows,
    )


def held(measured: Measured, found: Mapping[str, Figure], cores: int = 2) -> str:
    """The model beside measurements that it was not made from: on one machine, that broker, agents and client share."""
    rows = []
    for guarantee, agents, more in (
        ("at_least_once", 1, ""),
        ("exactly_once", 1, ""),
        ("at_least_once", 2, ", 2 agents"),
        ("at_least_once", 1, ", 100 partitions"),
        ("exactly_once", 1, ", 100 partitions"),
    ):
        one = found.get(f"W3 throughput (apache, {guarantee}{more})")
        if one is not None:
            expected = measured.rate_on(cores, agents, guarantee)  # type: ignore[arg-type]
            rows.append(
                [
                    f"{guarantee}{more or ', 12 partitions'}",
                    number(expected),
                    number(one.value),
                    f"{one.value / expected:.2f}",
                ]
            )
    return _markdown(["one machine", "W3/s by the model", "measured", "of the model"], rows)


def tables(page: str, found: Mapping[str, Figure]) -> str:
    """The page with its tables made anew."""
    measured = Measured.of(found)
    made = {"needs": needs(measured), "layouts": layouts(measured), "held": held(measured, found)}
    for name, table in made.items():
        mark = f"<!-- {name} -->\n"
        before, _, after = page.partition(mark)
        page = f"{before}{mark}\n{table}\n{mark}{after.partition(mark)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(tables(PAGE.read_text(), budgets.read()))
