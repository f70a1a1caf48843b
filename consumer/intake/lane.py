"""One partition number on this agent: takes it over, goes on with what runs there, and takes its commands in, in order.

A lane lives as long as the group assigns the number to this agent. Where the owner dies (another one
has come) the lane starts again from the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import structlog

from consumer import tasks
from consumer.engine.incoming import Incoming, Understood
from consumer.engine.partition import Partition
from consumer.engine.supervisor import Supervisor
from consumer.errors import OwnershipLost, SettingsError
from consumer.intake.decode import RawRecord, decode
from consumer.intake.inbox import Inbox
from consumer.intake.stillness import Stillness
from consumer.journal.owner import PartitionOwner
from consumer.journal.restore import Restored
from consumer.ports import CommandTopic
from schemas import snapshot
from schemas.commands import ExecuteCommand
from schemas.execution import ExecutionState

_log = structlog.get_logger(__name__)
_State = tuple[str, ExecutionState | ValueError]

#: How often it is looked whether the execute command that another command waits for was taken (seconds).
_LOOK_SECONDS = 0.05
#: A larger record is decoded in a thread (bytes).
_INLINE = 64 * 1024
_SWEEP_SECONDS = 600.0
_BACKOFF_SECONDS = (0.2, 10.0)
#: How long an owner may take to end, and what waits for the next try, whatever the limits are.
_LETTING_GO_SECONDS = 60.0


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
        self._inbox = Inbox()
        self._owner: PartitionOwner | None = None
        self._partition: Partition | None = None
        self._held = False
        self._refusing = False
        self._grace = 10.0
        self._adopted = 0
        self._still = Stillness()
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

    @property
    def held(self) -> bool:
        """Whether the owner is held, as in a rebalance, so that what is queued may have to wait."""
        return self._owner is not None and self._owner.held

    def full(self, role: CommandTopic) -> bool:
        """Whether more of that topic should not be fetched now."""
        return self._inbox.full(role)

    def push(self, record: RawRecord) -> None:
        """Takes a fetched record. What was taken before, or comes while there is no owner, is left out: the lane seeks
        to where it goes on before it takes any."""
        if self.active:
            self._inbox.push(record)
            self.wake.set()

    def rewind(self, role: CommandTopic, offset: int) -> None:
        """The topic was made anew, or became shorter: it goes on at that offset."""
        self._inbox.rewind(role, offset)

    def next_offset(self, role: CommandTopic) -> int | None:
        """The next offset to be fetched; None where that is the topic's beginning, since nothing was ever consumed."""
        return self._inbox.next_offset(role)

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
        """Why the partition hangs, where it does: what is under way made no progress for longer than that (seconds).

        Asked from time to time. All of it is bounded by itself, so that it should not happen: that it is taken, that a
        write ends, that what ran of it before ends. An owner that recovers makes progress.
        """
        owner = self._owner
        if self._held or (owner is not None and owner.trouble is not None):
            self._still.excuse()
            return None
        if owner is None:
            waited = self._still.look("no owner")
            limit = max(writing, _LETTING_GO_SECONDS)
            return f"what ran of it before did not end for {waited:.0f} s" if waited > limit else None
        if not self.active:
            waited = self._still.look((owner, owner.stats.restored, self._adopted))
            return f"to take it made no progress for {waited:.0f} s (WPK_HANG_TIMEOUT)" if waited > taking else None
        if not owner.backlogged:
            self._still.excuse()
            return None
        waited = self._still.look((owner, owner.stats.batches))
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
            except asyncio.CancelledError:
                if tasks.is_cancelled():
                    raise
                _log.exception("partition.failed", partition=self.number)
            except Exception:
                _log.exception("partition.failed", partition=self.number)
            failures = 0 if time.monotonic() - began > 2 * _BACKOFF_SECONDS[1] else failures + 1
            shortest, longest = _BACKOFF_SECONDS
            await asyncio.sleep(min(longest, shortest * 2**failures) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _own(self) -> None:
        # Whoever takes a partition fences its owner: not before the group has said again whose it is.
        await self._released.wait()
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
        offsets = await self._source.seek(self.number, restored)
        self._inbox.expect(offsets)
        if offsets:  # the group's may lie behind the state's, where a former owner's commit was lost
            owner.append((), offsets)
        partition = self._partition = await self._supervisor.adopt(owner, self._counted(snapshot.load_each(records)))
        if self._held:
            owner.hold()
            self._supervisor.hold(partition)
        _log.info("partition.owned", partition=self.number, epoch=owner.epoch, live=len(partition.live))
        return partition

    def _counted(self, states: Iterable[_State]) -> Iterator[_State]:
        """By the count it is seen that a partition with many executions makes progress."""
        for state in states:
            self._adopted += 1
            yield state

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
            # What was fetched counts for nothing now, and how far that was must not move anybody on: a rebalance sets
            # the consumer to where the lane goes on, and that is known again when the next owner has sought it.
            self._inbox.forget()
            await self._supervisor.drop(partition)
        raise OwnershipLost(owner.reason or "the owner was lost")

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
            unknown = self._unknown(partition, incoming)
            if unknown is not None and self._may_wait(record, unknown):
                continue
            awaited = unknown is not None and self._inbox.holds(unknown)
            await owner.backlog()
            await self._supervisor.take(partition, incoming, awaited=awaited)
            self._inbox.done(record)
            await asyncio.sleep(0)  # neither of these need have waited, and other partitions have commands too

    def _next(self) -> RawRecord | None:
        """The oldest record that may be taken: execute commands wait while the agent is full, others never."""
        if self._refusing:
            return None
        return self._inbox.head(room=self._supervisor.room.is_set())

    async def _nothing_to_do(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS if self._inbox.waits else None):
                await self.wake.wait()
        except TimeoutError:
            return

    async def _decoded(self, record: RawRecord) -> Incoming:
        if len(record.value or b"") <= _INLINE:
            return decode(record, self._max_bytes)
        return await asyncio.to_thread(decode, record, self._max_bytes)

    def _unknown(self, partition: Partition, incoming: Incoming) -> str | None:
        """The execution that a rollback or control command names, where that is not known."""
        content = incoming.content
        if not isinstance(content, Understood) or isinstance(content.command, ExecuteCommand):
            return None
        name = content.execution_id
        return None if partition.knows(name) else name

    def _may_wait(self, record: RawRecord, execution_id: str) -> bool:
        """Whether the command is given time for its execution to appear.

        While the agent is full that may take for ever, and the commands behind it may be what makes room: then none
        waits for longer than any.
        """
        if self._inbox.put_off(record.role):
            return True
        if self._supervisor.room.is_set() and self._inbox.holds(execution_id):
            self._inbox.put_off_again(record.role, _LOOK_SECONDS)
            return True
        return False
