"""The two ways to write a batch to Kafka behind one small interface. A writer that failed once is never used again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from aiokafka import AIOKafkaProducer, TopicPartition

from consumer.journal import producers
from consumer.journal.connection import KafkaConnection
from consumer.journal.membership import Commit
from consumer.journal.topics import TopicNames
from consumer.ports import CommandTopic, Record, Topic

#: An open transaction of a dead owner holds back all readers for so long, unless a successor comes before.
TRANSACTION_TIMEOUT_MS = 15_000
#: After so long without a proof the membership is proven before a batch is written, not only after.
PROOF_SECONDS = 3.0


class Writer(Protocol):
    """Writes batches for one partition number. One task owns it; any exception is final."""

    @property
    def writes_in_hold(self) -> bool:
        """Whether it may write while the group rebalances."""
        ...

    @property
    def atomic(self) -> bool:
        """Whether a batch becomes visible as a whole or not at all."""
        ...

    async def prove(self) -> None:
        """Proves the membership in the group. Comes before `start`, and not in a rebalance, which it would disturb."""
        ...

    async def start(self) -> None:
        """Connects; fences earlier writers, where that is the broker's matter."""
        ...

    async def write(self, records: Sequence[Record], offsets: Mapping[CommandTopic, int]) -> int | None:
        """Returns when records and offsets are durable and the ownership at that time is proven.

        Gives the offset of one of the last state records, if any. An exception, or a cancellation, leaves the outcome
        unknown.
        """
        ...

    async def stop(self, *, force: bool) -> None:
        """Closes the connections within a few seconds; with `force` without waiting for anything unwritten."""
        ...


class ExactlyOnceWriter:
    """A transaction per batch: all of it becomes visible to `read_committed` readers at once, or none of it.

    The transactional id is a function of prefix, group and partition, so that starting the next owner's writer ends
    this one's transaction and fences it, whatever the group's state is.
    """

    writes_in_hold = True
    atomic = True

    def __init__(
        self,
        connection: KafkaConnection,
        names: TopicNames,
        partition: int,
        *,
        group: str,
        commit: Commit | None = None,
        transaction_timeout_ms: int = TRANSACTION_TIMEOUT_MS,
        batch_bytes: int = producers.MAX_BATCH_BYTES,
    ) -> None:
        self._connection = connection
        self._names = names
        self._partition = partition
        self._group = group
        self._commit = commit
        self._transaction_timeout_ms = transaction_timeout_ms
        self._batch_bytes = batch_bytes
        self._producer: AIOKafkaProducer | None = None

    @property
    def transactional_id(self) -> str:
        """The id that ties all owners of the partition together."""
        return f"{self._names.prefix}-{self._group}-{self._partition}"

    async def prove(self) -> None:
        if self._commit is not None:
            await self._commit({})  # an agent that stood still and lost its place must not fence the rightful owner

    async def start(self) -> None:
        self._producer = producers.build(
            self._connection,
            f"journal-{self._partition}",
            transactional_id=self.transactional_id,
            transaction_timeout_ms=self._transaction_timeout_ms,
            batch_bytes=self._batch_bytes,
        )
        await producers.start(self._producer, self._names)

    async def write(self, records: Sequence[Record], offsets: Mapping[CommandTopic, int]) -> int | None:
        assert self._producer is not None
        await self._producer.begin_transaction()
        # Produce and TxnOffsetCommit must not be under way together: brokers up to 3.7 answer that with a fatal error.
        ends = await producers.send(self._producer, self._names, self._partition, records)
        if offsets:
            consumed = {
                TopicPartition(self._names.name(topic), self._partition): offset for topic, offset in offsets.items()
            }
            await self._producer.send_offsets_to_transaction(consumed, self._group)
        await self._producer.commit_transaction()
        return ends.get(Topic.STATE)

    async def stop(self, *, force: bool) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producers.close(producer, force=force)


class AtLeastOnceWriter:
    """Plain records with acks=all, then the group's offset commit as proof that this agent still is the owner.

    What was written by someone who had lost the partition is void for readers (see `lineage`), and the claim decides.
    """

    writes_in_hold = False  # a commit in a rebalance would cost the agent its membership
    atomic = False

    def __init__(
        self,
        connection: KafkaConnection,
        names: TopicNames,
        partition: int,
        *,
        commit: Commit,
        batch_bytes: int = producers.MAX_BATCH_BYTES,
    ) -> None:
        self._connection = connection
        self._names = names
        self._partition = partition
        self._commit = commit
        self._batch_bytes = batch_bytes
        self._proven_at = 0.0
        self._producer: AIOKafkaProducer | None = None

    async def prove(self) -> None:
        await self._prove({})

    async def start(self) -> None:
        self._producer = producers.build(self._connection, f"journal-{self._partition}", batch_bytes=self._batch_bytes)
        await producers.start(self._producer, self._names)

    async def write(self, records: Sequence[Record], offsets: Mapping[CommandTopic, int]) -> int | None:
        assert self._producer is not None
        if time.monotonic() - self._proven_at > PROOF_SECONDS:
            await self._prove({})
        ends: dict[Topic, int] = {}
        # The state last: where this ends half-way the next owner, which goes by the state, does again what it does not
        # know of, and no event is missing. The other way round it would go on after events that nobody ever sees.
        events = [record for record in records if record.topic is not Topic.STATE]
        state = [record for record in records if record.topic is Topic.STATE]
        for part in (events, state):
            if part:
                ends = await producers.send(self._producer, self._names, self._partition, part)
        await self._prove(offsets)
        return ends.get(Topic.STATE)

    async def stop(self, *, force: bool) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producers.close(producer, force=force)

    async def _prove(self, offsets: Mapping[CommandTopic, int]) -> None:
        asked_at = time.monotonic()
        await self._commit(offsets)
        self._proven_at = asked_at
