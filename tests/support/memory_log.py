"""A state partition in memory, with a writer and a reader for it: the owner's tests decide every moment and fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from consumer.errors import OwnershipLost
from consumer.journal.membership import MembershipLost
from consumer.journal.reader import LogRecord, Start
from consumer.ports import CommandTopic, Record, Topic


class MemoryPartition:
    """The log of one partition's state topic, and who may write to it."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.newest: MemoryWriter | None = None
        self.told_end: int | None = None
        """What the log's end is said to be, where that is less than it is: by a leader that was elected just now."""
        self.reads = 0
        """How often the log was opened."""
        self._grown = asyncio.Event()

    def add(self, record: Record) -> None:
        """Appends a record at the next offset."""
        self.records.append(LogRecord("state", 0, len(self.records), 0, record.key, record.value, record.headers))
        self._grown.set()
        self._grown = asyncio.Event()

    @asynccontextmanager
    async def open_log(self, start: Start = "beginning") -> AsyncIterator[MemoryReader]:
        """A reader from the beginning, or from an offset."""
        self.reads += 1
        yield MemoryReader(self, start if isinstance(start, int) else 0)

    async def grown(self) -> None:
        """Waits for the next record."""
        await self._grown.wait()


class MemoryReader:
    """A `restore.StateLog`."""

    def __init__(self, partition: MemoryPartition, position: int) -> None:
        self._partition = partition
        self._position = position

    async def to_end(self) -> AsyncGenerator[LogRecord, None]:
        end = len(self._partition.records)
        if self._partition.told_end is not None:
            end = min(end, self._partition.told_end)
        while self._position < end:
            self._position += 1
            yield self._partition.records[self._position - 1]

    async def follow(self) -> AsyncGenerator[LogRecord, None]:
        while True:
            while self._position < len(self._partition.records):
                self._position += 1
                yield self._partition.records[self._position - 1]
            if self._position == len(self._partition.records):
                await self._partition.grown()


class MemoryWriter:
    """A `writer.Writer`. With `fencing` as exactly_once does it, else a plain log and `member` as the proof."""

    def __init__(self, partition: MemoryPartition, *, fencing: bool = True) -> None:
        self._log = partition
        self._fencing = fencing
        self.member = True
        self.batches: list[tuple[list[Record], dict[CommandTopic, int]]] = []
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.started = self.stopped = self.forced = False
        self.failure: Exception | None = None
        self.written_before_failure = False
        self.writing = asyncio.Event()

    @property
    def writes_in_hold(self) -> bool:
        return self._fencing

    @property
    def atomic(self) -> bool:
        return self._fencing

    async def prove(self) -> None:
        if not self.member:
            raise MembershipLost("not a member, as the test asked")

    async def start(self) -> None:
        self.started = True
        self._log.newest = self

    async def write(self, records: Sequence[Record], offsets: Mapping[CommandTopic, int]) -> int | None:
        self.writing.set()
        await self.open_gate.wait()
        if self._fencing and self._log.newest is not self:
            raise OwnershipLost("fenced")
        if self.failure is None or self.written_before_failure:
            self.batches.append((list(records), dict(offsets)))
            for record in records:
                if record.topic is Topic.STATE:
                    self._log.add(record)
        if self.failure is not None:
            raise self.failure
        if not self.member:
            raise MembershipLost("not a member, as the test asked")
        return len(self._log.records) - 1

    async def stop(self, *, force: bool) -> None:
        self.stopped = True
        self.forced = force

    def stall(self) -> None:
        """Writes wait until `resume`."""
        self.open_gate.clear()
        self.writing.clear()

    def resume(self) -> None:
        """Lets them go on."""
        self.open_gate.set()
