"""The owner of one partition number: it fences, restores, and then is the only one who writes, until it dies.

FENCING → RESTORING → ACTIVE → QUIESCING → DEAD. Records are queued at once and written by one task in a loop: all that
is queued goes in one batch, its waiters are told, and the loop goes round again. Under load batches grow by themselves,
when idle an append is written at once.

A write that fails leaves its outcome unknown: a broker died, the connection was cut, the own transaction ran out of
time. The owner then recovers: it proves its membership anew, takes a new writer, which ends whatever the former one
left open, and looks into the log. Where no other owner has come it knows what became of the batch, writes it where it
is not there, and goes on; nobody above notices but by the time it takes. Only another owner's claim ends it: what is
pending then fails with OwnershipLost, and the successor restores from what is in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import structlog

from consumer import tasks
from consumer.clock import Clock, SystemClock
from consumer.errors import OwnershipLost, SettingsError
from consumer.journal import lineage
from consumer.journal.connection import explain
from consumer.journal.queue import Append, AppendQueue, newest_state
from consumer.journal.reader import Start
from consumer.journal.restore import Restored, StateLog, look_back, restore
from consumer.journal.terms import Batch, Identity, Limits, Phase, Stats, Trouble
from consumer.journal.writer import Writer
from consumer.ports import CommandTopic, Record, Topic
from schemas.scalars import format_moment

__all__ = ["Identity", "Limits", "PartitionOwner", "Phase", "Stats", "Trouble"]
log = structlog.get_logger(__name__)

#: Opens the state partition's log for reading from a place.
OpenLog = Callable[[Start], AbstractAsyncContextManager[StateLog]]
#: Between attempts to recover (seconds): the shortest and the longest pause.
_PAUSES = (0.2, 5.0)
#: An owner that recovers for long says so again after that time (seconds).
_REMIND_SECONDS = 60.0
#: Between looks for records that are void and newest of their key (seconds).
_MEND_SECONDS = 600.0


class PartitionOwner:
    """A `ports.Journal`. `open()` it, use it until `lost` is set or it is not needed any more, and `close()` it."""

    def __init__(
        self,
        partition: int,
        new_writer: Callable[[], Writer],
        open_log: OpenLog,
        identity: Identity,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        clock: Clock = SystemClock(),  # noqa: B008 - without state
        on_write: Callable[[float], None] = lambda seconds: None,
        on_recovery: Callable[[], None] = lambda: None,
    ) -> None:
        self._partition = partition
        self._new_writer = new_writer
        self._writer = new_writer()
        self._open_log = open_log
        self._identity = identity
        self._limits = limits
        self._clock = clock
        self._on_write = on_write
        self._on_recovery = on_recovery
        self._phase = Phase.FENCING
        self._epoch = -1
        self._offsets: dict[CommandTopic, int] = {}
        self._queue = AppendQueue()
        self._number = 0
        self._known_end = 0
        """An offset of the state topic, before which all of this owner's writes have a known outcome."""
        self._mend_at = float("inf")
        self._mended = (0, 0)
        """The offset up to which void records were looked for, and the last of the own batches before it."""
        self._disturbable = False
        self._held = False
        self._proven_at = float("-inf")
        self._changed = asyncio.Event()
        self._released = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()
        """Set at death."""
        self.reason: str | None = None
        """Why it died."""
        self.trouble: Trouble | None = None
        """Set while the owner recovers from a write that failed."""
        self.stats = Stats()

    # --- the port -------------------------------------------------------------------------------------------

    @property
    def partition(self) -> int:
        return self._partition

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def alive(self) -> bool:
        return self._phase is not Phase.DEAD

    def append(self, records: Sequence[Record], offsets: Mapping[CommandTopic, int] | None = None) -> Awaitable[None]:
        """See `ports.Journal`. Raises ValueError, at once, for a record that could never be written."""
        size = sum(self._checked_size(record) for record in records)
        return self._enqueue(Append(tuple(records), dict(offsets or {}), size))

    @property
    def fresh(self) -> bool:
        return self.alive and time.monotonic() - self._proven_at <= self._limits.proof_seconds

    async def may_act(self) -> None:
        while True:
            await self._until(lambda: not self._held)
            if time.monotonic() - self._proven_at <= self._limits.proof_seconds:
                return
            await self._enqueue(Append((), {}, 0))  # an empty append is written as a proof
            if not self._held:
                return

    async def backlog(self) -> None:
        await self._until(
            lambda: (
                self._queue.bytes <= self._limits.backlog_bytes and self._queue.records <= self._limits.backlog_records
            )
        )

    # --- life -----------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Where the owner is in its life."""
        return self._phase

    @property
    def backlogged(self) -> bool:
        """Whether something waits to be written, or is being written."""
        return self._queue.pending

    @property
    def held(self) -> bool:
        """Whether new effects are held back."""
        return self._held

    async def open(self) -> Restored:
        """Fences earlier owners, claims the partition and gives its state; the owner is ACTIVE then.

        Raises OwnershipLost, with the reason, or SettingsError; the owner is dead then and needs no `close`.
        """
        if self._phase is not Phase.FENCING:
            raise RuntimeError("an owner is opened once")
        try:
            restored = await self._take()
        except BaseException as error:
            self._die(_why(error), wanted=isinstance(error, asyncio.CancelledError))
            await self._writer.stop(force=True)
            if isinstance(error, Exception) and not isinstance(error, OwnershipLost | SettingsError):
                raise OwnershipLost(f"partition {self._partition} could not be taken: {_why(error)}") from error
            raise
        self._phase = Phase.ACTIVE
        self._task = asyncio.create_task(self._run(), name=f"journal-{self._partition}")
        return restored

    def hold(self) -> None:
        """As in a rebalance: no new effect begins, what runs goes on. See `idle`."""
        self._held = True

    async def idle(self) -> None:
        """Waits until nothing is under way that would disturb a rebalance; a hold begins none. Returns at death."""
        while self.alive and self._disturbable:
            await self._changed.wait()

    def release(self) -> None:
        """The partition stayed, or came back, with no other owner between; effects begin after a new proof."""
        self._held = False
        self._proven_at = float("-inf")
        self._released.set()
        self._announce()

    def kill(self, reason: str) -> None:
        """Dies at once: what is not written fails, and what is being written has an unknown outcome."""
        self._die(reason)
        if self._task is not None:
            self._task.cancel()

    async def close(self, *, grace: float = 10.0) -> None:
        """Writes what is queued, for at most `grace` seconds, then dies and ends the connections. Does not raise."""
        if self._phase is Phase.ACTIVE:
            self._phase = Phase.QUIESCING
            self._announce()
        try:
            if self._task is not None:
                await asyncio.wait([self._task], timeout=grace)
        finally:
            flushed = self._task is not None and self._task.done() and self.alive
            self.kill("closed" if flushed else f"closed with work left that took longer than {grace:g} s")
            if self._task is not None:
                await asyncio.wait([self._task])
            await self._writer.stop(force=not flushed)

    # --- inside: taking the partition -----------------------------------------------------------------------

    async def _take(self) -> Restored:
        await self._start_writer()
        self._phase = Phase.RESTORING
        async with self._open_log("beginning") as state_log:
            restored = await restore(state_log, self._claim, self._count_restored)
        self._epoch = restored.epoch
        self._known_end = restored.epoch + 1
        self._offsets = dict(restored.offsets)
        if restored.repairs:
            log.warning("a fenced owner's records are overruled", partition=self._partition, keys=len(restored.repairs))
        repairs = [Record(Topic.STATE, key, value) for key, value in restored.repairs.items()]
        await self._write(self._batch([*repairs, self._offsets_record()], {}))  # attests the claim, see `lineage`
        self._mended = (self._known_end, self._number)
        self._mend_soon()
        return restored

    def _count_restored(self) -> None:
        self.stats.restored += 1

    async def _start_writer(self) -> None:
        async with self._not_in_a_rebalance():
            async with asyncio.timeout(self._limits.write_seconds):
                await self._writer.prove()
        try:
            async with asyncio.timeout(self._limits.start_seconds):
                await self._writer.start()
        except TimeoutError as error:
            raise TimeoutError(f"Kafka did not let the writer start in {self._limits.start_seconds:g} s") from error

    async def _claim(self, after: int | None) -> lineage.Claim:
        claim = lineage.Claim(
            agent=self._identity.agent,
            group=self._identity.group,
            at=format_moment(self._clock.now()),
            after=after,
            token=uuid4().hex,
        )
        await self._write(Batch(0, [Record(Topic.STATE, lineage.OWNER_KEY, claim.encode())], {}))
        return claim

    # --- inside: the queue ----------------------------------------------------------------------------------

    def _checked_size(self, record: Record) -> int:
        size = len(record.key or b"") + len(record.value or b"")
        size += sum(len(name) + len(value) for name, value in record.headers)
        if size > self._limits.record_bytes:
            raise ValueError(
                f"a record of {record.topic} has {size} bytes; the topics take {self._limits.record_bytes} at most"
            )
        if record.topic is Topic.STATE and (record.key is None or lineage.is_reserved(record.key)):
            raise ValueError(f"{record.key!r} can't be a key of the state topic")
        if record.key is None and record.value is None:
            raise ValueError(f"a record of {record.topic} has neither key nor value")
        return size

    def _enqueue(self, append: Append) -> asyncio.Future[None]:
        match self._phase:
            case Phase.FENCING | Phase.RESTORING:
                raise RuntimeError("the journal is not open yet")
            case Phase.ACTIVE:
                self._queue.put(append)
                self._announce()
            case Phase.QUIESCING:
                append.fail("the journal is being closed")
            case Phase.DEAD:
                append.fail(self.reason or "dead")
        return append.durable

    async def _run(self) -> None:
        try:
            while self.alive:
                if self._queue and (self._writer.writes_in_hold or not self._held):
                    await self._write_queued()
                elif self._phase is Phase.QUIESCING and not self._queue:
                    return
                elif not self._held and time.monotonic() >= self._mend_at:
                    await self._mend()
                else:
                    await self._next_change()
        except BaseException as error:
            self._die(_why(error))
            if not isinstance(error, Exception):
                raise

    async def _next_change(self) -> None:
        try:
            idle = self._held or self._mend_at == float("inf")
            async with asyncio.timeout(None if idle else self._mend_at - time.monotonic()):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _write_queued(self) -> None:
        appends = self._queue.take(self._limits.batch_bytes, self._limits.batch_records)
        records = newest_state(record for append in appends for record in append.records)
        offsets: dict[CommandTopic, int] = {}
        for append in appends:
            offsets |= append.offsets
        self._offsets |= offsets
        if offsets or not any(record.topic is Topic.STATE for record in records):
            records.append(self._offsets_record())  # by a state record the batch is found again, see `_recover`
        await self._write_surely(self._batch(records, offsets))
        self.stats.bytes += sum(append.size for append in appends)
        self._queue.done()
        self._announce()

    async def _write_surely(self, batch: Batch) -> None:
        try:
            await self._write(batch)
        except (Exception, asyncio.CancelledError) as error:
            if tasks.is_cancelled() or not self.alive:
                raise
            await self._recover(batch, error)
            self._mend_soon()

    def _mend_soon(self) -> None:
        if not self._writer.atomic:
            self._mend_at = time.monotonic() + self._limits.mend_soon_seconds

    def _batch(self, records: Sequence[Record], offsets: Mapping[CommandTopic, int]) -> Batch:
        self._number += 1
        headers = lineage.stamp(self._epoch, self._number)
        stamped = [
            replace(record, headers=(*record.headers, *headers)) if record.topic is Topic.STATE else record
            for record in records
        ]
        return Batch(self._number, stamped, offsets)

    async def _write(self, batch: Batch) -> None:
        started, end = await self._put(batch)
        if end is not None:
            self._known_end = end
        self._proven_at = started
        self.stats.batches += 1
        self.stats.records += len(batch.records)
        self.stats.last_write_seconds = time.monotonic() - started
        self._on_write(self.stats.last_write_seconds)

    async def _put(self, batch: Batch) -> tuple[float, int | None]:
        """Gives when it began, and what the writer gives."""
        if self._writer.writes_in_hold:
            return time.monotonic(), await self._written(batch)
        async with self._not_in_a_rebalance():
            return time.monotonic(), await self._written(batch)

    async def _written(self, batch: Batch) -> int | None:
        try:
            async with asyncio.timeout(self._limits.write_seconds):
                return await self._writer.write(batch.records, batch.offsets)
        except TimeoutError as error:
            raise TimeoutError(
                f"a write did not end in {self._limits.write_seconds:g} s; its outcome is unknown"
            ) from error

    @asynccontextmanager
    async def _not_in_a_rebalance(self) -> AsyncIterator[None]:
        """For what would disturb a rebalance: not begun in a hold, and waited for by `idle`."""
        await self._until(lambda: not self._held)
        self._disturbable = True
        try:
            yield
        finally:
            self._disturbable = False
            self._announce()

    def _offsets_record(self) -> Record:
        return Record(Topic.STATE, lineage.OFFSETS_KEY, lineage.encode_offsets(self._offsets))

    # --- inside: mending ------------------------------------------------------------------------------------

    async def _mend(self) -> None:
        """Writes again what a void record overlies: compaction goes by offsets, and would keep the void one.

        Without transactions such a record may come at any time: from an agent that stood still, or by a connection
        that was given up. It may lie there for `topics.STATE_COMPACTION_LAG_MS` before it does harm.
        """
        self._mend_at = time.monotonic() + _MEND_SECONDS * random.uniform(0.5, 1.0)  # noqa: S311 - spreads partitions
        start, batch = self._mended
        mark = _mark()
        await self._write_surely(self._batch([mark], {}))
        token = mark.value or b""
        try:
            async with self._open_log(start) as state_log:
                seen = await look_back(state_log, token, self._epoch, batch)
            offsets = [self._offsets_record()] if lineage.OFFSETS_KEY in seen.fold.void else []
            if seen.fold.repairs():
                async with self._open_log("beginning") as state_log:
                    seen = await look_back(state_log, token, None)
        except OwnershipLost:
            raise
        except (Exception, asyncio.CancelledError) as error:  # the next round comes
            if tasks.is_cancelled():
                raise
            log.warning("journal.unmended", partition=self._partition, reason=_why(error))
            return
        repairs = [*offsets, *(Record(Topic.STATE, key, value) for key, value in seen.fold.repairs().items())]
        if repairs and seen.fold.lineage.epoch == self._epoch:
            log.warning("a fenced owner's records are overruled", partition=self._partition, keys=len(repairs))
            await self._write_surely(self._batch(repairs, {}))
        self._mended = (seen.end, self._number)

    # --- inside: recovering ---------------------------------------------------------------------------------

    async def _recover(self, batch: Batch, error: BaseException) -> None:
        """Returns when the batch is durable. Raises OwnershipLost where the partition has another owner.

        However long it takes: who loses the partition is told by the group, and then this owner is closed.
        """
        began = told = time.monotonic()
        pause = _PAUSES[0]
        self.trouble = Trouble(began, _why(error))
        log.warning("journal.interrupted", partition=self._partition, epoch=self._epoch, reason=_why(error))
        while True:
            self._released.clear()
            try:
                await self._renew(batch)
                break
            except OwnershipLost:
                raise
            except (Exception, asyncio.CancelledError) as again:
                if tasks.is_cancelled():
                    raise
                if _why(again) != self.trouble.reason or time.monotonic() - told > _REMIND_SECONDS:
                    told = time.monotonic()
                    seconds = round(told - began)
                    log.warning(
                        "journal.still_interrupted", partition=self._partition, reason=_why(again), seconds=seconds
                    )
                self.trouble = Trouble(began, _why(again))
            with contextlib.suppress(TimeoutError):  # the end of a rebalance may be what it takes
                async with asyncio.timeout(pause * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter
                    await self._released.wait()
            pause = min(2 * pause, _PAUSES[1])
        self.trouble = None
        self._on_recovery()
        log.warning("journal.recovered", partition=self._partition, seconds=round(time.monotonic() - began, 3))

    async def _renew(self, batch: Batch) -> None:
        await _to_its_end(self._writer.stop(force=True))
        self._writer = self._new_writer()
        started = time.monotonic()
        await self._start_writer()
        mark = _mark()  # without a stamp: it belongs to no batch, and says nothing about who owns the partition
        await self._put(Batch(0, [mark], {}))
        async with self._open_log(self._known_end) as state_log:
            seen = await look_back(state_log, mark.value or b"", self._epoch)
        if self._writer.atomic and batch.number in seen.batches:
            self._proven_at = started
            if batch.offsets:  # the writer's proof may have set the group back to where it was before the batch
                await self._write(self._batch([self._offsets_record()], batch.offsets))
        else:
            await self._write(batch)

    # --- inside: waiting and dying --------------------------------------------------------------------------

    async def _until(self, ready: Callable[[], bool]) -> None:
        while self.alive and not ready():
            await self._changed.wait()
        if not self.alive:
            raise OwnershipLost(self.reason or "dead")

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _die(self, reason: str, *, wanted: bool = False) -> None:
        if not self.alive:
            return
        if self._phase is not Phase.QUIESCING and not wanted:
            log.warning("a partition is lost", partition=self._partition, epoch=self._epoch, reason=reason)
        self._phase = Phase.DEAD
        self.reason = reason
        self.lost.set()
        self._queue.fail(reason)
        self._announce()


def _why(error: BaseException) -> str:
    if isinstance(error, OwnershipLost):
        return str(error)
    if isinstance(error, asyncio.CancelledError):
        return "the owner's task was cancelled"
    if isinstance(error, TimeoutError) and str(error):
        return str(error)
    return explain(error, connected=True)


def _mark() -> Record:
    """A record by which its writer finds in the log how far it must read."""
    return Record(Topic.STATE, lineage.MARK_KEY, uuid4().hex.encode())


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """Awaits what must not be left half done; a cancellation comes after it."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
