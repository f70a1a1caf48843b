"""Puts an owner together from its parts, for the guarantee that was decided at the start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from consumer.journal import lineage
from consumer.journal.connection import KafkaConnection
from consumer.journal.membership import Commit
from consumer.journal.owner import Identity, Limits, PartitionOwner
from consumer.journal.probe import Mode
from consumer.journal.reader import PartitionReader, Start, open_reader
from consumer.journal.restore import Fold
from consumer.journal.topics import TopicNames
from consumer.journal.writer import TRANSACTION_TIMEOUT_MS, AtLeastOnceWriter, ExactlyOnceWriter, Writer
from consumer.ports import Topic


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerFactory:
    """Makes the owners of one agent's partitions."""

    connection: KafkaConnection
    names: TopicNames
    identity: Identity
    mode: Mode
    limits: Limits = field(default_factory=Limits)
    on_write: Callable[[float], None] = lambda seconds: None
    """Told how long (seconds) each batch took to become durable."""
    on_recovery: Callable[[], None] = lambda: None
    """Told when an owner recovered from a write that had failed."""
    transaction_timeout: float = TRANSACTION_TIMEOUT_MS / 1000
    """Seconds after which the broker ends a dead owner's open transaction by itself."""

    def owner(self, partition: int, new_commit: Callable[[], Commit]) -> PartitionOwner:
        """A new owner, to be opened. `new_commit` gives a proof of the membership that the agent has at that time."""
        return PartitionOwner(
            partition,
            lambda: self._writer(partition, new_commit()),
            lambda start: self._state_log(partition, start),
            self.identity,
            self.limits,
            on_write=self.on_write,
            on_recovery=self.on_recovery,
        )

    def _writer(self, partition: int, commit: Commit) -> Writer:
        if self.mode == "exactly_once":
            return ExactlyOnceWriter(
                self.connection,
                self.names,
                partition,
                group=self.identity.group,
                commit=commit,
                transaction_timeout_ms=int(self.transaction_timeout * 1000),
                batch_bytes=self.limits.record_bytes,
            )
        return AtLeastOnceWriter(
            self.connection, self.names, partition, commit=commit, batch_bytes=self.limits.record_bytes
        )

    async def read_state(self, partition: int) -> dict[bytes, bytes]:
        """The newest value of each key of the state partition, as a new owner would find it now."""
        fold = Fold()
        async with self._state_log(partition) as log, aclosing(log.to_end()) as records:
            async for record in records:
                fold.add(record)
        return {key: value for key, value in fold.values.items() if not lineage.is_reserved(key)}

    @asynccontextmanager
    async def _state_log(self, partition: int, start: Start = "beginning") -> AsyncIterator[PartitionReader]:
        place = (self.names.name(Topic.STATE), partition)
        async with open_reader(self.connection, [place], starts={place: start}) as reader:
            yield reader
