"""Records that no agent could understand: reading them, and sending one again, once.

A record that is sent again carries the header `wpk-redriven-from` with the place of the dead letter. One without
a key gets one: the id that it names, else the id that the agent would have derived from its first place. So it is the
same execution however often, and by however many hands, it is sent again, and duplicates change nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
from aiokafka import AIOKafkaProducer

from consumer.client.errors import ClientError
from consumer.client.partitions import count_partitions, partition_of, reaching
from consumer.client.publish import MAX_BYTES, SEND_TIMEOUT, Published, stop
from consumer.client.read import CLOCK_SKEW
from consumer.journal.connection import KafkaConnection
from consumer.journal.reader import LogRecord, open_reader
from consumer.journal.topics import TopicNames
from consumer.ports import CommandTopic, Topic
from schemas.scalars import EXECUTION_ID_PATTERN

LINK = "wpk-redriven-from"
_ABOUT = ("wpk-reason", "wpk-detail", "wpk-topic", "wpk-partition", "wpk-offset", "wpk-truncated")
_PLACE = re.compile(r"(?:.*-)?([0-9]+)@([0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One record of the dead-letter topic; key, value and headers as they came."""

    topic: str
    partition: int
    offset: int
    at: datetime
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    """The sender's own."""
    reason: str
    detail: str
    source_topic: str
    source_partition: int
    source_offset: int
    truncated: str | None
    """What is missing of it, where it was too large to be kept whole."""

    @property
    def place(self) -> str:
        """What names it: `wpk.dead-letter-3@17`."""
        return f"{self.topic}-{self.partition}@{self.offset}"

    @property
    def source(self) -> str:
        """Where it came from."""
        return f"{self.source_topic}-{self.source_partition}@{self.source_offset}"

    @property
    def redriven_from(self) -> str | None:
        """The dead letter of which it is a repetition, if it is one."""
        return next((value.decode(errors="replace") for name, value in self.headers if name == LINK), None)


