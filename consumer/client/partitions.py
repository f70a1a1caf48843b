"""Where an execution lies: its records are on the same partition number in every topic."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.partitioner import murmur2

from consumer.client.errors import ClientError, Refused, Unreachable
from consumer.errors import AgentError, KafkaRefused, SettingsError
from consumer.journal import authorized, diagnosis, rights
from consumer.journal.authorized import Forbidden
from consumer.journal.connection import KafkaConnection, explain

_SIGN = 0x7FFFFFFF


def partition_of(key: str | bytes, partitions: int) -> int:
    """The partition that the Java client's default partitioner gives a record with that key (murmur2)."""
    return (int(murmur2(key.encode() if isinstance(key, str) else key)) & _SIGN) % partitions


async def count_partitions(connection: KafkaConnection, topics: Iterable[str]) -> int:
    """The number of partitions that all those topics have. Raises Unreachable, and ClientError where one is missing or
    they differ.

    All topics of the cluster are asked for: asking for one by its name creates it on some brokers.
    """
    async with reaching(connection):
        client = AIOKafkaClient(**connection.options("client"), request_timeout_ms=10_000)
        try:
            await client.bootstrap()
            cluster = await client.fetch_all_metadata()
            counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
            missing = [topic for topic, count in counts.items() if not count]
            if hidden := await authorized.hidden(client, missing):
                writes = any(".commands." in topic for topic in hidden)  # all must be seen to write to one of them
                raise Forbidden(counts if writes else hidden, "Describe" if writes else "Read")
        finally:
            await client.close()
    if missing:
        noun = "topic" if len(missing) == 1 else "topics"
        raise ClientError(
            f"{noun} {', '.join(missing)} not found on this broker; create with: wpk topics create "
            "(or is WPK_TOPIC_PREFIX another?)"
        )
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{topic} has {count}" for topic, count in counts.items())
        raise ClientError(f"the topics differ in their number of partitions ({listed}); see: wpk topics check")
    return next(iter(counts.values()))


@asynccontextmanager
async def reaching(connection: KafkaConnection) -> AsyncIterator[None]:
    """Turns the errors of a client's work into `Unreachable`, with the cause that a second look finds."""
    try:
        yield
    except (errors.KafkaError, OSError, TimeoutError) as error:
        raise _told(connection, await diagnosis.failure(connection, error)) from error


@contextmanager
def telling_unreachable(connection: KafkaConnection) -> Iterator[None]:
    """Tells a broker that does not answer from wrong settings, where the journal says both by a SettingsError.

    A KafkaError becomes a sentence too.
    """
    try:
        yield
    except SettingsError as error:
        if not isinstance(error.__cause__, errors.KafkaError):
            raise
        raise _told(connection, error) from error.__cause__
    except errors.KafkaError as error:  # it ended an agent that worked
        refusal = rights.refusal(connection, error)
        raise _told(connection, KafkaRefused(refusal) if refusal else SettingsError(explain(error))) from error


def _told(connection: KafkaConnection, failure: SettingsError) -> AgentError:
    """A Kafka that refuses is there: what must change is named, and it is not to be waited for."""
    text = str(failure)
    if isinstance(failure, KafkaRefused):
        return Refused(text)
    if text.startswith("Kafka at "):
        return Unreachable(f"cannot reach {text}")
    return Unreachable(f"cannot reach Kafka at {', '.join(connection.servers())}: {text}")
