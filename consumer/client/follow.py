"""Following one execution: its events from the three topics, put in order, as they come."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterable
from datetime import datetime
from types import TracebackType
from typing import Literal, Self

from aiokafka import AIOKafkaConsumer, TopicPartition

from consumer.client.partitions import count_partitions, partition_of, reaching
from consumer.client.publish import Published
from consumer.client.trails import PatientTrail
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.ports import Topic
from schemas.events import Event, EventError, ExecutionRejected, ExecutionResult, decode
from schemas.execution import ExecutionState, apply

EVENT_TOPICS = (Topic.PROGRESS, Topic.LOGS, Topic.RESULTS)

#: The embedded broker answers an empty fetch only after about half of this, even when a record comes meanwhile.
_FETCH_WAIT_MS = 20
_POLL_MS = 200
#: Seconds for which everything is read and an event is still missing, before it is taken as lost for good.
_GAP_PATIENCE = 5.0

Since = datetime | Literal["beginning", "now"]


class Follower:
    """The events of one execution. What is published after the context is entered can't be missed.

    `since` says how far back to read: `now` for an execution that is yet to be published; for one that runs, a moment
    before its acceptance, or `beginning`.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topics: TopicNames,
        execution_id: str,
        *,
        since: Since = "beginning",
        partition: int | None = None,
    ) -> None:
        self.execution_id = execution_id
        self._connection = connection
        self._topics = [topics.name(topic) for topic in EVENT_TOPICS]
        self._since = since
        self._partition = partition
        self._trail = PatientTrail(execution_id)
        self._given: ExecutionState | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._places: list[TopicPartition] = []

    @property
    def state(self) -> ExecutionState | None:
        """The execution's state after the event given out last, or a few further on: those that came together."""
        return self._given

    async def __aenter__(self) -> Self:
        number = self._partition
        if number is None:
            number = partition_of(self.execution_id, await count_partitions(self._connection, self._topics))
        self._places = [TopicPartition(topic, number) for topic in self._topics]
        consumer = AIOKafkaConsumer(
            **self._connection.options("follower"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=2 << 20,
        )
        try:
            async with reaching(self._connection):
                await consumer.start()
                await self._place(consumer)
        except BaseException:
            await asyncio.sleep(0)  # a task of the consumer that has not begun yet would make its stop raise
            await consumer.stop()
            raise
        self._consumer = consumer
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def _place(self, consumer: AIOKafkaConsumer) -> None:
        consumer.assign(self._places)
        if self._since == "beginning":
            await consumer.seek_to_beginning(*self._places)
            return
        # On the embedded broker this end lies up to one batch before the true one: more is read, nothing is missed.
        starts = dict(await consumer.end_offsets(self._places))
        if self._since != "now":
            moment = int(self._since.timestamp() * 1000)
            found = await consumer.offsets_for_times(dict.fromkeys(self._places, moment))
            starts |= {tp: place.offset for tp, place in found.items() if place is not None and place.timestamp >= 0}
        for tp, offset in starts.items():
            consumer.seek(tp, offset)

    async def events(
        self, *, answer_to: Published | None = None, after: int | None = None
    ) -> AsyncGenerator[Event, None]:
        """The events in order, each once, until the execution is over. Raises Unreachable.

        With `answer_to` not before that command was answered: an execution that had ended long ago may go on by a
        command. With `after` also where a result came after the event of that number, the last before the command: who
        looks on is then told of an end that came first. An id that is known only from refused commands ends with the
        refusal.
        """
        answered = answer_to is None
        async for event in self.all_events():
            yield event
            state = self.state
            answered = (
                answered
                or (answer_to is not None and answer_to.answered_by(event))
                or (after is not None and _ends(event, after))
            )
            if state is None or event.data.seq < state.seq or not answered:
                continue
            if state.over or _is_nothing(state, event):
                return

    async def all_events(self) -> AsyncGenerator[Event, None]:
        """The events in order, each once, without an end. Raises Unreachable."""
        assert self._consumer is not None, "use it as a context manager"
        quiet_since = time.monotonic()
        while True:
            for event in await self._poll():
                quiet_since = time.monotonic()
                for taken in self._trail.add(event):
                    yield self._give(taken)
            if self._trail.waiting and time.monotonic() - quiet_since > _GAP_PATIENCE and await self._at_end():
                for taken in self._trail.jump():
                    yield self._give(taken)

    def _give(self, event: Event) -> Event:
        """Keeps the state after this event: one that arrives may let several be given out at once."""
        known = self._given.seq if self._given else 0
        follows = event.data.seq == known + 1
        self._given = apply(self._given, event) if follows else self._trail.state
        return event

    async def _poll(self) -> list[Event]:
        assert self._consumer is not None
        async with reaching(self._connection):
            batches = await self._consumer.getmany(timeout_ms=_POLL_MS)
        key = self.execution_id.encode()
        return decoded(record.value for records in batches.values() for record in records if record.key == key)

    async def _at_end(self) -> bool:
        """Whether all that the topics hold was read."""
        assert self._consumer is not None
        for tp in self._places:
            stable = self._consumer.last_stable_offset(tp)
            end = self._consumer.highwater(tp) if stable is None or stable < 0 else stable
            if end is None or await self._consumer.position(tp) < end:
                return False
        return True


def decoded(values: Iterable[bytes | None]) -> list[Event]:
    """The events in those records; what is no event of ours is passed over: the topics are open to others."""
    events = []
    for value in values:
        with contextlib.suppress(EventError):
            events.append(decode(value or b""))
    return events


def _is_nothing(state: ExecutionState, event: Event) -> bool:
    """Whether the id is known only from a command that was refused, which its result has just said."""
    return state.status is None and isinstance(event.data, ExecutionRejected)


def _ends(event: Event, after: int) -> bool:
    """Whether it is a result of the execution itself, of after that event."""
    data = event.data
    if not isinstance(data, ExecutionResult) or data.seq <= after:
        return False
    return not (isinstance(data, ExecutionRejected) and data.command is not None)
