"""Reading the whole trail for an audit: the event topics in the order of time, and the state topic as their witness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from consumer.audit.chain import Chain
from consumer.audit.checkpoint import Checkpoint, CheckpointError
from consumer.audit.entry import Entry
from consumer.audit.findings import Report
from consumer.audit.verify import Head, Scope, Verifier
from consumer.client.follow import EVENT_TOPICS
from consumer.client.partitions import count_partitions, partition_of, reaching
from consumer.client.read import CLOCK_SKEW, read_heads
from consumer.client.replayed import ReplayedEvent
from consumer.journal.connection import KafkaConnection
from consumer.journal.merge import Merge
from consumer.journal.reader import PartitionReader, Start, open_reader
from consumer.journal.topics import TopicNames
from consumer.ports import Topic

Emit = Callable[[Chain, Entry], None]
Progress = Callable[[Report, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What of the trail is looked at; nothing given: all of it."""

    since: datetime | None = None
    until: datetime | None = None
    execution_id: str | None = None


class Auditor:
    """Reads and verifies a trail; see `consumer.audit.verify` for what that shows and what it can't.

    `strict`: the agents ran with exactly_once all the time, so that no record may be there twice or be void.
    `checkpoint`: what lies before it must be what it was then. `emit` gets each event that holds, in the sequence of
    its execution; `progress` the report so far and the part that was read, after each batch.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topics: TopicNames,
        *,
        strict: bool = False,
        checkpoint: Checkpoint | None = None,
        emit: Emit | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.connection = connection
        self.topics = topics
        self._strict = strict
        self._checkpoint = checkpoint
        self._emit = emit
        self._progress = progress

    async def verify(self, window: Window | None = None) -> Report:
        """What was found. Raises Unreachable, ClientError where topics are missing, and CheckpointError where the
        checkpoint is of another trail, or the window has times."""
        window = window or Window()
        if self._checkpoint is not None:
            self._check_belongs(self._checkpoint, window)
        numbers = await self._partitions()
        count = len(numbers)
        if window.execution_id is not None:
            home = partition_of(window.execution_id, count)
            found = (await self._verified([home], window)).report
            if found.executions or count == 1:
                return found
            numbers.remove(home)  # a command without a key, or from a producer with another partitioner
        return (await self._verified(numbers, window)).report

    async def checkpoint(self) -> tuple[Report, Checkpoint]:
        """Verifies all of the trail; what was found, and what the trail is now: worth a signature where it holds."""
        verifier = await self._verified(await self._partitions(), Window())
        return verifier.report, verifier.checkpoint(datetime.now(UTC), self.topics.prefix)

    async def _partitions(self) -> list[int]:
        topics = [self.topics.name(topic) for topic in (*EVENT_TOPICS, Topic.STATE)]
        return list(range(await count_partitions(self.connection, topics)))

    def _check_belongs(self, checkpoint: Checkpoint, window: Window) -> None:
        prefix = self.topics.prefix
        if checkpoint.prefix != prefix:
            raise CheckpointError(
                f"{checkpoint.name} is of the topics {checkpoint.prefix}.*, and these are {prefix}.*; is "
                "WPK_TOPIC_PREFIX the right one?"
            )
        if window.since or window.until:
            raise CheckpointError("a checkpoint is compared with the whole trail: leave out --from and --to")

    async def replay(self, window: Window | None = None) -> AsyncGenerator[ReplayedEvent, None]:
        """The events that hold, over all executions in the order of time, each execution's in sequence."""
        window, found = window or Window(), list[ReplayedEvent]()
        count = await count_partitions(self.connection, [self.topics.name(topic) for topic in EVENT_TOPICS])

        def take(chain: Chain, entry: Entry) -> None:
            found.append(ReplayedEvent(entry))

        async with aclosing(self._reading(list(range(count)), window, take)) as steps:
            async for _ in steps:
                for event in found:
                    yield event
                found.clear()

    async def _verified(self, numbers: list[int], window: Window) -> Verifier:
        heads = await self._heads(numbers, window) if window.until is None else {}
        async with aclosing(self._reading(numbers, window, self._emit)) as steps:
            async for verifier, fraction in steps:
                if self._progress is not None:
                    self._progress(verifier.report, fraction)
        if window.until is None and (doubtful := verifier.witness(heads)):
            known = await self._heads(numbers, window)
            verifier.lost(name for name in doubtful if name not in known)
        if self._checkpoint is not None:
            verifier.attest(self._checkpoint)
        return verifier

    async def _reading(
        self, numbers: list[int], window: Window, emit: Emit | None
    ) -> AsyncGenerator[tuple[Verifier, float], None]:
        """Reads into a verifier; gives it after each step with how far it is, and at last when all is in it.

        The ends of the topics are not seen in one moment, so that of events that are written just now a later one may
        be read and an earlier one not. Where one is missing, what came meanwhile is read too, until none is missing
        that was not missing before.
        """
        channels = {self.topics.name(topic): topic.value for topic in EVENT_TOPICS}
        places = [(name, number) for name in channels for number in numbers]
        starts: Mapping[tuple[str, int], Start] = (
            dict.fromkeys(places, window.since - CLOCK_SKEW) if window.since else {}
        )
        verifier: Verifier | None = None
        missed: frozenset[tuple[str, int]] = frozenset()
        while True:
            async with reaching(self.connection), open_reader(self.connection, places, starts=starts) as reader:
                if verifier is None:
                    verifier = Verifier(await self._scope(channels, reader, window), emit)
                merge = Merge(reader, window.until)
                async with aclosing(merge.batches()) as batches:
                    async for records in batches:
                        verifier.add(records)
                        yield verifier, merge.fraction
                        await asyncio.sleep(0)
                verifier.ends = {(tp.topic, tp.partition): await reader.position(tp) for tp in reader.partitions}
                starts = verifier.ends
            if window.until is not None or verifier.waiting <= missed:
                break
            missed = verifier.waiting
        verifier.finish()
        yield verifier, 1.0

    async def _scope(self, channels: Mapping[str, str], reader: PartitionReader, window: Window) -> Scope:
        return Scope(
            channels=channels,
            beginnings=await reader.beginnings(),
            execution_id=window.execution_id,
            from_middle=window.since is not None,
            strict=self._strict,
            checkpoint=self._checkpoint,
        )

    async def _heads(self, numbers: Iterable[int], window: Window) -> Mapping[str, Head]:
        """What the state topic knows of each execution, or of the one."""
        found = await read_heads(self.connection, self.topics, numbers, window.execution_id)
        return {name: head for name, value in found if (head := _head(value, window.since)) is not None}


def _head(value: bytes, since: datetime | None) -> Head | None:
    """None where it is of a version that can't be read."""
    try:
        raw = orjson.loads(value)
        begun = raw.get("accepted_at")
        expected = since is None or (begun is not None and datetime.fromisoformat(begun) >= since)
        return Head(int(raw.get("seq", 0)), str(raw.get("last_hash", "")), expected)
    except (orjson.JSONDecodeError, AttributeError, ValueError, TypeError):
        return None
