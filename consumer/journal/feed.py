"""A topic read by a consumer group of its own: each record is given out until it was said to be done.

For what is made of the agent's own events beside the executions. A record that was being worked on when its reader was
lost, or its partition went elsewhere, is given out again there: at least once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from consumer.journal.connection import KafkaConnection

_log = structlog.get_logger(__name__)
_POLL_MS = 500
_STOP_SECONDS = 3.0
Place = tuple[int, int]


class Feed(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """See the module; made by `open_feed`. `on_lost` is told of partitions that are not this reader's any more."""

    def __init__(self, on_lost: Callable[[Iterable[int]], None]) -> None:
        self._on_lost = on_lost
        self._open: dict[int, dict[int, bool]] = {}
        """By partition, the records that were given out, in order, and whether each is done."""
        self._topic = ""
        self._rebalances = 0
        self.consumer: AIOKafkaConsumer

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        """Says how far this reader came, and forgets the rest: the next one is given it."""
        with contextlib.suppress(KafkaError):
            await self.commit()
        self._rebalances += 1
        self._on_lost([tp.partition for tp in revoked])
        self._open.clear()

    async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        """Nothing to do."""

    async def poll(self, *, more: bool) -> list[tuple[Place, bytes, float]]:
        """What has come: place, value and time (seconds since 1970); with `more` false nothing, though it is polled."""
        assigned, before = self.consumer.assignment(), self._rebalances
        (self.consumer.resume if more else self.consumer.pause)(*assigned)
        batches = await self.consumer.getmany(timeout_ms=_POLL_MS)
        if self._rebalances != before:
            await self._begin_again()  # whether these were fetched before it or after nobody can tell
            return []
        return [self._given(record) for records in batches.values() for record in records]

    async def _begin_again(self) -> None:
        """Goes back to what is committed, in all partitions."""
        for tp in self.consumer.assignment():
            if (offset := await self.consumer.committed(tp)) is not None:
                self.consumer.seek(tp, offset)
            else:
                await self.consumer.seek_to_beginning(tp)

    def _given(self, record: ConsumerRecord) -> tuple[Place, bytes, float]:
        self._topic = record.topic
        self._open.setdefault(record.partition, {})[record.offset] = False
        return (record.partition, record.offset), record.value or b"", record.timestamp / 1000

    def done(self, place: Place) -> None:
        """The record need not be given out again."""
        partition, offset = place
        if offset in self._open.get(partition, {}):
            self._open[partition][offset] = True

    async def commit(self) -> None:
        """Makes durable what is done, up to the first record that is not. In a rebalance it may be too late for that.

        Raises KafkaError.
        """
        ready: dict[TopicPartition, int] = {}
        for partition, records in self._open.items():
            for offset in list(records):
                if not records[offset]:
                    break
                ready[TopicPartition(self._topic, partition)] = offset + 1
        if not ready:
            return
        try:
            await self.consumer.commit(ready)
        except (CommitFailedError, IllegalStateError) as error:
            _log.info("feed.uncommitted", topic=self._topic, reason=type(error).__name__)
            return
        for tp, end in ready.items():
            records = self._open.get(tp.partition, {})
            for offset in [each for each in records if each < end]:
                del records[offset]


@asynccontextmanager
async def open_feed(
    connection: KafkaConnection,
    topic: str,
    group: str,
    on_lost: Callable[[Iterable[int]], None],
    *,
    fetch_wait_ms: int,
    session_timeout: float,
) -> AsyncIterator[Feed]:
    """A reader of the topic in that group. A group that is new begins at the topic's beginning."""
    feed = Feed(on_lost)
    consumer = AIOKafkaConsumer(
        **connection.options("notices"),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=fetch_wait_ms,
        session_timeout_ms=int(session_timeout * 1000),
        max_partition_fetch_bytes=2 << 20,
        max_poll_records=200,
    )
    feed.consumer = consumer
    consumer.subscribe([topic], listener=feed)
    try:
        await consumer.start()
        yield feed
    finally:
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await asyncio.sleep(0)  # a task of the consumer that has not begun yet would make its stop raise
                with contextlib.suppress(KafkaError):
                    await feed.commit()
                await consumer.stop()
        except TimeoutError:
            _log.warning("feed.unfinished", topic=topic, reason="Kafka did not answer in time")
