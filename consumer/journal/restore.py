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
#: How long it may take to read up to a mark; less than WPK_HANG_TIMEOUT.
LOOK_SECONDS = 50.0


class StateLog(Protocol):
    """A state partition, read from the place where it was opened."""

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
    """Newest value per key of a state partition, by the rule of `lineage`.

    With `epoch` from a place on where that one owns it, and all of its batches up to `batch` lie before.
    """

    def __init__(self, epoch: int | None = None, batch: int = 0) -> None:
        self.lineage = lineage.Lineage(epoch, batch)
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

    def repairs(self) -> dict[bytes, bytes | None]:
        """The keys whose last record is void, with the value that counts (None: deleted)."""
        return {key: self.values.get(key) for key in sorted(self.void) if not lineage.is_reserved(key)}

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


async def restore(
    state_log: StateLog,
    claim: Callable[[int | None], Awaitable[lineage.Claim]],
    on_record: Callable[[], None] = lambda: None,
) -> Restored:
    """The state of the partition, with the own claim on it.

    `claim(after)` writes the claim durably and gives it; `on_record` is told of each record that was read before that.
    Raises OwnershipLost where another agent's claim came first, and TimeoutError where the reading stands still.
    """
    fold = Fold()
    async with aclosing(state_log.to_end()) as records:
        async for record in records:
            fold.add(record)
            on_record()
    own = await claim(fold.lineage.epoch)
    epoch = await _read_to_claim(state_log, fold, own)
    if fold.lineage.epoch != epoch:
        raise OwnershipLost("another agent took the partition in the same moment, and its claim came first")
    offsets = fold.values.get(lineage.OFFSETS_KEY)
    return Restored(
        epoch=epoch,
        state={key: value for key, value in fold.values.items() if not lineage.is_reserved(key)},
        offsets=lineage.decode_offsets(offsets) if offsets is not None else {},
        repairs=fold.repairs(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an owner finds in the log behind itself."""

    batches: frozenset[int]
    """Its own batches that are there, whole or in part."""
    fold: Fold
    end: int
    """The offset after the mark."""


async def look_back(state_log: StateLog, mark: bytes, epoch: int | None, batch: int = 0) -> Seen:
    """Reads what is in the log after the place where it was opened: as its owner, or (None) from its beginning.

    It reads up to a mark that is durable already, since nothing else tells where the log ends: a leader that was
    elected just now may say that it ends earlier than it does (KIP-207). `batch`: the owner's batches up to this lie
    before the place. Raises OwnershipLost where the partition has had another owner since, and TimeoutError.
    """
    fold, batches = Fold(epoch, batch), set()
    async with asyncio.timeout(LOOK_SECONDS), aclosing(state_log.follow()) as records:
        async for record in records:
            fold.add(record)
            if record.key == lineage.MARK_KEY and record.value == mark:
                break
            if lineage.epoch_of(record.headers) == epoch:
                batches.add(lineage.batch_of(record.headers))
    if epoch is not None and fold.lineage.epoch != epoch:
        raise OwnershipLost("another agent took the partition while this one could not write")
    return Seen(batches=frozenset(batches), fold=fold, end=record.offset + 1)


async def _read_to_claim(state_log: StateLog, fold: Fold, own: lineage.Claim) -> int:
    value = own.encode()
    async with asyncio.timeout(CLAIM_SECONDS), aclosing(state_log.follow()) as records:
        async for record in records:
            fold.add(record)
            if record.key == lineage.OWNER_KEY and record.value == value:
                return record.offset
    raise OwnershipLost("the state partition ended before the own claim appeared")
