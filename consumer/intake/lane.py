"""One partition number on this agent: takes it over, goes on with what runs there, and takes its commands in, in order.

A lane lives as long as the group assigns the number to this agent. Where the owner dies (fenced, Kafka away too long)
the lane starts again from the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from consumer.engine.incoming import Incoming, Understood
from consumer.engine.supervisor import Partition, Supervisor
from consumer.errors import OwnershipLost, SettingsError
from consumer.intake.decode import RawRecord, decode
from consumer.journal.owner import PartitionOwner
from consumer.journal.restore import Restored
from consumer.ports import CommandTopic
from schemas import snapshot
from schemas.commands import ExecuteCommand

_log = structlog.get_logger(__name__)

#: A topic's partition is paused while so much of it waits here (records, bytes).
QUEUE_RECORDS = 500
QUEUE_BYTES = 2 << 20
#: How long a rollback or control command waits for the execute command that it names (seconds): the topics are not
#: ordered to each other, so that it may be read first although it was sent later.
_PATIENCE = 2.0
#: A larger record is decoded in a thread (bytes).
_INLINE = 64 * 1024
_SWEEP_SECONDS = 600.0
_BACKOFF_SECONDS = (0.2, 10.0)


class Source(Protocol):
    """What a lane needs of the consumer."""

    async def seek(self, partition: int, restored: Restored) -> Mapping[CommandTopic, int]:
        """Sets where each command topic goes on, and gives that where it is known (not where it is the beginning).

        Raises OwnershipLost where the partition is not assigned.
        """
        ...


class Lane:
    """See the module. `run` until it is cancelled."""

    def __init__(
        self,
        number: int,
        *,
        supervisor: Supervisor,
        new_owner: Callable[[], PartitionOwner],
        source: Source,
        max_bytes: int,
    ) -> None:
        self.number = number
        self._supervisor = supervisor
        self._new_owner = new_owner
        self._source = source
        self._max_bytes = max_bytes
        self._queues: dict[CommandTopic, deque[RawRecord]] = {role: deque() for role in CommandTopic}
        self._bytes = dict.fromkeys(CommandTopic, 0)
        self._expected: dict[CommandTopic, int] = {}
        self._deferred: dict[CommandTopic, float] = {}
        self._owner: PartitionOwner | None = None
        self._partition: Partition | None = None
        self._held = False
        self._refusing = False
        self._grace = 10.0
        self._began = 0.0
        self._written_before = (-1, 0.0)
        self._released = asyncio.Event()
        self._released.set()
        self.wake = asyncio.Event()
        """Set whenever it may be worth looking at the queues again."""

    # --- what the listener sees ---

    @property
    def active(self) -> bool:
        """Whether the partition is restored and takes commands."""
        return self._partition is not None

    @property
    def owner(self) -> PartitionOwner | None:
        """The present owner."""
        return self._owner

    def full(self, role: CommandTopic) -> bool:
        """Whether more of that topic should not be fetched now."""
        return len(self._queues[role]) >= QUEUE_RECORDS or self._bytes[role] >= QUEUE_BYTES

    def push(self, record: RawRecord) -> None:
        """Takes a fetched record. What was taken before, or comes while there is no owner, is left out: the lane seeks
        to where it goes on before it takes any."""
        if not self.active or record.offset < self._expected.get(record.role, 0):
            return
        self._expected[record.role] = record.offset + 1
        self._queues[record.role].append(record)
        self._bytes[record.role] += len(record.value or b"")
        self.wake.set()

    def next_offset(self, role: CommandTopic) -> int | None:
        """The next offset to be fetched; None where that is the topic's beginning, since nothing was ever consumed."""
        return self._expected.get(role)

    def hold_steps(self) -> None:
        """No further step begins; those that run come to their end, which is still written."""
        self._held = True
        self._released.clear()
        if self._partition is not None:
            self._supervisor.hold(self._partition)

    def refuse(self) -> None:
        """The agent stops: no step begins, and no command is taken; those that wait here are the next owner's."""
        self._refusing = True
        self.hold_steps()

    def end_within(self, seconds: float) -> None:
        """How long the owner may take to write what is queued when the lane is cancelled."""
        self._grace = seconds

    def hold(self) -> None:
        """A rebalance has begun: nothing new begins, what runs goes on."""
        if self._owner is not None:
            self._owner.hold()
        self.hold_steps()

    def write_again(self) -> None:
        """The rebalance is over while the agent stops: what ends may be written, and still no step begins."""
        if self._owner is not None:
            self._owner.release()

    async def written(self) -> None:
        """Waits until all that was queued so far is durable, or the owner is lost."""
        if self._owner is not None and self.active:
            with contextlib.suppress(OwnershipLost):
                await self._owner.append(())

    async def settle(self) -> None:
        """Waits until no write is under way that a rebalance would disturb."""
        if self._owner is not None:
            await self._owner.idle()

    def release(self) -> None:
        """The partition stayed here."""
        self._held = False
        self._released.set()
        if self._owner is not None:
            self._owner.release()
        if self._partition is not None:
            self._supervisor.resume(self._partition)
        self.wake.set()

    def stuck(self, taking: float, writing: float) -> str | None:
        """Why the partition hangs, where it does: it is being taken, or a write is under way, for longer than that.

        All of those are bounded by themselves, so that it should not happen. An owner that recovers makes progress.
        """
        now, owner = asyncio.get_running_loop().time(), self._owner
        if owner is None or self._held or owner.trouble is not None:
            self._began, self._written_before = now, (-1, now)
            return None
        if not self.active:
            taken = now - self._began
            return f"it is being taken for {taken:.0f} s" if taken > taking else None
        batches = owner.stats.batches
        if not owner.backlogged or batches != self._written_before[0]:
            self._written_before = (batches, now)
        waited = now - self._written_before[1]
        return f"nothing of what waits was written for {waited:.0f} s" if waited > writing else None

    # --- life ---

    async def run(self) -> None:
        """Owns the partition, again and again where an owner dies, until it is cancelled. Raises SettingsError."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._own()
            except OwnershipLost as error:
                _log.warning("partition.lost", partition=self.number, reason=str(error))
            except SettingsError:
                raise
            except Exception:
                _log.exception("partition.failed", partition=self.number)
            failures = 0 if time.monotonic() - began > 2 * _BACKOFF_SECONDS[1] else failures + 1
            shortest, longest = _BACKOFF_SECONDS
            await asyncio.sleep(min(longest, shortest * 2**failures) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _own(self) -> None:
        # Whoever takes a partition fences its owner: not before the group has said again whose it is.
        await self._released.wait()
        self._began = asyncio.get_running_loop().time()
        owner = self._owner = self._new_owner()
        try:
            await self._work(owner, await self._take_over(owner))
        finally:
            self._owner = None
            owner.release()  # no effect begins any more, and what is queued may be written in a hold too
            await owner.close(grace=self._grace)

    async def _take_over(self, owner: PartitionOwner) -> Partition:
        """Restores the partition. What was read is not kept beyond this: the executions that ended are most of it."""
        restored = await owner.open()
        records = {key.decode(errors="replace"): value for key, value in restored.state.items()}
        self._forget_queues()
        self._expected.update(await self._source.seek(self.number, restored))
        partition = self._partition = self._supervisor.adopt(owner, snapshot.load_each(records))
        if self._held:
            owner.hold()
            self._supervisor.hold(partition)
        _log.info("partition.owned", partition=self.number, epoch=owner.epoch, live=len(partition.live))
        return partition

    async def _work(self, owner: PartitionOwner, partition: Partition) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                sweeper = group.create_task(self._sweep(partition))
                taker = group.create_task(self._take(partition, owner))
                await owner.lost.wait()
                sweeper.cancel()
                taker.cancel()
        except* OwnershipLost:
            pass  # the owner's own reason says more
        finally:
            self._partition = None
            await self._supervisor.drop(partition)
        raise OwnershipLost(owner.reason or "the owner was lost")

    def _forget_queues(self) -> None:
        for queue in self._queues.values():
            queue.clear()
        self._bytes = dict.fromkeys(CommandTopic, 0)
        self._expected.clear()
        self._deferred.clear()

    async def _sweep(self, partition: Partition) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - spreads the partitions
            try:
                forgotten = await self._supervisor.sweep(partition)
            except OwnershipLost:
                raise
            except Exception:  # a read that failed; the next round comes
                _log.exception("sweep.failed", partition=self.number)
                continue
            if forgotten:
                _log.info("executions.forgotten", partition=self.number, count=forgotten)

    async def _take(self, partition: Partition, owner: PartitionOwner) -> None:
        while True:
            self.wake.clear()
            record = self._next()
            if record is None:
                await self._nothing_to_do()
                continue
            incoming = await self._decoded(record)
            if self._too_early(partition, record, incoming):
                continue
            await owner.backlog()
            await self._supervisor.take(partition, incoming)
            self._done(record)

    def _next(self) -> RawRecord | None:
        """The oldest record that may be taken: execute commands wait while the agent is full, others never."""
        if self._refusing:
            return None
        now = time.monotonic()
        heads = [
            queue[0]
            for role, queue in self._queues.items()
            if queue
            and (role is not CommandTopic.EXECUTE or self._supervisor.room.is_set())
            and not self._put_off(role, now)
        ]
        return min(heads, key=lambda record: record.timestamp_ms, default=None)

    def _put_off(self, role: CommandTopic, now: float) -> bool:
        """Whether that topic's head waits for its execute command, and another topic has something to take first."""
        until = self._deferred.get(role)
        return until is not None and now < until

    async def _nothing_to_do(self) -> None:
        try:
            async with asyncio.timeout(0.05 if self._deferred else None):
                await self.wake.wait()
        except TimeoutError:
            return

    async def _decoded(self, record: RawRecord) -> Incoming:
        if len(record.value or b"") <= _INLINE:
            return decode(record, self._max_bytes)
        return await asyncio.to_thread(decode, record, self._max_bytes)

    def _too_early(self, partition: Partition, record: RawRecord, incoming: Incoming) -> bool:
        """Whether the command names an execution that is not known yet; it is given a little time to appear."""
        content = incoming.content
        if not isinstance(content, Understood) or isinstance(content.command, ExecuteCommand):
            return False
        name = content.execution_id
        if name in partition.live or name in partition.ended:
            return False
        if record.role in self._deferred and not self._may_come(name):
            return False
        self._deferred[record.role] = time.monotonic() + _PATIENCE
        return True

    def _may_come(self, execution_id: str) -> bool:
        """Whether the execute command of that name seems to wait here, because the agent is full."""
        if self._supervisor.room.is_set():
            return False
        name = execution_id.encode()
        queue = self._queues[CommandTopic.EXECUTE]
        return any(record.key == name or name in (record.value or b"") for record in queue)

    def _done(self, record: RawRecord) -> None:
        self._queues[record.role].popleft()
        self._bytes[record.role] -= len(record.value or b"")
        self._deferred.pop(record.role, None)
        if record.role is CommandTopic.EXECUTE:
            self._deferred = dict.fromkeys(self._deferred, 0.0)  # it may have been what others wait for
