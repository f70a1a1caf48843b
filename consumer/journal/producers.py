"""aiokafka's producer, started and stopped within bounds, and sending whole batches. All private-API use is here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.ports import Record, Topic

log = structlog.get_logger(__name__)

#: One produce request per partition is under way at a time, so that its size bounds the throughput.
MAX_BATCH_BYTES = 512 << 10
STOP_SECONDS = 5.0


class _Acknowledged(Protocol):
    @property
    def offset(self) -> int: ...


def build(
    connection: KafkaConnection,
    role: str,
    *,
    transactional_id: str | None = None,
    transaction_timeout_ms: int = 60_000,
    batch_bytes: int = MAX_BATCH_BYTES,
) -> AIOKafkaProducer:
    """A producer, not yet started. `batch_bytes` is the most that the topics take; a larger batch would poison it."""
    return AIOKafkaProducer(
        **connection.options(role),
        acks="all",
        transactional_id=transactional_id,
        transaction_timeout_ms=transaction_timeout_ms,
        max_batch_size=min(batch_bytes, MAX_BATCH_BYTES),
        max_request_size=16 << 20,
    )


async def start(producer: AIOKafkaProducer, names: TopicNames) -> None:
    """Connects; a transactional producer fences others of its id. May hang: the caller bounds it."""
    await producer.start()
    # Without this the producer would fetch the metadata of all the cluster's topics every time.
    await producer.client.set_topics([names.name(topic) for topic in Topic])


async def send(
    producer: AIOKafkaProducer, names: TopicNames, partition: int, records: Sequence[Record]
) -> dict[Topic, int]:
    """Sends the records to the partition and waits until each is acknowledged. Raises the first failure.

    Gives, by topic, the offset of one of the last records.

    Whole batches are built here: a future and a coroutine per record would cost more than the records themselves.
    """
    by_topic: dict[Topic, list[Record]] = {}
    for record in records:
        by_topic.setdefault(record.topic, []).append(record)
    sent: list[asyncio.Future[_Acknowledged]] = []
    topics: list[Topic] = []
    for topic, of_topic in by_topic.items():
        for batch in _batches(producer, of_topic):
            future = await producer.send_batch(batch, names.name(topic), partition=partition)
            future.add_done_callback(_retrieve)
            sent.append(future)
            topics.append(topic)
    acknowledged = await asyncio.gather(*sent)
    return {topic: batch.offset for topic, batch in zip(topics, acknowledged, strict=True)}


def _batches(producer: AIOKafkaProducer, records: Sequence[Record]) -> list[object]:
    batches = []
    batch = producer.create_batch()
    for record in records:
        fields = {"timestamp": None, "key": record.key, "value": record.value, "headers": list(record.headers)}
        if batch.append(**fields) is None:
            batches.append(batch)
            batch = producer.create_batch()
            if batch.append(**fields) is None:
                raise ValueError(f"a record of {record.topic} does not fit into an empty batch")
    batch.close()
    batches.append(batch)
    return batches


def _retrieve(future: asyncio.Future[_Acknowledged]) -> None:
    if not future.cancelled():
        future.exception()


async def close(producer: AIOKafkaProducer, *, force: bool) -> None:
    """Stops the producer within some seconds; what can't be ended in order is cut off. Does not raise."""
    if not force:
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await producer.stop()
        except (KafkaError, OSError, TimeoutError, AssertionError) as error:
            log.warning("a producer did not stop in order and is cut off", error=str(error))
        else:
            return
    await _cut_off(producer)


async def _cut_off(producer: AIOKafkaProducer) -> None:
    """`stop()` waits for ever where brokers are gone; its parts are ended one by one instead."""
    producer._closed = True
    sender = producer._sender
    doomed = [task for task in asyncio.all_tasks() if _belongs_to(task, sender)]
    if sender.sender_task is not None:
        doomed.append(sender.sender_task)
    for task in doomed:
        task.cancel()
    if doomed:
        await asyncio.wait(doomed, timeout=STOP_SECONDS)
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await producer.client.close()
    for task in doomed:
        if task.done():
            _retrieve(task)
    _silence(producer)


def _silence(producer: AIOKafkaProducer) -> None:
    """Retrieves the failures that aiokafka left in futures nobody awaits: the failed write has told them already."""
    accumulator = producer._message_accumulator
    batches = [*accumulator._pending_batches, *(batch for queue in accumulator._batches.values() for batch in queue)]
    futures = [future for batch in batches for future in (batch.future, batch._drain_waiter)]
    if producer._txn_manager is not None and producer._txn_manager._transaction_waiter is not None:
        futures.append(producer._txn_manager._transaction_waiter)
    for future in futures:
        if future.done():
            _retrieve(future)


def _belongs_to(task: asyncio.Task[object], sender: object) -> bool:
    """Whether the task is one that this sender started: the sender keeps them in a local variable only."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    if frame is None:
        return False
    me = frame.f_locals.get("self")
    return me is sender
