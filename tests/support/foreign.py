"""A foreign user of the topics: librdkafka and JSON, nothing of the agent's own client."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from schemas.canonical import canonical
from tests.support.eventually import eventually

PATIENCE = 90.0
_OUTPUTS = ("events.progress", "events.logs", "events.results", "dead-letter")
#: What librdkafka says about brokers that end when the tests do.
_QUIET = {"log_level": 0}

Json = dict[str, Any]


class ForeignUser:
    """Publishes commands and keeps what comes out; see `foreign_user`."""

    def __init__(self, producer: Producer, consumer: Consumer, prefix: str) -> None:
        self._producer = producer
        self._consumer = consumer
        self._prefix = prefix
        self._events: dict[str, list[Json]] = {}
        self.dead: list[Message] = []

    def publish(
        self,
        topic: str,
        body: object,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, int]:
        """A command, as JSON unless it is bytes; gives its partition and offset when the broker has it."""
        told: list[Any] = []
        self._producer.produce(
            f"{self._prefix}.commands.{topic}",
            body if isinstance(body, bytes) else json.dumps(body).encode(),
            key=key,
            headers=[(name, value.encode()) for name, value in (headers or {}).items()],
            on_delivery=lambda error, message: told.append((error, message)),
        )
        assert self._producer.flush(PATIENCE) == 0, "the broker did not take the command"
        error, message = told[0]
        assert error is None, error
        return message.partition(), message.offset()

    def publish_all(self, topic: str, bodies: Iterable[tuple[str, object]]) -> None:
        """Commands by their keys, all at once; returns when the broker has them."""
        refused: list[Any] = []

        def told(error: Any, _message: Message) -> None:
            if error is not None:
                refused.append(error)

        for key, body in bodies:
            name = f"{self._prefix}.commands.{topic}"
            self._producer.produce(name, json.dumps(body).encode(), key=key, on_delivery=told)
            self._producer.poll(0)
        assert self._producer.flush(PATIENCE) == 0, "the broker did not take the commands"
        assert not refused, refused[0]

    def read(self) -> None:
        """Takes in what has come."""
        for message in self._consumer.consume(500, timeout=0.0):
            if message.error() is not None:
                assert message.error().retriable() or not message.error().fatal(), message.error()
                continue
            if message.topic().endswith("dead-letter"):
                self.dead.append(message)
                continue
            event = json.loads(message.value())
            event["_topic"] = message.topic().removeprefix(f"{self._prefix}.")
            event["_key"] = message.key()
            self._events.setdefault(event["subject"], []).append(event)

    def events(self, execution_id: str) -> list[Json]:
        """The events so far, in sequence, as contracts tell readers to take them: of one seq the highest epoch."""
        best: dict[int, Json] = {}
        for event in self._events.get(execution_id, []):
            seq, epoch = event["data"]["seq"], event["data"]["attempt_epoch"]
            if seq not in best or epoch > best[seq]["data"]["attempt_epoch"]:
                best[seq] = event
        chosen: list[Json] = []
        for seq in sorted(best):
            if not chosen or best[seq]["data"]["attempt_epoch"] >= chosen[-1]["data"]["attempt_epoch"]:
                chosen.append(best[seq])
        return chosen

    def names(self, execution_id: str) -> list[str]:
        """The events' types without prefix and version, log lines left out."""
        names = [event["type"].removeprefix("wpk.").removesuffix(".v1") for event in self.events(execution_id)]
        return [name for name in names if name != "log.lines"]

    def named(self, execution_id: str, name: str) -> list[Json]:
        """The data of the events of that type."""
        return [event["data"] for event in self.events(execution_id) if event["type"] == f"wpk.{name}.v1"]

    def results(self, execution_id: str) -> list[Json]:
        """What the results topic says of it."""
        return [event["data"] for event in self.events(execution_id) if event["_topic"] == "events.results"]

    def log(self, execution_id: str) -> list[str]:
        """The lines of its steps' output."""
        return [line["text"] for data in self.named(execution_id, "log.lines") for line in data["lines"]]

    async def until(self, check: Callable[[], Any], because: Callable[[], object] = lambda: "") -> Any:
        """The first truthy answer of `check`, while reading."""

        def look() -> Any:
            self.read()
            return check()

        try:
            return await eventually(look, timeout=PATIENCE)
        finally:
            told = because()
            if told:
                print(told)  # noqa: T201 - pytest shows it where the test failed

    async def event(self, execution_id: str, name: str, count: int = 1) -> Json:
        """The data of the newest event of that type, once there are `count` of them."""

        def look() -> list[Json] | None:
            found = self.named(execution_id, name)
            return found if len(found) >= count else None

        found = await self.until(look, lambda: f"{execution_id}: {self.names(execution_id)}")
        last: Json = found[-1]
        return last

    async def result(self, execution_id: str) -> Json:
        """Its last result, once no more follow and all before it was read: the topics are read side by side."""

        def look() -> Json | None:
            found = self.results(execution_id)
            ended = found and not found[-1].get("rollback_follows")
            return found[-1] if ended and found[-1]["seq"] <= len(self.events(execution_id)) else None

        result: Json = await self.until(look, lambda: f"{execution_id}: {self.names(execution_id)}")
        return result

    def assert_whole(self, execution_id: str, *, once: bool = True) -> None:
        """No gap, the hash chain holds, and (with `once`) no event was published twice."""
        events = self.events(execution_id)
        assert [event["data"]["seq"] for event in events] == list(range(1, len(events) + 1))
        if once:
            assert len(self._events[execution_id]) == len(events), "events were published twice"
        before = ""
        for event in events:
            plain = {name: value for name, value in event.items() if not name.startswith("_")}
            data = plain["data"]
            assert data["prev_hash"] == before
            hashed = {**plain, "data": {name: value for name, value in data.items() if name != "hash"}}
            assert data["hash"] == hashlib.sha256(canonical(hashed)).hexdigest()
            assert event["_key"] == execution_id.encode()
            before = data["hash"]


@contextmanager
def foreign_user(bootstrap: str, prefix: str, partitions: int = 2) -> Iterator[ForeignUser]:
    """A user of topics that are there, from their beginning, without a group."""
    producer = Producer({**_QUIET, "bootstrap.servers": bootstrap, "acks": "all", "partitioner": "murmur2_random"})
    consumer = Consumer(
        {
            **_QUIET,
            "bootstrap.servers": bootstrap,
            "group.id": f"{prefix}-user",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        consumer.assign(
            [TopicPartition(f"{prefix}.{name}", number, 0) for name in _OUTPUTS for number in range(partitions)]
        )
        yield ForeignUser(producer, consumer, prefix)
    finally:
        consumer.close()
        producer.flush(10)
