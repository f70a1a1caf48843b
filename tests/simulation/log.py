"""The log of one simulated partition: offsets with gaps, open transactions, what is stable, compaction."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from random import Random

from aiokafka.errors import InvalidProducerEpoch, OutOfOrderSequenceNumber

#: Milliseconds since 1970 at the loop's time 0.
EPOCH_MS = 1_767_225_600_000


@dataclass(frozen=True, slots=True)
class Payload:
    """A record that is to be appended."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(slots=True, eq=False)
class Entry:
    """A record in the log, with the names that a client sees."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    transaction: object | None
    """Set while it is open."""


@dataclass(frozen=True, slots=True)
class Producer:
    """Who writes, for idempotence and fencing."""

    number: int
    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A fetch answer for one partition."""

    records: list[Entry]
    position: int
    stable: int
    end: int


@dataclass(slots=True, eq=False)
class Log:
    """One partition. All methods are a broker's: nothing here waits."""

    topic: str
    partition: int
    now: Callable[[], float]
    entries: list[Entry] = field(default_factory=list)
    end: int = 0
    listeners: dict[object, Callable[[], None]] = field(default_factory=dict)
    """Called when there is more to read."""
    _open: dict[object, int] = field(default_factory=dict)
    _epochs: dict[int, int] = field(default_factory=dict)
    _sequences: dict[int, int] = field(default_factory=dict)
    _firsts: dict[tuple[int, int, int], int] = field(default_factory=dict)
    """The offset of each producer's batches."""

    @property
    def stable(self) -> int:
        """The last stable offset: readers of committed records get no further."""
        return min(self._open.values()) if self._open else self.end

    def append(
        self, batch: Sequence[Payload], producer: Producer | None = None, transaction: object | None = None
    ) -> list[Entry]:
        """The new entries; none where the batch was there already. Raises the error that the broker answers."""
        if producer is not None and not self._admits(producer, len(batch)):
            return []
        stamp = EPOCH_MS + int(self.now() * 1000)
        added = []
        for number, each in enumerate(batch):
            entry = Entry(
                self.topic,
                self.partition,
                self.end + number,
                stamp,
                each.key,
                each.value,
                each.headers,
                transaction,
            )
            added.append(entry)
        if transaction is not None:
            self._open.setdefault(transaction, self.end)
        self.entries += added
        self.end += len(batch)
        if transaction is None:
            self.announce()
        return added

    def offset_of(self, producer: Producer) -> int | None:
        """Where the batch of that producer and sequence is in the log, if it is there."""
        return self._firsts.get((producer.number, producer.epoch, producer.sequence))

    def _admits(self, producer: Producer, size: int) -> bool:
        epoch = self._epochs.get(producer.number, -1)
        if producer.epoch < epoch:
            raise InvalidProducerEpoch
        expected = self._sequences.get(producer.number, 0) if producer.epoch == epoch else 0
        if producer.sequence < expected:
            return False
        if producer.sequence > expected:
            raise OutOfOrderSequenceNumber
        self._epochs[producer.number] = producer.epoch
        self._sequences[producer.number] = expected + size
        self._firsts[producer.number, producer.epoch, producer.sequence] = self.end
        return True

    def mark(self, transaction: object, number: int, epoch: int, *, commit: bool) -> None:
        """Writes the marker that ends a transaction here."""
        self._epochs[number] = max(epoch, self._epochs.get(number, -1))
        first = self._open.pop(transaction, None)
        if first is None:
            return
        at = self._at(first)
        if commit:
            for entry in self.entries[at:]:
                if entry.transaction is transaction:
                    entry.transaction = None
        else:
            kept = [entry for entry in self.entries[at:] if entry.transaction is not transaction]
            self.entries[at:] = kept
        self.end += 1
        self.announce()

    def read(self, position: int, most: int) -> Fetched:
        """Committed records from that position on."""
        stable = self.stable
        at = self._at(position)
        found: list[Entry] = []
        for entry in self.entries[at:]:
            if entry.offset >= stable or len(found) >= most:
                break
            found.append(entry)
        reached = found[-1].offset + 1 if len(found) >= most else max(stable, position)
        return Fetched(found, reached, stable, self.end)

    def compact(self, draw: Random) -> int:
        """The cleaner keeps the newest record of each key below a drawn offset; how many it took away."""
        stable = self.stable
        below = self._at(draw.randint(0, stable)) if draw.random() < 0.5 else self._at(stable)
        newest = {entry.key: entry for entry in self.entries[:below]}
        kept = [entry for entry in self.entries[:below] if newest[entry.key] is entry]
        gone = below - len(kept)
        self.entries[:below] = kept
        return gone

    def announce(self) -> None:
        """Tells who waits for more."""
        for tell in list(self.listeners.values()):
            tell()

    def _at(self, offset: int) -> int:
        return bisect_left(self.entries, offset, key=attrgetter("offset"))
