"""What the journal's tests on real brokers share: topics of one's own, owners, and members of the group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from consumer.journal import topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.factory import OwnerFactory
from consumer.journal.membership import Commit, GroupCommits, GroupMembership
from consumer.journal.owner import Identity, Limits, PartitionOwner
from consumer.journal.probe import Mode
from consumer.journal.reader import LogRecord, read_partition
from consumer.journal.topics import TopicNames
from consumer.ports import CommandTopic, Record, Topic
from tests.support.eventually import eventually

PARTITIONS = 3


async def unproven(_offsets: Mapping[CommandTopic, int]) -> None:
    """A membership that nobody checks."""


@dataclass(kw_only=True)
class House:
    """Topics on a broker, and the owners that a test opens on them."""

    connection: KafkaConnection
    names: TopicNames
    mode: Mode
    rebalance_ms: int = 10_000
    owners: list[PartitionOwner] = field(default_factory=list)

    @property
    def group(self) -> str:
        return f"{self.names.prefix}-group"

    def owner(
        self,
        partition: int = 0,
        *,
        agent: str = "agent-1",
        commit: Commit = unproven,
        new_commit: Callable[[], Commit] | None = None,
        limits: Limits | None = None,
    ) -> PartitionOwner:
        """An owner, not yet open; the house closes it. With `commit` it has that one proof whatever happens."""
        factory = OwnerFactory(
            connection=self.connection,
            names=self.names,
            identity=Identity(agent=agent, group=self.group),
            mode=self.mode,
            limits=limits or Limits(),
        )
        owner = factory.owner(partition, new_commit or (lambda: commit))
        self.owners.append(owner)
        return owner

    async def read(self, topic: Topic, partition: int = 0, *, at_least: int = 0) -> list[LogRecord]:
        """All that a `read_committed` reader sees, once it sees so many: a commit is durable before it is visible."""
        if not at_least:
            return await self._read(topic, partition, 0)
        return await eventually(lambda: self._read(topic, partition, at_least))

    async def _read(self, topic: Topic, partition: int, at_least: int) -> list[LogRecord]:
        name = self.names.name(topic)
        records = [record async for record in read_partition(self.connection, name, partition)]
        assert len(records) >= at_least
        return records

    @asynccontextmanager
    async def member(self) -> AsyncIterator[AIOKafkaConsumer]:
        """A member of the group, with its partitions assigned."""
        consumer = AIOKafkaConsumer(
            *(self.names.name(topic) for topic in CommandTopic),
            **self.connection.options("intake"),
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=[RangePartitionAssignor],
            session_timeout_ms=10_000,
            rebalance_timeout_ms=self.rebalance_ms,
            heartbeat_interval_ms=200,
            fetch_max_wait_ms=20,
        )
        try:
            await consumer.start()
            yield consumer
        finally:
            await consumer.stop()

    def membership(self, consumer: AIOKafkaConsumer, partition: int) -> GroupMembership:
        """The proof by that member."""
        return GroupMembership(GroupCommits(consumer), self.names, partition)


@asynccontextmanager
async def house_on(bootstrap: str, prefix: str, mode: Mode) -> AsyncIterator[House]:
    """A house with its topics created; its owners are closed at the end."""
    house = House(connection=KafkaConnection(bootstrap_servers=bootstrap), names=TopicNames(prefix), mode=mode)
    await topics.create(house.connection, house.names, PARTITIONS)
    try:
        yield house
    finally:
        await asyncio.gather(*(owner.close(grace=2) for owner in house.owners))


def state(key: str, value: str | None) -> Record:
    """A record of the state topic; None is a tombstone."""
    return Record(Topic.STATE, key.encode(), None if value is None else value.encode())


def progress(value: str) -> Record:
    """A record of the progress topic."""
    return Record(Topic.PROGRESS, b"key", value.encode())
