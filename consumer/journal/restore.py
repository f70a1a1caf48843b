"""Restoring a partition's state: read what is there, claim it, read on until the own claim appears.

And, after a write whose outcome is unknown, finding out what became of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from consumer.errors import OwnershipLost
from consumer.journal import lineage
from consumer.journal.reader import LogRecord
from consumer.ports import CommandTopic

log = structlog.get_logger(__name__)

#: How long the own claim, which is durable, may take to appear.
CLAIM_SECONDS = 60.0


class StateLog(Protocol):
    """A state partition, read from its beginning."""

    def to_end(self) -> AsyncGenerator[LogRecord, None]:
        """All records up to the present end."""
        ...

    def follow(self) -> AsyncGenerator[LogRecord, None]:
        """All records after those, as they come."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a new owner starts from."""

    epoch: int
    state: dict[bytes, bytes]
    """The newest value of each execution's key."""
    offsets: dict[CommandTopic, int]
    """The next offsets to be consumed, by the state; the group's committed ones may be higher."""
    repairs: dict[bytes, bytes | None] = field(default_factory=dict)
    """Keys that a fenced owner still wrote to, with the value that counts (None: deleted); to be written again, since
    compaction would keep the fenced owner's record."""

    def resume_at(self, topic: CommandTopic, committed: int | None) -> int | None:
        """Where to go on: the higher of the group's committed offset and the state's; None where there is neither."""
        known = [offset for offset in (committed, self.offsets.get(topic)) if offset is not None]
        return max(known, default=None)


class Fold:
    """Newest value per key of a state partition, by the rule of `lineage`; with `epoch` from where that one owns it."""

    def __init__(self, epoch: int | None = None) -> None:
        self.lineage = lineage.Lineage(epoch)
        self.values: dict[bytes, bytes] = {}
        self.void: set[bytes] = set()

    def add(self, record: LogRecord) -> None:
        """Takes in the next record of the log."""
        if record.key is None:
            return  # only a foreign hand writes such; compaction would refuse it
        if record.key == lineage.OWNER_KEY:
            self._add_claim(record)
            return
        epoch = lineage.epoch_of(record.headers)
        if epoch is not None and not self.lineage.record(epoch, lineage.batch_of(record.headers)):
            self.void.add(record.key)
            return
        self.void.discard(record.key)
        if record.value is None:
            self.values.pop(record.key, None)
        else:
            self.values[record.key] = record.value

    def _add_claim(self, record: LogRecord) -> None:
        if record.value is None:
            return
        try:
            claim = lineage.Claim.decode(record.value)
        except ValueError as error:
            log.warning(
                "an unreadable claim is skipped", partition=record.partition, offset=record.offset, why=str(error)
            )
            return
        self.lineage.claim(record.offset, claim.after)


async def restore(state_log: StateLog, claim: Callable[[int | None], Awaitable[lineage.Claim]]) -> Restored:
    """The state of the partition, with the own claim on it.

    `claim(after)` writes the claim durably and gives it. Raises OwnershipLost where another agent's claim came first,
    and TimeoutError where the reading stands still.
    """
    fold = Fold()
    async with aclosing(state_log.to_end()) as records:
        async for record in records:
            fold.add(record)
    own = await claim(fold.lineage.epoch)
    epoch = await _read_to_claim(state_log, fold, own)
    if fold.lineage.epoch != epoch:
        raise OwnershipLost("another agent took the partition in the same moment, and its claim came first")
    values = dict(fold.values)
    offsets = values.pop(lineage.OFFSETS_KEY, None)
    repairs = {key: values.get(key) for key in sorted(fold.void) if not lineage.is_reserved(key)}
    return Restored(
        epoch=epoch,
        state=values,
        offsets=lineage.decode_offsets(offsets) if offsets is not None else {},
        repairs=repairs,
    )


async def is_written(state_log: StateLog, epoch: int, batch: int) -> bool:
    """Whether a batch of that owner is in the log, whole or in part; read from before it, after the writer is fenced.

    Raises OwnershipLost where the partition has had another owner since.
    """
    fold, found = Fold(epoch), False
    async with aclosing(state_log.to_end()) as records:
        async for record in records:
            fold.add(record)
            found = found or (lineage.epoch_of(record.headers), lineage.batch_of(record.headers)) == (epoch, batch)
    if fold.lineage.epoch != epoch:
        raise OwnershipLost("another agent took the partition while this one could not write")
    return found


async def _read_to_claim(state_log: StateLog, fold: Fold, own: lineage.Claim) -> int:
    value = own.encode()
    async with asyncio.timeout(CLAIM_SECONDS), aclosing(state_log.follow()) as records:
        async for record in records:
            fold.add(record)
            if record.key == lineage.OWNER_KEY and record.value == value:
                return record.offset
    raise OwnershipLost("the state partition ended before the own claim appeared")
