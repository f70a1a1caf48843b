"""Nodes that die, are stopped, hang, or give their leaders away; never two at a time."""

from __future__ import annotations

import random
from functools import partial
from typing import Literal

from tests.chaos.faults.base import Fault
from tests.chaos.stage import Node, NotApplied, Setting, Stage, blocking

BROKER = "broker"
Which = Literal["any", "state leader", "execute leader", "group coordinator", "transaction coordinator"]


class OnBroker(Fault):
    """A fault of one node, chosen by what it does."""

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.takes = frozenset({BROKER})
        self.which: Which = draw.choice(
            ("any", "state leader", "execute leader", "group coordinator", "transaction coordinator")
        )
        self.partition = draw.randrange(setting.partitions)
        self.number = draw.randrange(setting.nodes) + 1
        self._node: Node | None = None

    async def chosen(self, stage: Stage) -> Node:
        """The node, while no other is away. Raises NotApplied."""
        await blocking(stage.kafka.until_whole, 150.0)
        self._node = await blocking(lambda: self._choose(stage), 90.0)
        return self._node

    def _choose(self, stage: Stage) -> Node:
        cluster = stage.kafka.cluster
        if cluster is None or self.which == "any":
            return stage.kafka.nodes[self.number]
        try:
            match self.which:
                case "state leader":
                    return cluster.leader(stage.topic("state"), self.partition)
                case "execute leader":
                    return cluster.leader(stage.topic("commands.execute"), self.partition)
                case "group coordinator":
                    return cluster.group_coordinator(stage.group)
                case "transaction coordinator":
                    return cluster.transaction_coordinator(stage.transactional_id(self.partition))
        except RuntimeError as error:
            raise NotApplied(str(error).splitlines()[0]) from error


class KillBroker(OnBroker):
    name = "broker.kill"
    weight = 4.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.hold = draw.uniform(0.0, 8.0)

    async def strike(self, stage: Stage) -> None:
        node = await self.chosen(stage)
        await blocking(node.kill)

    async def heal(self, stage: Stage) -> None:
        if self._node is not None:
            await blocking(self._node.restart)


class StopBroker(KillBroker):
    """Ended in order: it hands its leaders over."""

    name = "broker.stop"
    weight = 1.0

    async def strike(self, stage: Stage) -> None:
        node = await self.chosen(stage)
        await blocking(node.stop)


class FreezeBroker(OnBroker):
    name = "broker.freeze"
    weight = 3.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.hold = draw.uniform(0.5, 15.0)

    async def strike(self, stage: Stage) -> None:
        node = await self.chosen(stage)
        await blocking(node.freeze)

    async def heal(self, stage: Stage) -> None:
        if self._node is not None:
            await blocking(self._node.revive)


class RollBrokers(Fault):
    """A rolling restart of all nodes."""

    name = "brokers.roll"
    weight = 0.5
    cluster = True

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.takes = frozenset({BROKER})

    async def strike(self, stage: Stage) -> None:
        await blocking(stage.kafka.needed().roll, 400.0)


class MoveLeaders(Fault):
    """Partitions, and with them coordinators, get other leaders, while all nodes are well."""

    name = "brokers.move_leaders"
    weight = 2.0
    cluster = True

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.takes = frozenset({BROKER})
        topics = ("state", "events.progress", "events.results", "commands.execute", "commands.control")
        self.moves = [
            (draw.choice(topics), draw.randrange(setting.partitions), draw.randrange(setting.nodes) + 1)
            for _ in range(3)
        ]
        internal = draw.choice(("__consumer_offsets", "__transaction_state"))
        self.moves += [(internal, number, draw.randrange(setting.nodes) + 1) for number in range(3)]

    async def strike(self, stage: Stage) -> None:
        await blocking(stage.kafka.until_whole, 150.0)
        cluster = stage.kafka.needed()
        moved = 0
        for role, partition, node in self.moves:
            topic = role if role.startswith("__") else stage.topic(role)
            try:
                await blocking(partial(cluster.move_partition, topic, partition, node), 90.0)
                moved += 1
            except (RuntimeError, KeyError) as error:
                stage.record.note("not_moved", topic=topic, partition=partition, reason=str(error).splitlines()[0])
        if not moved:
            raise NotApplied("no leader could be moved")
