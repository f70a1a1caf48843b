"""What waits to be written by an owner, and how it goes into batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from consumer.errors import OwnershipLost
from consumer.ports import CommandTopic, Record, Topic


@dataclass(slots=True, eq=False)
class Append:
    """What one call of the journal's `append` brought; its records become visible together."""

    records: Sequence[Record]
    offsets: Mapping[CommandTopic, int]
    size: int
    durable: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __post_init__(self) -> None:
        self.durable.add_done_callback(_retrieve)

    def fail(self, reason: str) -> None:
        """Tells the waiter, if there still is one, that the outcome is unknown."""
        if not self.durable.done():
            self.durable.set_exception(OwnershipLost(reason))


class AppendQueue:
    """Appends in call order: those waiting and those of the batch under way."""

    def __init__(self) -> None:
        self._waiting: deque[Append] = deque()
        self._under_way: list[Append] = []
        self.bytes = 0
        """Of all that is not durable yet."""
        self.records = 0

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._waiting)

    @property
    def pending(self) -> bool:
        """Whether anything is not durable yet."""
        return bool(self._waiting or self._under_way)

    def put(self, append: Append) -> None:
        """Queues it."""
        self._waiting.append(append)
        self.bytes += append.size
        self.records += len(append.records)

    def take(self, max_bytes: int, max_records: int) -> list[Append]:
        """As many whole appends as go into one batch, one at least; they are under way then."""
        size = records = 0
        while self._waiting:
            size += self._waiting[0].size
            records += len(self._waiting[0].records)
            if self._under_way and (size > max_bytes or records > max_records):
                break
            self._under_way.append(self._waiting.popleft())
        return self._under_way

    def done(self) -> None:
        """What was under way is durable."""
        done, self._under_way = self._under_way, []
        for append in done:
            self.bytes -= append.size
            self.records -= len(append.records)
            if not append.durable.done():
                append.durable.set_result(None)

    def fail(self, reason: str) -> None:
        """Nothing of it will be known to be durable."""
        failed = [*self._under_way, *self._waiting]
        self._under_way = []
        self._waiting.clear()
        self.bytes = self.records = 0
        for append in failed:
            append.fail(reason)


def newest_state(records: Iterable[Record]) -> list[Record]:
    """The records without those of the state topic that a later one with the same key replaces."""
    records = list(records)
    newest = {record.key: number for number, record in enumerate(records) if record.topic is Topic.STATE}
    return [
        record
        for number, record in enumerate(records)
        if record.topic is not Topic.STATE or newest[record.key] == number
    ]


def _retrieve(durable: asyncio.Future[None]) -> None:
    """A failed future that nobody awaits is no news: the owner's `lost` and `reason` tell it."""
    if not durable.cancelled():
        durable.exception()
