"""Reading partitions from a place to their present end, by a consumer without a group, the same on every broker.

The end is taken from the fetch answers (last stable offset; where there is none the high watermark) and compared with
the consumer's position: transaction markers, aborted data and compacted records take offsets too, so that the last
record's offset never tells. ListOffsets is not asked for the end, since the embedded broker answers it wrongly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from itertools import dropwhile
from typing import Literal, NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from consumer.journal.connection import KafkaConnection

#: How long one fetch waits for data. The embedded broker sleeps half of it even when data comes meanwhile.
FETCH_WAIT_MS = 20
#: How long one look into the fetched records waits: short until the end, to see it soon, then long.
END_POLL_MS = 10
FOLLOW_POLL_MS = 500
#: Reading that does not move for so long has failed.
STALL_SECONDS = 30.0

Start = int | datetime | Literal["beginning"]
Partition = tuple[str, int]


class LogRecord(NamedTuple):
    """One record as it stands in the log; a tuple, since an audit makes millions of them."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since 1970."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


_new = tuple.__new__


class PartitionReader:
    """Reads some partitions; made by `open_reader`. Records of one partition come in order.

    Its iterators raise TimeoutError where the reading stands still for `stall` seconds short of the end.
    """

    def __init__(self, consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition], stall: float) -> None:
        self._consumer = consumer
        self.partitions = tuple(partitions)
        self.stall = stall
        self._since: dict[TopicPartition, int] = {}

    async def start_at(self, starts: Mapping[Partition, Start]) -> None:
        """Where to begin; partitions not named begin at their beginning."""
        moments: dict[TopicPartition, int] = {}
        for tp in self.partitions:
            start = starts.get((tp.topic, tp.partition), "beginning")
            if isinstance(start, datetime):
                moments[tp] = int(start.timestamp() * 1000)
            elif start == "beginning":
                await self._consumer.seek_to_beginning(tp)
            else:
                self._consumer.seek(tp, start)
        if moments:
            await self._start_at_moments(moments)

    async def to_end(self) -> AsyncGenerator[LogRecord, None]:
        """All records up to the ends that the partitions have when the reading begins, at least."""
        ends: dict[TopicPartition, int] = {}
        reached: dict[TopicPartition, int] = {}
        moved_at = time.monotonic()
        while any(tp not in ends or reached[tp] < ends[tp] for tp in self.partitions):
            async for record in self._poll(END_POLL_MS):
                yield record
            before = dict(reached)
            for tp in self.partitions:
                reached[tp] = await self.position(tp)
                end = self.end(tp)
                if end is not None:
                    ends.setdefault(tp, end)
            if reached != before:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > self.stall:
                stuck = ", ".join(f"{tp.topic}-{tp.partition} at {reached[tp]}" for tp in self.partitions)
                raise TimeoutError(f"reading stands still for {self.stall:g} s: {stuck}")

    async def fetch(self, partitions: Sequence[TopicPartition], most: int) -> dict[TopicPartition, list[LogRecord]]:
        """At most so many records of those partitions, what has come; waits a moment where nothing has."""
        batches = await self._consumer.getmany(*partitions, timeout_ms=END_POLL_MS, max_records=most)
        return {tp: self._kept(tp, records) for tp, records in batches.items()}

    async def beginnings(self) -> dict[Partition, int]:
        """The first offset that each partition still holds; more than 0 where retention took what was before."""
        found = await self._consumer.beginning_offsets(self.partitions)
        return {(tp.topic, tp.partition): offset for tp, offset in found.items()}

    async def follow(self) -> AsyncGenerator[LogRecord, None]:
        """All records from the present position on; waits for new ones, without an end."""
        while True:
            async for record in self._poll(FOLLOW_POLL_MS):
                yield record

    async def _poll(self, timeout_ms: int) -> AsyncGenerator[LogRecord, None]:
        batches = await self._consumer.getmany(timeout_ms=timeout_ms)
        for tp, records in batches.items():
            for record in self._kept(tp, records):
                yield record

    def _kept(self, tp: TopicPartition, records: Sequence[ConsumerRecord]) -> list[LogRecord]:
        since = self._since.get(tp)
        if since is not None:  # the broker gives the start of the batch that holds the moment
            records = list(dropwhile(lambda record: record.timestamp < since, records))
            if records:
                del self._since[tp]
        topic, number = tp
        return [  # past the class's own constructor, which takes as long as all else here
            _new(LogRecord, (topic, number, each.offset, each.timestamp, each.key, each.value, each.headers))
            for each in records
        ]

    async def position(self, tp: TopicPartition) -> int:
        """The offset that is read next."""
        async with asyncio.timeout(self.stall):
            position: int = await self._consumer.position(tp)
            return position

    def end(self, tp: TopicPartition) -> int | None:
        """The partition's end by the newest fetch answer; None before the first."""
        stable: int | None = self._consumer.last_stable_offset(tp)
        highwater: int | None = self._consumer.highwater(tp)
        return highwater if stable is None or stable < 0 else stable

    async def _start_at_moments(self, moments: dict[TopicPartition, int]) -> None:
        found = await self._consumer.offsets_for_times(moments)
        beyond = []
        for tp, place in found.items():
            if place is None or place.timestamp < 0:  # the embedded broker says offset 0, timestamp -1 for "none"
                beyond.append(tp)
            else:
                self._consumer.seek(tp, place.offset)
            self._since[tp] = moments[tp]
        for tp in beyond:
            await self._consumer.seek_to_beginning(tp)  # all of it is read and dropped


@asynccontextmanager
async def open_reader(
    connection: KafkaConnection,
    partitions: Iterable[Partition],
    *,
    starts: Mapping[Partition, Start] | None = None,
    read_uncommitted: bool = False,
    stall: float = STALL_SECONDS,
) -> AsyncIterator[PartitionReader]:
    """A reader of these partitions (topic, number), which must exist."""
    assigned = [TopicPartition(topic, number) for topic, number in partitions]
    consumer = AIOKafkaConsumer(
        **connection.options("reader"),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_uncommitted" if read_uncommitted else "read_committed",
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=4 << 20,
    )
    consumer.assign(assigned)
    try:
        await consumer.start()
        reader = PartitionReader(consumer, assigned, stall)
        await reader.start_at(starts or {})
        yield reader
    finally:
        await consumer.stop()


async def read_partition(
    connection: KafkaConnection,
    topic: str,
    partition: int,
    start: Start = "beginning",
    until: int | None = None,
) -> AsyncGenerator[LogRecord, None]:
    """The records of one partition from `start` to the present end, or to before the offset `until`.

    Committed ones only. Use it in `contextlib.aclosing` where the loop may be left early.
    """
    async with open_reader(connection, [(topic, partition)], starts={(topic, partition): start}) as reader:
        async with aclosing(reader.to_end()) as records:
            async for record in records:
                if until is not None and record.offset >= until:
                    return
                yield record
