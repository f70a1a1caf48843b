"""Publishing commands."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aiokafka import AIOKafkaProducer

from consumer.client.errors import ClientError
from consumer.client.partitions import count_partitions, partition_of, reaching
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.policy import signing
from consumer.policy.command_signatures import Signed
from consumer.policy.signatures import SignatureError
from consumer.ports import CommandTopic
from schemas.commands import Command, ControlCommand, ExecuteCommand, RollbackCommand
from schemas.events import Event, Source

if TYPE_CHECKING:
    from consumer.policy.signing import SigningKey

_TOPICS = {
    ExecuteCommand: CommandTopic.EXECUTE,
    RollbackCommand: CommandTopic.ROLLBACK,
    ControlCommand: CommandTopic.CONTROL,
}
#: With some room for the record's key, headers and batch.
MAX_BYTES = 1_000_000
_STOP_TIMEOUT = 5.0
SEND_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where a command lies; it is durable there."""

    execution_id: str
    topic: str
    partition: int
    offset: int

    def answered_by(self, event: Event) -> bool:
        """Whether the event says what became of this very command."""
        source = getattr(event.data, "source", None)
        return isinstance(source, Source) and (source.topic, source.partition, source.offset) == (
            self.topic,
            self.partition,
            self.offset,
        )


class Publisher:
    """Writes commands, each to the partition of its execution, and waits until all replicas have them.

    `async with Publisher(connection, topics) as publisher: await publisher.publish(command)`

    With `sign_key` each command is signed (`policy.signing.load_private_key` reads one): that proves `requested_by`.
    """

    def __init__(self, connection: KafkaConnection, topics: TopicNames, *, sign_key: SigningKey | None = None) -> None:
        self._connection = connection
        self._topics = topics
        self._sign_key = sign_key
        self._producer: AIOKafkaProducer | None = None
        self._partitions = 0

    async def __aenter__(self) -> Self:
        names = [self._topics.name(topic) for topic in CommandTopic]
        self._partitions = await count_partitions(self._connection, names)
        producer = AIOKafkaProducer(
            **self._connection.options("publisher"), acks="all", request_timeout_ms=10_000, max_request_size=1 << 20
        )
        try:
            async with reaching(self._connection):
                await producer.start()
        except BaseException:
            await stop(producer)
            raise
        self._producer = producer
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop(producer)

    async def publish(self, command: Command) -> Published:
        """Writes the command; gives an execute command an id if it has none. Raises Unreachable, ClientError."""
        assert self._producer is not None, "use it as a context manager"
        execution_id = command.execution_id or new_execution_id()
        command = command.model_copy(update={"execution_id": execution_id})
        topic = self._topics.name(_TOPICS[type(command)])
        value = command.model_dump_json(exclude_defaults=True).encode()
        if len(value) > MAX_BYTES:
            raise ClientError(
                f"the command has {len(value):,} bytes, and brokers take records of at most 1 MB: make the package "
                "smaller, or let a step fetch what is large"
            )
        headers = [("content-type", b"application/json"), *self._signature(topic, execution_id, value)]
        async with reaching(self._connection), asyncio.timeout(SEND_TIMEOUT):
            metadata = await self._producer.send_and_wait(
                topic,
                value,
                key=execution_id.encode(),
                partition=partition_of(execution_id, self._partitions),
                headers=headers,
            )
        return Published(execution_id=execution_id, topic=topic, partition=metadata.partition, offset=metadata.offset)

    def _signature(self, topic: str, execution_id: str, value: bytes) -> Sequence[tuple[str, bytes]]:
        if self._sign_key is None:
            return ()
        signed = Signed(topic=topic, execution_id=execution_id, key=execution_id.encode(), value=value)
        try:
            return signing.command_headers(self._sign_key, signed, datetime.now(UTC))
        except SignatureError as error:
            raise ClientError(str(error)) from error


def new_execution_id() -> str:
    """An id that nobody else has: a UUID of version 4."""
    return str(uuid.uuid4())


async def stop(producer: AIOKafkaProducer) -> None:
    """Ends the producer in bounded time: aiokafka's own stop waits for brokers that are gone."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(producer.stop(), _STOP_TIMEOUT)
