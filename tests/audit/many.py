"""Trails of many executions, written as agents with `exactly_once` write them: in transactions, some aborted."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import orjson
from aiokafka import AIOKafkaProducer

from consumer.client import partition_of
from consumer.journal import topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.ports import Topic
from schemas.canonical import canonical
from tests.audit.trail import Json, completed, undone
from tests.support.stories import Story

PARTITIONS = 4
#: Executions of one transaction; of so many transactions one is aborted, and its records are written again.
AT_ONCE = 200
ABORTED_OF = 10


class Row(NamedTuple):
    """One record to be written."""

    topic: Topic
    key: str
    value: bytes


def rows(count: int) -> Iterator[list[Row]]:
    """All records of each of that many executions; most complete, every tenth is rolled back."""
    patterns = [_Pattern(completed("run-x")), _Pattern(undone("run-x"))]
    for number in range(count):
        yield patterns[number % 10 == 9].of(f"run-{number}")


class _Pattern:
    """A story told once, which is sealed again for each id: a hundred times faster than telling it again."""

    def __init__(self, story: Story) -> None:
        self._id = story.execution_id
        self._last = story.state.last_hash.encode()
        self._events = [(Topic(told.event.data.channel), told.value) for told in story]
        self._state = story.snapshot()

    def of(self, execution_id: str) -> list[Row]:
        """The records of that execution."""
        found, before = [], ""
        for topic, value in self._events:
            raw: Json = orjson.loads(value)
            data = raw["data"]
            del data["hash"]
            raw["subject"] = data["execution_id"] = execution_id
            raw["id"] = f"{execution_id}/{data['seq']}/{data['attempt_epoch']}"
            data["prev_hash"] = before
            before = data["hash"] = hashlib.sha256(canonical(raw)).hexdigest()
            found.append(Row(topic, execution_id, orjson.dumps(raw)))
        old, new = self._id, execution_id
        for key, value in self._state.items():
            renewed = value.replace(f'"{old}"'.encode(), f'"{new}"'.encode()).replace(self._last, before.encode())
            found.append(Row(Topic.STATE, key.replace(old, new, 1), renewed))
        return found


async def write(connection: KafkaConnection, names: TopicNames, count: int, *, transactions: bool) -> int:
    """Creates the topics and writes that many executions; how many events they have."""
    await topics.create(connection, names, PARTITIONS)
    identity = f"{names.prefix}-{secrets.token_hex(3)}" if transactions else None
    options = connection.options("bench")
    producer = AIOKafkaProducer(**options, acks="all", max_batch_size=1 << 19, linger_ms=5, transactional_id=identity)
    await producer.start()
    written = 0
    try:
        executions, number = rows(count), 0
        while found := [row for execution in islice(executions, AT_ONCE) for row in execution]:
            number += 1
            written += sum(row.topic is not Topic.STATE for row in found)
            if identity is None:
                await _send(producer, names, found)
                continue
            if number % ABORTED_OF == ABORTED_OF // 2:
                await producer.begin_transaction()
                await _send(producer, names, found)
                await producer.abort_transaction()
            async with producer.transaction():
                await _send(producer, names, found)
    finally:
        await producer.stop()
    return written


async def _send(producer: AIOKafkaProducer, names: TopicNames, found: list[Row]) -> None:
    under_way = [
        await producer.send(
            names.name(row.topic),
            row.value,
            key=row.key.encode(),
            partition=partition_of(row.key.partition("/")[0], PARTITIONS),
        )
        for row in found
    ]
    await asyncio.gather(*under_way)
