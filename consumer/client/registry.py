"""Publishing packages into the registry's topic, and listing what is there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError

from consumer.client.errors import ClientError, Refused, Unreachable
from consumer.client.partitions import reaching
from consumer.client.publish import SEND_TIMEOUT, stop
from consumer.errors import KafkaRefused, PermanentError, TemporaryError
from consumer.journal.authorized import Forbidden
from consumer.journal.connection import KafkaConnection
from consumer.journal.publications import PARTITION, Publications, Published
from consumer.journal.topics import TopicNames
from consumer.ports import JsonObject
from schemas import registry
from schemas.canonical import digest
from schemas.registry import Publication

#: Of a package as JSON: the command that names it, the event that resolves it and its state must each hold it whole.
MAX_BYTES = 900_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of publishing."""

    package: Published
    new: bool
    """False: the very same package was there already."""


class Registry:
    """The packages of the registry's topic. Raises Unreachable, and ClientError where the topic is missing."""

    def __init__(self, connection: KafkaConnection, topics: TopicNames) -> None:
        self._connection = connection
        self._packages = Publications(connection, topics)

    async def packages(self) -> list[Published]:
        """All versions that count, by name and time."""
        with _telling():
            await self._packages.refresh()
        by_time = sorted(self._packages, key=lambda each: each.published_at)
        return sorted(by_time, key=lambda each: registry.name_of(each.workflow_id) or "")

    async def package(self, reference: str) -> JsonObject:
        """The content of that `name-version` or digest. Raises ClientError where there is none."""
        with _telling():
            return (await self._packages.resolve(reference)).content

    async def publish(self, content: JsonObject, *, published_by: str | None = None) -> Outcome:
        """Adds the package. Raises ClientError where its version is there with another content.

        Where two publish one version at the same moment both write, and the record with the lower offset counts: who
        wrote the other one finds that, takes it out again and is refused here.
        """
        try:
            publication = Publication(
                workflow_id=registry.workflow_id_of(content),
                digest=digest(content),
                published_at=datetime.now(UTC),
                published_by=published_by,
                content=content,
            )
        except ValueError as error:
            raise ClientError(f"not published: {error}") from error
        with _telling():
            await self._packages.refresh()
            if (there := self._packages.find(publication.workflow_id)) is not None:
                return Outcome(package=_same(there, publication), new=False)
            return await self._write(publication)

    async def _write(self, publication: Publication) -> Outcome:
        value = publication.model_dump_json(exclude_none=True).encode()
        if len(value) > MAX_BYTES:
            raise ClientError(f"not published: it has {len(value):,} bytes, and at most {MAX_BYTES:,} are taken")
        key = f"{publication.workflow_id}/{uuid.uuid4()}".encode()
        async with self._producing() as producer:
            async with reaching(self._connection), asyncio.timeout(SEND_TIMEOUT):
                try:
                    sent = await producer.send_and_wait(self._packages.topic, value, key=key, partition=PARTITION)
                except TopicAuthorizationFailedError as error:
                    raise Forbidden({self._packages.topic}, "Write") from error
            async with reaching(self._connection), asyncio.timeout(SEND_TIMEOUT):
                while self._packages.position <= sent.offset:
                    await self._packages.refresh()
            winner = self._packages.find(publication.workflow_id)
            assert winner is not None, "what was written is read"
            if winner.offset != sent.offset:
                async with reaching(self._connection), asyncio.timeout(SEND_TIMEOUT):
                    await producer.send_and_wait(self._packages.topic, None, key=key, partition=PARTITION)
            return Outcome(package=_same(winner, publication), new=winner.offset == sent.offset)

    @asynccontextmanager
    async def _producing(self) -> AsyncIterator[AIOKafkaProducer]:
        producer = AIOKafkaProducer(
            **self._connection.options("registry"), acks="all", request_timeout_ms=10_000, max_request_size=1 << 20
        )
        try:
            async with reaching(self._connection):
                await producer.start()
            yield producer
        finally:
            await stop(producer)


def _same(there: Published, publication: Publication) -> Published:
    if there.digest == publication.digest:
        return there
    raise ClientError(
        f"not published: {there.workflow_id} is there with another content ({there.digest}, published "
        f"{there.published_at:%Y-%m-%d %H:%M} by {there.published_by or 'somebody who gave no name'}), and a version "
        "never changes; raise metadata.version"
    )


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except TemporaryError as error:
        if isinstance(error.__cause__, KafkaRefused):
            raise Refused(str(error)) from error
        raise Unreachable(str(error)) from error
    except PermanentError as error:
        raise ClientError(str(error)) from error
