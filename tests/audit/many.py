"""Trails of many executions, written as agents with `exactly_once` write them: in transactions, some aborted.

librdkafka writes them, since a hundred thousand executions are to be there in less than a minute.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import orjson
from confluent_kafka import KafkaError, Message, Producer

from consumer.client import partition_of
from consumer.journal import topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.ports import Topic
from schemas import events
from schemas.canonical import canonical
from tests.audit.trail import Json, completed, fields, undone
from tests.support.stories import Story

PARTITIONS = 4
#: Executions of one transaction; of so many transactions one is aborted, and its records are written again.
AT_ONCE = 500
ABORTED_OF = 10
#: Seconds for what the broker must answer.
_PATIENCE = 60.0
#: Records that are being written, at most.
_UNDER_WAY = 100_000


class Row(NamedTuple):
    """One record to be written."""

    topic: Topic
    key: str
    value: bytes


def rows(count: int) -> Iterator[tuple[str, list[Row]]]:
    """Each of that many executions with all its records; of ten eight are short, the ninth (run-8) has a second
    attempt, the tenth (run-9) is rolled back."""
    short, retried, rolled_back = (_Pattern(told("run-x")) for told in (_short, completed, undone))
    patterns = [*[short] * 8, retried, rolled_back]
    for number in range(count):
        name = f"run-{number}"
        yield name, patterns[number % 10].of(name)


def _short(name: str) -> Story:
    """A run of one step."""
    story = Story(name).accepted().started("hello").step_started("hello").step_succeeded("hello")
    return story.tell(events.ExecutionCompleted.model_validate(fields(story)))


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


#: What is written in place of an execution's records, and which of them is to be found (None: none of them).
Change = Callable[[list[Row]], tuple[Sequence[Row], int | None]]


@dataclass(slots=True, kw_only=True)
class Copy:
    """The same trail in other topics, with something done to some executions."""

    names: TopicNames
    changes: dict[str, Change]
    """By execution."""
    places: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """Where what must be found lies, by execution."""


async def write(
    connection: KafkaConnection, names: TopicNames, count: int, *, transactions: bool, copy: Copy | None = None
) -> int:
    """Creates the topics and writes that many executions, and the copy; how many events the executions have."""
    for each in (names, copy.names) if copy else (names,):
        await topics.create(connection, each, PARTITIONS)
    return await asyncio.to_thread(_write, connection.bootstrap_servers, names, count, transactions, copy)


def _write(bootstrap: str, names: TopicNames, count: int, transactions: bool, copy: Copy | None) -> int:
    original = _Writer(bootstrap, names, f"{names.prefix}-{secrets.token_hex(3)}" if transactions else None)
    copied = _Writer(bootstrap, copy.names, None) if copy else None
    executions, number, written = rows(count), 0, 0
    while found := list(islice(executions, AT_ONCE)):
        number += 1
        written += sum(row.topic is not Topic.STATE for _, each in found for row in each)
        if transactions and number % ABORTED_OF == ABORTED_OF // 2:
            original.transaction(found, abort=True)
        original.transaction(found)
        if copy is not None and copied is not None:
            for name, each in found:
                change = copy.changes.get(name)
                copied.send(name, *(change(each) if change else (each, None)), copy.places)
    original.finish()
    if copied is not None:
        copied.finish()
    return written


class _Writer:
    """A producer that raises where a record could not be written."""

    def __init__(self, bootstrap: str, names: TopicNames, identity: str | None) -> None:
        options: dict[str, str | int] = {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": identity is not None,
            "linger.ms": 20,
            "batch.size": 1 << 19,
            "queue.buffering.max.messages": 2 * _UNDER_WAY,
        }
        if identity is not None:
            options["transactional.id"] = identity
        self._producer = Producer(options)
        self._names = {topic: names.name(topic) for topic in Topic}
        self._failed: list[KafkaError] = []
        self._in_transactions = identity is not None
        if self._in_transactions:
            self._producer.init_transactions(_PATIENCE)

    def transaction(self, found: Sequence[tuple[str, Sequence[Row]]], *, abort: bool = False) -> None:
        """Writes those executions, in a transaction where there are such."""
        if self._in_transactions:
            self._producer.begin_transaction()
        for name, each in found:
            self.send(name, each)
        if abort:
            self._producer.flush(_PATIENCE)
            self._producer.abort_transaction(_PATIENCE)
        elif self._in_transactions:
            self._producer.commit_transaction(_PATIENCE)
        self._check()

    def send(
        self,
        execution_id: str,
        found: Sequence[Row],
        marked: int | None = None,
        places: dict[str, tuple[str, int, int]] | None = None,
    ) -> None:
        """Writes an execution's records; `places` gets the place of the marked one."""
        number = partition_of(execution_id, PARTITIONS)

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failed.append(error)

        def remember(error: KafkaError | None, message: Message) -> None:
            delivered(error, message)
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            if places is not None and topic is not None and partition is not None and offset is not None:
                places[execution_id] = topic, partition, offset

        for at, row in enumerate(found):
            told = remember if at == marked else delivered
            self._producer.produce(
                self._names[row.topic], row.value, row.key.encode(), partition=number, on_delivery=told
            )
        self._producer.poll(0)
        while len(self._producer) > _UNDER_WAY:  # of a broker that is slower than this
            self._producer.poll(0.1)

    def finish(self) -> None:
        """Waits until all is written."""
        left = self._producer.flush(_PATIENCE)
        assert not left, f"{left} records were not written within {_PATIENCE:g} s"
        self._check()

    def _check(self) -> None:
        assert not self._failed, self._failed[:3]
