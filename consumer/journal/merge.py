"""Many partitions as one stream in the order of time, in bounded memory: what an audit of years of trail reads."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from itertools import accumulate
from operator import attrgetter, itemgetter

from aiokafka import TopicPartition

from consumer.journal.reader import LogRecord, PartitionReader

#: At most so many records are fetched at once; of a partition that is ahead of the others no more are held.
AT_ONCE = 2_000
#: Loops over records are left to built-ins: there are millions of them.
_clock, _record, _timestamp = itemgetter(0), itemgetter(1), attrgetter("timestamp")


class Merge:
    """Reads a reader's partitions from where they stand to their present ends, and (`until`) to that moment.

    A partition's own order stays as it is: a time that goes back counts as the one before it.
    """

    def __init__(self, reader: PartitionReader, until: datetime | None = None) -> None:
        self._reader = reader
        self._until = None if until is None else int(until.timestamp() * 1000)
        self._held = {tp: list[tuple[int, LogRecord]]() for tp in reader.partitions}
        self._clocks = dict.fromkeys(reader.partitions, 0)
        self._begins: dict[TopicPartition, int] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._live = set(reader.partitions)

    @property
    def fraction(self) -> float:
        """How much of it was fetched: 0 to 1."""
        total = sum(end - self._begins[tp] for tp, end in self._ends.items())
        done = sum(self._positions[tp] - self._begins[tp] for tp in self._ends)
        return min(1.0, done / total) if total > 0 else float(not self._live)

    async def batches(self) -> AsyncGenerator[list[LogRecord], None]:
        """The records. Raises TimeoutError where the reading stands still short of the end."""
        self._begins = {tp: await self._reader.position(tp) for tp in self._live}
        moved_at = time.monotonic()
        while self._live:
            # Whoever is last in time has none left: all up to its newest record was given out.
            wanted = [tp for tp in self._live if not self._held[tp]]
            fetched = await self._reader.fetch(wanted, AT_ONCE)
            self._hold(fetched)
            for tp in wanted:
                await self._look(tp)
            ready = self._ready()
            if ready:
                yield ready
            if fetched or ready:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > self._reader.stall:
                names = ", ".join(f"{tp.topic}-{tp.partition}" for tp in wanted)
                raise TimeoutError(f"reading stands still for {self._reader.stall:g} s before the end of {names}")

    def _hold(self, fetched: Mapping[TopicPartition, list[LogRecord]]) -> None:
        for tp, records in fetched.items():
            clocks = list(accumulate(map(_timestamp, records), max, initial=self._clocks[tp]))
            self._held[tp].extend(zip(clocks[1:], records, strict=True))
            self._clocks[tp] = clocks[-1]

    async def _look(self, tp: TopicPartition) -> None:
        """Whether the partition's end was reached."""
        end = self._reader.end(tp)
        if end is not None:
            self._ends.setdefault(tp, end)
            self._positions[tp] = await self._reader.position(tp)
        over = tp in self._ends and self._positions[tp] >= self._ends[tp]
        if over or (self._until is not None and self._clocks[tp] > self._until):
            self._live.discard(tp)

    def _ready(self) -> list[LogRecord]:
        """Takes out what no record yet to come can be before, in the order of time."""
        due = min((self._held[tp][-1][0] if self._held[tp] else -1 for tp in self._live), default=None)
        ready: list[tuple[int, LogRecord]] = []
        for held in self._held.values():
            count = len(held) if due is None else bisect_right(held, due, key=_clock)
            ready += held[:count]
            del held[:count]
        ready.sort(key=_clock)
        if self._until is not None:
            del ready[bisect_right(ready, self._until, key=_clock) :]
        return list(map(_record, ready))
