"""The transaction coordinator: fencing by epochs, atomic ends, markers that take their time, aborts by timeout.

As Apache Kafka 3.6 and later: the newest producer of an id wins; an open transaction of the one before is aborted with
a higher epoch; until all markers are written the id is busy (CONCURRENT_TRANSACTIONS); the leader of a partition takes
records only of a transaction that is open and has the partition (KIP-890, part 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka.errors import ConcurrentTransactions, InvalidProducerEpoch, InvalidTxnState

from tests.simulation.log import Entry, Log, Payload, Producer
from tests.simulation.loop import Loop

Place = tuple[str, int]
"""Topic and partition."""


@dataclass(slots=True, eq=False)
class Transaction:
    """One transaction of one id."""

    number: int
    """The producer's."""
    epoch: int
    logs: dict[Log, list[Entry]] = field(default_factory=dict)
    offsets: dict[Place, int] = field(default_factory=dict)
    grouped: bool = False


@dataclass(slots=True, eq=False)
class _Id:
    name: str
    number: int
    epoch: int = -1
    timeout: float = 60.0
    open: Transaction | None = None
    ending: int = 0
    """Markers that are still to be written."""
    last_commit: bool | None = None


class Transactions:
    """The coordinator of all transactional ids."""

    def __init__(
        self,
        loop: Loop,
        on_durable: Callable[[Sequence[Entry]], None],
        commit_offsets: Callable[[Mapping[Place, int]], None],
    ) -> None:
        self._loop = loop
        self._on_durable = on_durable
        self._commit_offsets = commit_offsets
        self._ids: dict[str, _Id] = {}
        self.slowest_marker = 0.02
        """Seconds that a marker may take to be written."""

    def begin(self, name: str, timeout: float) -> tuple[int, int]:
        """InitProducerId: the producer's number and epoch; whoever had the id is fenced."""
        known = self._ids.setdefault(name, _Id(name, 1000 + len(self._ids)))
        if known.ending:
            raise ConcurrentTransactions
        if known.open is not None:
            self._abort(known)
            raise ConcurrentTransactions
        known.epoch += 1
        known.timeout = timeout
        known.last_commit = None
        return known.number, known.epoch

    def add(self, name: str, number: int, epoch: int, logs: Sequence[Log]) -> None:
        """AddPartitionsToTxn; begins the transaction where there is none."""
        transaction = self._open(self._checked(name, number, epoch))
        for log in logs:
            transaction.logs.setdefault(log, [])

    def add_group(self, name: str, number: int, epoch: int) -> None:
        """AddOffsetsToTxn."""
        self._open(self._checked(name, number, epoch)).grouped = True

    def commit_group_offsets(self, name: str, number: int, epoch: int, offsets: Mapping[Place, int]) -> None:
        """TxnOffsetCommit: visible once the transaction is committed."""
        known = self._ids[name]
        if epoch < known.epoch:
            raise InvalidProducerEpoch
        if known.open is None or not known.open.grouped:
            raise InvalidTxnState
        known.open.offsets |= offsets

    def produce(self, name: str, producer: Producer, log: Log, batch: Sequence[Payload]) -> int:
        """Produce within a transaction; the first offset."""
        known = self._ids[name]
        if producer.epoch < known.epoch:
            raise InvalidProducerEpoch
        if known.open is None or log not in known.open.logs:
            offset = log.offset_of(producer)
            if offset is not None:  # a repetition of what is there is answered as the first time
                return offset
            raise InvalidTxnState
        known.open.logs[log] += log.append(batch, producer, known.open)
        offset = log.offset_of(producer)
        assert offset is not None
        return offset

    def end(self, name: str, number: int, epoch: int, *, commit: bool) -> None:
        """EndTxn."""
        known = self._checked(name, number, epoch, busy=False)
        if known.ending:
            if known.last_commit is commit:
                raise ConcurrentTransactions
            raise InvalidTxnState
        if known.open is None:
            if known.last_commit is commit:
                return
            raise InvalidTxnState
        self._finish(known, known.open, commit=commit)

    # --- inside ---

    def _checked(self, name: str, number: int, epoch: int, *, busy: bool = True) -> _Id:
        known = self._ids[name]
        if epoch < known.epoch or number != known.number:
            raise InvalidProducerEpoch
        if busy and known.ending:
            raise ConcurrentTransactions
        return known

    def _open(self, known: _Id) -> Transaction:
        if known.open is None:
            transaction = known.open = Transaction(known.number, known.epoch)
            known.last_commit = None
            late = self._loop.random.uniform(0, 5.0)  # the coordinator looks for them from time to time
            self._loop.at_world(known.timeout + late, self._expire, known, transaction)
        return known.open

    def _expire(self, known: _Id, transaction: Transaction) -> None:
        if known.open is transaction:
            self._loop.note(f"transaction of {known.name} epoch {known.epoch} timed out")
            self._abort(known)

    def _abort(self, known: _Id) -> None:
        """By the coordinator: a higher epoch, so that the producer can't go on."""
        transaction = known.open
        assert transaction is not None
        known.epoch += 1
        transaction.epoch = known.epoch
        self._finish(known, transaction, commit=False)

    def _finish(self, known: _Id, transaction: Transaction, *, commit: bool) -> None:
        known.open = None
        known.last_commit = commit
        known.ending = len(transaction.logs) + 1
        if commit:
            self._on_durable([entry for entries in transaction.logs.values() for entry in entries])
        draw = self._loop.random.uniform
        for log in transaction.logs:
            self._loop.at_world(draw(0, self.slowest_marker), self._mark, known, transaction, log, commit)
        self._loop.at_world(draw(0, self.slowest_marker), self._mark_group, known, transaction, commit)

    def _mark(self, known: _Id, transaction: Transaction, log: Log, commit: bool) -> None:
        log.mark(transaction, transaction.number, transaction.epoch, commit=commit)
        known.ending -= 1

    def _mark_group(self, known: _Id, transaction: Transaction, commit: bool) -> None:
        if commit:
            self._commit_offsets(transaction.offsets)
        known.ending -= 1
