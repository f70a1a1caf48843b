"""A trail as agents write it, laid into topics, and copies of it that somebody has tampered with."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from consumer.client import partition_of
from consumer.journal import topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.reader import LogRecord, open_reader
from consumer.journal.topics import TopicNames
from consumer.ports import Topic
from consumer.workflow.answers import result_fields
from schemas import events
from schemas.canonical import canonical
from schemas.failure import Failure
from tests.support.stories import Story, Told

PARTITIONS = 2
EVENTS = (Topic.PROGRESS, Topic.LOGS, Topic.RESULTS)
Json = dict[str, Any]


def completed(name: str) -> Story:
    """A run of two steps, one at its second attempt."""
    story = Story(name).accepted().started("hello", "again").step_started("hello").said("hello", "good morning")
    story.step_succeeded("hello", output={"stdout": "good morning"})
    story.step_started("again").step_retrying("again", "503").step_started("again", attempt=2)
    story.said("again", "at last").step_succeeded("again", attempt=2)
    return story.tell(events.ExecutionCompleted.model_validate(fields(story)))


def undone(name: str) -> Story:
    """A run that fails and is rolled back."""
    story = Story(name).accepted().started("change", "check").step_started("change")
    story.tell(events.StepCaptured(step="change", adapter="shell", attempt=1, summary="limit=10"))
    story.step_succeeded("change").step_started("check").step_failed("check", "exit code 1")
    failure = Failure(type="exit_code", message="exit code 1", step="check")
    more = {"error": failure, "error_message": "check: exit code 1", "rollback_follows": True}
    story.tell(events.ExecutionFailed.model_validate({**fields(story), **more}))
    story.rolling_back("undo-change").step_started("undo-change", phase="rollback")
    story.step_succeeded("undo-change", phase="rollback")
    return story.tell(events.ExecutionRolledBack.model_validate(fields(story)))


def fields(story: Story) -> Json:
    """What an agent says in a result."""
    found = result_fields(story.state, story.now)
    return {**found, "steps": [report.model_dump() for report in found["steps"]]}  # type: ignore[attr-defined]


def resealed(value: bytes, change: Callable[[Json], object]) -> bytes:
    """The event with another content, and a hash that is right for it."""
    raw = orjson.loads(value)
    change(raw)
    raw["data"].pop("hash")
    return sealed(raw)


def sealed(raw: Json) -> bytes:
    """The event with its hash."""
    raw["data"]["hash"] = hashlib.sha256(canonical(raw)).hexdigest()
    return orjson.dumps(raw)


@dataclass(slots=True)
class Trail:
    """The records of all topics, by role and partition, to be changed and laid down elsewhere."""

    records: dict[tuple[Topic, int], list[LogRecord]] = field(default_factory=dict)

    @classmethod
    def of(cls, stories: Iterable[Story], *, interleaved: bool = True) -> Trail:
        """As agents write it, with the states that the stories end with."""
        trail = cls({(topic, number): [] for topic in (*EVENTS, Topic.STATE) for number in range(PARTITIONS)})
        listed = list(stories)
        rows: list[tuple[Story, Told]] = [(story, told) for story in listed for told in story]
        if interleaved:
            rows.sort(key=lambda row: (row[1].event.data.seq, row[0].execution_id))
        for at, (_, told) in enumerate(rows):
            moment = told.event.time + timedelta(milliseconds=at)
            trail.append(Topic(told.event.data.channel), told.event.subject, told.value, int(moment.timestamp() * 1000))
        for story in listed:
            for key, value in story.snapshot().items():
                trail.append(Topic.STATE, key, value, int(story.now.timestamp() * 1000))
        return trail

    def append(self, topic: Topic, key: str, value: bytes, timestamp: int) -> None:
        number = partition_of(key.partition("/")[0], PARTITIONS)
        row = self.records[topic, number]
        row.append(LogRecord(topic.value, number, len(row), timestamp, key.encode(), value, ()))

    def find(self, execution_id: str, name: str, nth: int = 0) -> tuple[list[LogRecord], int]:
        """The row and the index in it of the execution's nth event of that type."""
        found = [
            (row, index)
            for (topic, _), row in self.records.items()
            if topic in EVENTS
            for index, record in enumerate(row)
            if record.key == execution_id.encode() and orjson.loads(record.value or b"")["type"] == f"wpk.{name}.v1"
        ]
        return found[nth]

    def alter(self, execution_id: str, name: str, change: Callable[[bytes], bytes], nth: int = 0) -> LogRecord:
        """Exchanges the value of a record; gives the record as it then is."""
        row, index = self.find(execution_id, name, nth)
        row[index] = row[index]._replace(value=change(row[index].value or b""))
        return row[index]

    def of_execution(self, execution_id: str) -> Iterator[tuple[list[LogRecord], LogRecord]]:
        for (topic, _), row in self.records.items():
            if topic in EVENTS:
                yield from ((row, record) for record in [*row] if record.key == execution_id.encode())


async def lay_down(connection: KafkaConnection, names: TopicNames, trail: Trail) -> None:
    """Creates the topics and writes the trail into them, record by record as it is."""
    await topics.create(connection, names, PARTITIONS)
    producer = AIOKafkaProducer(**connection.options("test"), acks="all", max_batch_size=1 << 19)
    await producer.start()
    try:
        sent = [
            await producer.send(
                names.name(topic), record.value, key=record.key, partition=number, timestamp_ms=record.timestamp
            )
            for (topic, number), row in trail.records.items()
            for record in row
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def read_back(connection: KafkaConnection, names: TopicNames) -> Trail:
    """The trail as it lies in topics, to be copied."""
    places = {
        (names.name(topic), number): (topic, number) for topic in (*EVENTS, Topic.STATE) for number in range(PARTITIONS)
    }
    trail = Trail({place: [] for place in places.values()})
    async with open_reader(connection, places) as reader, aclosing(reader.to_end()) as records:
        async for record in records:
            trail.records[places[record.topic, record.partition]].append(record)
    return trail
