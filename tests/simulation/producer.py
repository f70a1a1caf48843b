"""A stand-in for aiokafka's producer, as far as the agent uses it: the same errors at the same places."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import ConcurrentTransactions, IllegalOperation, InvalidProducerEpoch, KafkaError, ProducerFenced

from tests.simulation.broker import Cluster
from tests.simulation.log import Log, Payload, Producer

#: The clients find their cluster by the context, since the agent makes them from its settings.
cluster: ContextVar[Cluster] = ContextVar("cluster")
Result = TypeVar("Result")
_BACKOFF = 0.1
_TXN_BACKOFF = 0.02


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """As RecordMetadata."""

    offset: int


class _Batch:
    def __init__(self) -> None:
        self.payloads: list[Payload] = []

    def append(
        self, *, timestamp: None, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> object:
        self.payloads.append(Payload(key, value, tuple(headers)))
        return self

    def close(self) -> None:
        pass


class _Accumulator:
    """What `producers.close` looks into: it finds nothing to be silenced."""

    def __init__(self) -> None:
        self._pending_batches: list[Any] = []
        self._batches: dict[Any, Any] = {}


class _Sender:
    sender_task: None = None


class _Client:
    def __init__(self, producer: SimProducer) -> None:
        self._producer = producer

    async def set_topics(self, topics: Iterable[str]) -> None:
        pass

    async def close(self) -> None:
        self._producer.cut_off()


class SimProducer:
    """As AIOKafkaProducer: transactional, or plain with acks=all. What is on its way goes on after a cancellation."""

    def __init__(self, **options: Any) -> None:
        self._cluster = cluster.get()
        self._network = self._cluster.network
        self._id: str | None = options.get("transactional_id")
        self._timeout: float = options.get("transaction_timeout_ms", 60_000) / 1000
        self._number, self._epoch = -1, -1
        self._sequences: dict[Log, int] = {}
        self._added: set[Log] = set()
        self._adding: dict[Log, asyncio.Future[None]] = {}
        self._grouped = False
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._failure: KafkaError | None = None
        self._open = False
        self._closed = False
        self._sender = _Sender()
        self._message_accumulator = _Accumulator()
        self._txn_manager = None
        self.client = _Client(self)

    async def start(self) -> None:
        """Connects; a transactional one fences whoever had the id."""
        if self._id is not None:
            begin = self._cluster.transactions.begin
            name, timeout = self._id, self._timeout
            self._number, self._epoch = await self._insist(lambda: begin(name, timeout))

    def create_batch(self) -> _Batch:
        return _Batch()

    async def send_batch(self, batch: _Batch, topic: str, *, partition: int) -> asyncio.Future[Acknowledged]:
        if self._id is not None and not self._open:
            raise IllegalOperation("Can't send messages while not in transaction")
        log = self._cluster.logs[topic, partition]
        return self._spawn(self._send(log, batch.payloads))

    async def begin_transaction(self) -> None:
        if self._failure is not None:
            raise self._failure
        assert not self._open
        self._open = True
        self._added.clear()
        self._adding.clear()
        self._grouped = False

    async def send_offsets_to_transaction(self, offsets: Mapping[TopicPartition, int], group: str) -> None:
        name, number, epoch = self._ids()
        places = {(tp.topic, tp.partition): offset for tp, offset in offsets.items()}
        transactions = self._cluster.transactions

        async def add() -> None:
            await self._insist(lambda: transactions.add_group(name, number, epoch))
            await self._insist(lambda: transactions.commit_group_offsets(name, number, epoch, places))
            self._grouped = True

        await asyncio.shield(self._spawn(add()))

    async def commit_transaction(self) -> None:
        name, number, epoch = self._ids()
        self._open = False

        async def end() -> None:
            if self._added or self._grouped:
                commit = self._cluster.transactions.end
                await self._insist(lambda: commit(name, number, epoch, commit=True), once=True)

        await asyncio.shield(self._spawn(end()))

    async def stop(self) -> None:
        """Waits for what is under way."""
        if self._closed:
            return
        self._closed = True
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    def cut_off(self) -> None:
        """Ends what is under way; requests that were sent are still carried out."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    # --- inside ---

    def _ids(self) -> tuple[str, int, int]:
        assert self._id is not None
        return self._id, self._number, self._epoch

    def _spawn(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = self._cluster.loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._settled)
        return task

    def _settled(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, KafkaError):
                self._failure = self._failure or error

    async def _send(self, log: Log, batch: list[Payload]) -> Acknowledged:
        if self._id is None:
            return Acknowledged(await self._insist(lambda: self._cluster.produce(log, batch)))
        name, number, epoch = self._ids()
        await self._add(log)
        sequence = self._sequences.get(log, 0)
        self._sequences[log] = sequence + len(batch)
        producer = Producer(number, epoch, sequence)
        return Acknowledged(await self._insist(lambda: self._cluster.transactions.produce(name, producer, log, batch)))

    async def _add(self, log: Log) -> None:
        """AddPartitionsToTxn, once for each partition."""
        if log in self._added:
            return
        name, number, epoch = self._ids()
        if log not in self._adding:
            waiting = self._adding[log] = self._cluster.loop.create_future()
            try:
                await self._insist(lambda: self._cluster.transactions.add(name, number, epoch, [log]))
            except BaseException as error:
                waiting.set_exception(error if isinstance(error, KafkaError) else KafkaError("cut off"))
                waiting.exception()
                raise
            self._added.add(log)
            waiting.set_result(None)
        else:
            await asyncio.shield(self._adding[log])

    async def _insist(self, request: Any, *, once: bool = False) -> Any:
        """Repeats it until it is answered, as aiokafka's sender does; with `once` not, as the
        guard of `consumer.journal.guards` has it do with EndTxn."""
        while True:
            try:
                return await self._network.call(request)
            except ConcurrentTransactions:
                await asyncio.sleep(_TXN_BACKOFF)
            except InvalidProducerEpoch as error:
                raise ProducerFenced from error
            except KafkaError as error:
                if once or not error.retriable:
                    raise
                await asyncio.sleep(_BACKOFF)
