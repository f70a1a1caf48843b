"""The registry's topic, read: which packages are published, and the content of each.

Only an index stays in memory. It is brought up to the topic's end where something is asked for that it does not have,
so that an agent whose commands bring their packages never reads the topic at all.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches

import structlog
from aiokafka.errors import KafkaError

from consumer.errors import KafkaRefused, PermanentError, SettingsError, TemporaryError
from consumer.journal import rights, topics
from consumer.journal.connection import KafkaConnection, explain
from consumer.journal.reader import LogRecord, read_partition
from consumer.journal.topics import TopicNames
from consumer.ports import JsonObject, Resolved, SharedTopic
from schemas import registry

_log = structlog.get_logger(__name__)
PARTITION = 0
#: Contents that stay in memory, as JSON (bytes).
_KEPT_BYTES = 8 << 20
_LISTED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the index has of a publication."""

    workflow_id: str
    digest: str
    offset: int
    key: bytes
    """Of its record: one with the same key and no value withdraws it."""
    published_at: datetime
    published_by: str | None


class Publications:
    """Implements `ports.Packages`. Of a `name-version` the first record that the topic holds counts.

    What a later record of the same key replaces or withdraws is gone at once, as it is after compaction: so all readers
    see the same, whenever they read.
    """

    def __init__(self, connection: KafkaConnection, names: TopicNames) -> None:
        self._connection = connection
        self.topic = names.name(SharedTopic.REGISTRY)
        self._names = names
        self._exists = False
        self._by_key: dict[bytes, Published] = {}
        self._by_name: dict[str, list[Published]] = {}
        """By workflow_id and by digest, in the order of the topic; the lists are never empty."""
        self._contents: OrderedDict[str, tuple[JsonObject, int]] = OrderedDict()
        self._next = 0
        self._lock = asyncio.Lock()
        self._begun = self._complete = 0
        """Readings that were begun, and the last that came to its end: who finds that one which began after it asked is
        complete needs none of its own."""

    @property
    def position(self) -> int:
        """The offset up to which the topic was read."""
        return self._next

    def __iter__(self) -> Iterator[Published]:
        """Those that count."""
        return (found[0] for name, found in self._by_name.items() if name == found[0].workflow_id)

    def find(self, reference: str) -> Published | None:
        """What is known of that `name-version` or digest so far."""
        found = self._by_name.get(reference)
        return found[0] if found else None

    async def resolve(self, reference: str) -> Resolved:
        """See `ports.Packages`."""
        found = self.find(reference)
        if found is None:
            await self.refresh()
            found = self.find(reference)
        if found is None:
            raise PermanentError(self._unknown(reference), code="unknown_package")
        content = await self.content(found)
        return Resolved(content=content, digest=found.digest, origin=f"{self.topic} offset {found.offset}")

    def _unknown(self, reference: str) -> str:
        known = sorted(each.workflow_id for each in self)
        name = registry.name_of(reference) or reference
        same = [each for each in known if registry.name_of(each) == name]
        near = same or get_close_matches(reference, known, n=_LISTED)
        there = f"there are {', '.join(near[-_LISTED:])}" if near else f"it has {len(known)} packages"
        return (
            f'the registry ({self.topic}) has no package "{reference}"; {there}; see them with: wpk packages, add it '
            "with: wpk publish FILE, or send the package itself in wpk_content"
        )

    async def refresh(self) -> None:
        """Reads what has come. Raises PermanentError where there is no such topic, TemporaryError where Kafka does not
        answer."""
        asked = self._begun
        async with self._lock:
            if self._complete > asked:
                return
            self._begun += 1
            mine = self._begun
            await self._require()
            with _mapped(self.topic, self._connection):
                records = read_partition(self._connection, self.topic, PARTITION, self._next)
                async with aclosing(records):
                    async for record in records:
                        self._take(record)
                        self._next = record.offset + 1
            self._complete = mine

    async def _require(self) -> None:
        """Reading a topic that is not there would create it on some brokers."""
        if self._exists:
            return
        with _mapped(self.topic, self._connection):
            self._exists = await topics.exists(self._connection, self._names, SharedTopic.REGISTRY)
        if not self._exists:
            message = (
                f"the topic {self.topic} does not exist, so that there is no registry; create it with: "
                "wpk topics create, or send the package itself in wpk_content"
            )
            raise PermanentError(message, code="unknown_package")

    def _read(self, record: LogRecord) -> registry.Publication | None:
        try:
            return registry.read(record.value) if record.value is not None else None
        except ValueError as error:
            _log.warning("registry.unreadable", topic=self.topic, offset=record.offset, reason=str(error)[:300])
            return None

    def _take(self, record: LogRecord) -> None:
        if record.key is None:
            return
        if (former := self._by_key.pop(record.key, None)) is not None:
            self._forget(former)
        found = self._read(record)
        if found is None:
            return
        published = Published(
            workflow_id=found.workflow_id,
            digest=found.digest,
            offset=record.offset,
            key=record.key,
            published_at=found.published_at,
            published_by=found.published_by,
        )
        self._by_key[record.key] = published
        for name in (found.workflow_id, found.digest):
            self._by_name.setdefault(name, []).append(published)
        self._keep(found.digest, found.content, len(record.value or b""))

    def _forget(self, former: Published) -> None:
        for name in (former.workflow_id, former.digest):
            self._by_name[name].remove(former)
            if not self._by_name[name]:
                del self._by_name[name]

    async def content(self, published: Published) -> JsonObject:
        """The package itself. Raises PermanentError where it was taken out of the topic, and TemporaryError."""
        kept = self._contents.get(published.digest)
        if kept is not None:
            self._contents.move_to_end(published.digest)
            return kept[0]
        with _mapped(self.topic, self._connection):
            records = read_partition(self._connection, self.topic, PARTITION, published.offset, published.offset + 1)
            async with aclosing(records):
                async for record in records:
                    if (found := self._read(record)) is not None and found.digest == published.digest:
                        self._keep(published.digest, found.content, len(record.value or b""))
                        return found.content
        message = f'the package "{published.workflow_id}" was taken out of {self.topic}; publish it as a new version'
        raise PermanentError(message, code="unknown_package")

    def _keep(self, key: str, content: JsonObject, size: int) -> None:
        self._contents[key] = (content, size)
        self._contents.move_to_end(key)
        while len(self._contents) > 1 and sum(each for _, each in self._contents.values()) > _KEPT_BYTES:
            self._contents.popitem(last=False)


@contextmanager
def _mapped(topic: str, connection: KafkaConnection) -> Iterator[None]:
    """Turns what Kafka's client raises into TemporaryError; what is wrong with a package goes through.

    Its cause is a KafkaRefused where it is not allowed.
    """
    try:
        yield
    except (KafkaError, OSError, TimeoutError, SettingsError) as error:
        refusal = rights.refusal(connection, error)
        message = f"the registry ({topic}) can't be read now: {refusal or explain(error)}"
        raise TemporaryError(message, code="registry_unavailable") from (KafkaRefused(refusal) if refusal else error)
