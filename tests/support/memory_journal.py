"""A journal in memory for the engine's tests: the contract of `ports.Journal`, with faults at the wanted moment.

One `append` is one batch, durable on the loop's next turn, in call order. `successor()` is what a new owner of the
same partition gets after a crash: it knows what became durable and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from consumer.errors import OwnershipLost
from consumer.ports import CommandTopic, Record, Topic


@dataclass(slots=True, eq=False)
class Batch:
    """What one call of `append` brought."""

    records: tuple[Record, ...]
    offsets: dict[CommandTopic, int]
    durable: asyncio.Future[None]
    poisoned: bool = False


@dataclass(slots=True)
class Log:
    """What is durable; shared by a journal and its successors."""

    batches: list[Batch] = field(default_factory=list)

    def records(self, topic: Topic) -> list[Record]:
        """All durable records of one topic, in order."""
        return [record for batch in self.batches for record in batch.records if record.topic is topic]

    def state(self) -> dict[bytes, bytes]:
        """The newest value of each key of the state topic; tombstones delete."""
        state: dict[bytes, bytes] = {}
        for record in self.records(Topic.STATE):
            assert record.key is not None
            if record.value is None:
                state.pop(record.key, None)
            else:
                state[record.key] = record.value
        return state

    def offsets(self) -> dict[CommandTopic, int]:
        """The next offsets to be consumed."""
        return {topic: offset for batch in self.batches for topic, offset in batch.offsets.items()}


class MemoryJournal:
    """A `ports.Journal` with fault injection; create it inside the running loop."""

    def __init__(self, partition: int = 0, epoch: int = 1, *, log: Log | None = None) -> None:
        self._partition = partition
        self._epoch = epoch
        self._queue: list[Batch] = []
        self._appended = 0
        self._fail_at: int | None = None
        self._fail_written = False
        self._delay = 0.0
        self._stalled = False
        self._held = False
        self._full = False
        self._changed = asyncio.Event()
        self.reason: str | None = None
        self.lost = asyncio.Event()
        self.log = log if log is not None else Log()

    # --- the port -------------------------------------------------------------------------------------------

    @property
    def partition(self) -> int:
        return self._partition

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def alive(self) -> bool:
        return self.reason is None

    def append(self, records: Sequence[Record], offsets: Mapping[CommandTopic, int] | None = None) -> Awaitable[None]:
        loop = asyncio.get_running_loop()
        batch = Batch(tuple(records), dict(offsets or {}), loop.create_future())
        batch.durable.add_done_callback(_retrieve)
        if self.reason is not None:
            batch.durable.set_exception(OwnershipLost(self.reason))
            return batch.durable
        self._appended += 1
        batch.poisoned = self._appended == self._fail_at
        self._queue.append(batch)
        loop.call_later(self._delay, self._flush, batch)
        return batch.durable

    @property
    def fresh(self) -> bool:
        return self.alive

    async def may_act(self) -> None:
        await self._until(lambda: not self._held)

    async def backlog(self) -> None:
        await self._until(lambda: not self._full)

    # --- what a test does with it ---------------------------------------------------------------------------

    @property
    def state(self) -> dict[bytes, bytes]:
        """The durable state: newest value per key."""
        return self.log.state()

    @property
    def offsets(self) -> dict[CommandTopic, int]:
        """The durable offsets: the next to be consumed."""
        return self.log.offsets()

    @property
    def appended(self) -> int:
        """How many times `append` was called while alive."""
        return self._appended

    def records(self, topic: Topic) -> list[Record]:
        """All durable records of one topic, in order, of earlier owners too."""
        return self.log.records(topic)

    def fail_at(self, number: int, *, written: bool = False) -> None:
        """Dies at the append of that number (the first is 1). `written`: it is durable, only its answer is lost."""
        self._fail_at = number
        self._fail_written = written

    def kill(self, reason: str = "killed by the test") -> None:
        """Dies now: what is queued is not written."""
        if self.reason is not None:
            return
        self.reason = reason
        self.lost.set()
        self._announce()
        queue, self._queue = self._queue, []
        for batch in queue:
            if not batch.durable.done():
                batch.durable.set_exception(OwnershipLost(reason))

    def stall(self) -> None:
        """Nothing more becomes durable until `resume`."""
        self._stalled = True

    def resume(self) -> None:
        """All that was queued becomes durable."""
        self._stalled = False
        if self._queue:
            self._flush(self._queue[-1])

    def slow(self, seconds: float) -> None:
        """An append becomes durable only after that time, from now on."""
        self._delay = seconds

    def hold(self) -> None:
        """As in a rebalance: no new effect may begin."""
        self._held = True

    def release(self) -> None:
        """The partition came back."""
        self._held = False
        self._announce()

    def fill(self, full: bool = True) -> None:
        """Makes `backlog` wait (or not, with False)."""
        self._full = full
        self._announce()

    def successor(self) -> MemoryJournal:
        """Fences this journal (what is queued is lost) and gives its next owner, which sees all that is durable."""
        self.kill("fenced by a new owner of the partition")
        return MemoryJournal(self._partition, self._epoch + 1, log=self.log)

    # --- inside ---------------------------------------------------------------------------------------------

    def _flush(self, last: Batch) -> None:
        """Makes durable what was queued up to `last`."""
        if self._stalled or last not in self._queue:
            return
        while self._queue:
            batch = self._queue[0]
            if batch.poisoned:
                if self._fail_written:
                    self.log.batches.append(batch)
                self.kill("an append failed, as the test asked")
                return
            self.log.batches.append(self._queue.pop(0))
            if not batch.durable.done():
                batch.durable.set_result(None)
            if batch is last:
                return

    async def _until(self, ready: Callable[[], bool]) -> None:
        while self.reason is None and not ready():
            await self._changed.wait()
        if self.reason is not None:
            raise OwnershipLost(self.reason)

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _retrieve(durable: asyncio.Future[None]) -> None:
    """A failed future that nobody awaits is no news: the journal's death is announced by `lost`."""
    if not durable.cancelled():
        durable.exception()
