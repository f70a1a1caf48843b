"""Reads a `history.History`: each partition of each topic from its beginning to its present end, by two clients."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as AioPartition
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # it is there

from consumer.journal import guards
from tests.chaos.history import COMMANDS, ROLES, History, Place, Record, compare

Records = dict[Place, list[Record]]
_REQUEST_SECONDS = 30.0


async def read(bootstrap: str, prefix: str, *, partitions: int, group: str, stall: float = 60.0) -> History:
    """All of it, twice. Call it when nothing is written any more. Raises TimeoutError where the reading stands still
    for `stall` seconds, and KafkaException."""
    history = await asyncio.to_thread(_by_librdkafka, bootstrap, prefix, partitions, group, stall)
    other = await _by_aiokafka(bootstrap, history, stall)
    history.disagreements = compare(history, other, "aiokafka")
    return history


# --- librdkafka ---


def _by_librdkafka(bootstrap: str, prefix: str, partitions: int, group: str, stall: float) -> History:
    history = History(prefix=prefix, partitions=partitions)
    config: dict[str, Any] = {"bootstrap.servers": bootstrap, "log_level": 0}
    admin = AdminClient(config)
    history.ends = _ends(admin, history, IsolationLevel.READ_UNCOMMITTED)
    history.stable = _ends(admin, history, IsolationLevel.READ_COMMITTED)
    consumer = Consumer(
        {
            **config,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    try:
        _collect(consumer, history, stall)
        asked = [TopicPartition(history.topic(role), number) for role in COMMANDS for number in range(partitions)]
        for answer in consumer.committed(asked, timeout=_REQUEST_SECONDS):
            if answer.error is not None:
                raise KafkaException(answer.error)
            if answer.offset >= 0:
                history.committed[_place(history, answer.topic, answer.partition)] = answer.offset
    finally:
        consumer.close()
    return history


def _ends(admin: AdminClient, history: History, level: IsolationLevel) -> dict[Place, int]:
    asked = {
        TopicPartition(history.topic(role), number): OffsetSpec.latest()  # type: ignore[no-untyped-call]
        for role in ROLES
        for number in range(history.partitions)
    }
    answers = admin.list_offsets(asked, isolation_level=level, request_timeout=_REQUEST_SECONDS)
    return {_place(history, tp.topic, tp.partition): future.result().offset for tp, future in answers.items()}


def _place(history: History, topic: str, partition: int) -> Place:
    return topic.removeprefix(f"{history.prefix}."), partition


def _collect(consumer: Consumer, history: History, stall: float) -> None:
    """Until the end of each partition was met at its stable offset or later."""
    places = [(role, number) for role in ROLES for number in range(history.partitions)]
    consumer.assign([TopicPartition(history.topic(role), number, 0) for role, number in places])
    left = set(places)
    moved_at = time.monotonic()
    while left:
        messages: list[Any] = consumer.consume(1000, timeout=0.2)
        for message in messages:
            moved_at = time.monotonic()
            place = _place(history, message.topic(), message.partition())
            error = message.error()
            if error is None:
                if message.offset() < history.stable[place]:  # agents that forget ended executions go on writing
                    history.records[place].append(_record(place, message))
            elif error.code() == KafkaError._PARTITION_EOF:
                if message.offset() >= history.stable[place]:
                    left.discard(place)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise KafkaException(error)  # the partition's beginning is gone: the history is not whole
        if time.monotonic() - moved_at > stall:
            raise TimeoutError(f"librdkafka's reading stands still for {stall:g} s; not at their end: {sorted(left)}")


def _record(place: Place, message: Any) -> Record:
    return Record(
        role=place[0],
        partition=place[1],
        offset=message.offset(),
        timestamp=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=tuple(message.headers() or ()),
    )


# --- aiokafka ---


async def _by_aiokafka(bootstrap: str, history: History, stall: float) -> Records:
    guards.install()  # without them a compacted topic can't be read to its end
    records: Records = defaultdict(list)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 << 20,
    )
    left = {AioPartition(history.topic(role), number): end for (role, number), end in history.stable.items()}
    consumer.assign(list(left))
    try:
        await consumer.start()
        for tp in left:
            consumer.seek(tp, 0)
        moved_at = time.monotonic()
        while left:
            for tp, batch in (await consumer.getmany(timeout_ms=200)).items():
                place = _place(history, tp.topic, tp.partition)
                moved_at = time.monotonic()
                records[place] += [
                    Record(
                        role=place[0],
                        partition=place[1],
                        offset=record.offset,
                        timestamp=record.timestamp,
                        key=record.key,
                        value=record.value,
                        headers=tuple(record.headers),
                    )
                    for record in batch
                    if record.offset < history.stable[place]
                ]
            reached = {tp: await consumer.position(tp) for tp in left}
            left = {tp: end for tp, end in left.items() if reached[tp] < end}
            if time.monotonic() - moved_at > stall:
                raise TimeoutError(f"aiokafka's reading stands still for {stall:g} s; not at their end: {left}")
    finally:
        await consumer.stop()
    return records