class DeadLetters:
    """The dead letters of a prefix."""

    def __init__(self, connection: KafkaConnection, topics: TopicNames) -> None:
        self._connection = connection
        self._topics = topics
        self._topic = topics.name(Topic.DEAD_LETTER)

    async def all(self, since: datetime | None = None) -> AsyncGenerator[DeadLetter, None]:
        """All that the topic holds, in the order of each partition. Raises Unreachable and ClientError."""
        count = await count_partitions(self._connection, [self._topic])
        places = [(self._topic, number) for number in range(count)]
        starts = dict.fromkeys(places, since) if since else None
        async with reaching(self._connection), open_reader(self._connection, places, starts=starts) as reader:
            async with aclosing(reader.to_end()) as records:
                async for record in records:
                    yield _letter(record)

    async def one(self, place: str) -> DeadLetter:
        """The one at that place: `3@17`, with or without the topic. Raises ClientError where there is none."""
        match = _PLACE.fullmatch(place)
        if match is None:
            raise ClientError(f"{place[:100]!r} is no place of a dead letter; write PARTITION@OFFSET, like 3@17")
        wanted = int(match[1]), int(match[2])
        async with aclosing(self.all()) as letters:
            async for letter in letters:
                if (letter.partition, letter.offset) == wanted:
                    return letter
        raise ClientError(f"there is no dead letter at {place}; see: wpk dead-letter list")

    async def sent_again(self, letter: DeadLetter) -> str | None:
        """Where the letter's record was sent again, if it was."""
        role = self._topics.role(letter.source_topic)
        if not isinstance(role, CommandTopic):
            return None
        topic = self._topics.name(role)
        count = await count_partitions(self._connection, [topic])
        places, link = [(topic, number) for number in range(count)], letter.place.encode()
        starts = dict.fromkeys(places, letter.at - CLOCK_SKEW)
        async with reaching(self._connection), open_reader(self._connection, places, starts=starts) as reader:
            async with aclosing(reader.to_end()) as records:
                async for record in records:
                    if (LINK, link) in record.headers:
                        return f"{record.topic}-{record.partition}@{record.offset}"
        return None

    async def redrive(self, letter: DeadLetter, value: bytes | None = None, *, again: bool = False) -> Published:
        """Sends the record to the topic that it came from, with `value` in place of its own where one is given.

        Raises ClientError where it was sent again before (unless `again`), is not whole, or came from elsewhere.
        """
        role = self._role(letter)
        if value is None and letter.truncated is not None:
            raise ClientError(f"{letter.place} is not whole ({letter.truncated}): give the record with --file")
        content = letter.value if value is None else value
        if len(content or b"") > MAX_BYTES:
            raise ClientError(f"the record has {len(content or b''):,} bytes; brokers take at most 1 MB")
        if not again and (sent := await self.sent_again(letter)) is not None:
            raise ClientError(f"{letter.place} was sent again already, it is {sent}; --again sends it once more")
        topic = self._topics.name(role)
        count = await count_partitions(self._connection, [topic])
        key = letter.key or (named_id(content) or derived_id(letter)).encode()
        partition = letter.source_partition if letter.key and letter.source_partition < count else None
        headers = [(name, each) for name, each in letter.headers if name != LINK]
        return await self._send(
            topic,
            key,
            content,
            partition_of(key.decode(errors="replace"), count) if partition is None else partition,
            [*headers, (LINK, letter.place.encode())],
        )

    async def _send(
        self, topic: str, key: bytes, value: bytes | None, partition: int, headers: list[tuple[str, bytes]]
    ) -> Published:
        producer = AIOKafkaProducer(
            **self._connection.options("redrive"), acks="all", request_timeout_ms=10_000, max_request_size=1 << 20
        )
        try:
            async with reaching(self._connection), asyncio.timeout(SEND_TIMEOUT):
                await producer.start()
                told = await producer.send_and_wait(topic, value, key=key, partition=partition, headers=headers)
        finally:
            await stop(producer)
        name = named_id(value) or key.decode(errors="replace")
        return Published(execution_id=name, topic=topic, partition=told.partition, offset=told.offset)

    def _role(self, letter: DeadLetter) -> CommandTopic:
        role = self._topics.role(letter.source_topic)
        if not isinstance(role, CommandTopic):
            raise ClientError(
                f"{letter.place} came from {letter.source_topic[:200]!r}, which is no command topic of this prefix "
                f"({self._topics.prefix}): it can't be sent again"
            )
        return role


def derived_id(letter: DeadLetter) -> str:
    """The id that the agent gives a command which has neither an id nor a key, by its first place."""
    return f"{letter.source_topic}-{letter.source_partition}-{letter.source_offset}"[-128:]


def named_id(value: bytes | None) -> str | None:
    """The id that the command itself names, if it can be read that far."""
    try:
        body = orjson.loads(value or b"")
        if isinstance(body, dict) and "specversion" in body:
            body = body.get("data")
        found = body.get("execution_id") if isinstance(body, dict) else None
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, str) and re.fullmatch(EXECUTION_ID_PATTERN, found) else None


def _letter(record: LogRecord) -> DeadLetter:
    """Headers that the agent added come last, so that a sender's own of the same names can't hide them."""
    about: dict[str, str] = {}
    own = list(record.headers)
    while own and own[-1][0] in _ABOUT and own[-1][0] not in about:
        name, value = own.pop()
        about[name] = value.decode(errors="replace")
    return DeadLetter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        at=datetime.fromtimestamp(max(record.timestamp, 0) / 1000, UTC),
        key=record.key,
        value=record.value,
        headers=tuple(own),
        reason=about.get("wpk-reason", "unknown"),
        detail=about.get("wpk-detail", ""),
        source_topic=about.get("wpk-topic", ""),
        source_partition=_number(about.get("wpk-partition")),
        source_offset=_number(about.get("wpk-offset")),
        truncated=about.get("wpk-truncated"),
    )


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else -1
