"""Polls as one member of the group: hands records to the lanes, and pauses what they can't take.

It sees too whether that makes progress; a rebalance holds a poll up, and nothing else may for long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from consumer.intake.decode import RawRecord
from consumer.intake.lane import Lane
from consumer.intake.member import Member, Options
from consumer.intake.stillness import Stillness
from consumer.ports import CommandTopic
from consumer.telemetry.health import Health
from consumer.telemetry.metrics import Metrics
from consumer.telemetry.repeated import Repeated

_log = structlog.get_logger(__name__)
_LAG_SECONDS = 5.0
_FAILED_PAUSE_SECONDS = 0.5


class Poller:
    """See the module. `lanes` by partition number: the listener's own, as they come and go.

    `is_shorter` says for sure whether a topic ends before an offset.
    """

    def __init__(
        self,
        member: Member,
        lanes: Mapping[int, Lane],
        roles: Mapping[str, CommandTopic],
        options: Options,
        health: Health,
        metrics: Metrics,
        is_shorter: Callable[[TopicPartition, int], Awaitable[bool]],
    ) -> None:
        self._member = member
        self._is_shorter = is_shorter
        self._consumer = member.consumer
        self._lanes = lanes
        self._roles = roles
        self._options = options
        self._health = health
        self._metrics = metrics
        self._failing: str | None = None
        """Why each poll fails, where it does."""
        self._trouble = Repeated()  # of a forbidden topic every other poll fails
        self._returned = 0
        self._succeeded = 0
        self._silence = Stillness()
        self._failure = Stillness()

    def hangs(self) -> str | None:
        """Why the member hangs, where Kafka answers others: it gets no answer, or errors only. Asked often."""
        silence = self._silence.look(self._returned)
        failing = self._failure.look((self._succeeded, self._failing is not None))
        if silence > self._options.poll_limit:
            return f"Kafka was not polled for {silence:.0f} s although it answers"
        if self._failing is not None and failing > self._options.hang_timeout:
            return f"each poll fails although Kafka answers: {self._failing}"
        return None

    async def run(self) -> None:
        """Joins the group and polls for ever. Raises KafkaError where it can't reach Kafka to join."""
        await self._member.start()
        measured_at = 0.0
        while True:
            try:
                batches = await self._member.poll()
            except KafkaError as error:
                text = f"{type(error).__name__}: {error}"[:300]
                if self._trouble.is_due(text, time.monotonic()):
                    _log.warning("poll.failed", error=text)
                self._failing = text
                self._returned += 1
                self._health.polled()
                await asyncio.sleep(_FAILED_PAUSE_SECONDS)
                continue
            self._failing = None
            self._returned += 1
            self._succeeded += 1
            self._health.polled()
            for tp, records in batches.items():
                await self._look_for_a_topic_made_anew(tp, records)
                self._hand_over(tp, records)
            self._regulate()
            if time.monotonic() - measured_at > _LAG_SECONDS:
                measured_at = time.monotonic()
                self._measure()

    def _hand_over(self, tp: TopicPartition, records: Collection[object]) -> None:
        lane = self._lanes.get(tp.partition)
        if lane is None:
            return
        for record in records:
            lane.push(
                RawRecord(
                    role=self._roles[tp.topic],
                    topic=tp.topic,
                    partition=tp.partition,
                    offset=record.offset,  # type: ignore[attr-defined]  # aiokafka has no types
                    timestamp_ms=record.timestamp,  # type: ignore[attr-defined]
                    key=record.key,  # type: ignore[attr-defined]
                    value=record.value,  # type: ignore[attr-defined]
                    headers=tuple(record.headers),  # type: ignore[attr-defined]
                )
            )

    async def _look_for_a_topic_made_anew(self, tp: TopicPartition, records: Collection[object]) -> None:
        """Where the topic has become shorter than what was taken of it the client goes to its beginning silently.

        All that is there is taken then: ids make a repetition harmless, a command that is passed over is lost. What is
        only delivered again lies below a high water that is further on; one that is told too low is asked for again.
        """
        role, lane = self._roles[tp.topic], self._lanes.get(tp.partition)
        expected, end = lane.next_offset(role) if lane else None, self._consumer.highwater(tp)
        first = min((record.offset for record in records), default=None)  # type: ignore[attr-defined]
        if lane is None or expected is None or first is None or end is None or first >= expected or end >= expected:
            return
        while True:
            try:
                shorter = await self._is_shorter(tp, expected)
                break
            except KafkaError:  # these records come once only; where no answer comes for long the member is made anew
                await asyncio.sleep(_FAILED_PAUSE_SECONDS)
        if shorter and lane is self._lanes.get(tp.partition):
            lane.rewind(role, first)

    def _regulate(self) -> None:
        """Pauses what is full or not yet owned, and resumes the rest."""
        assigned: set[TopicPartition] = self._consumer.assignment()
        wanted = {tp for tp in assigned if self._must_pause(tp)}
        paused: set[TopicPartition] = self._consumer.paused()
        if wanted - paused:
            self._consumer.pause(*(wanted - paused))
        if (paused & assigned) - wanted:
            self._consumer.resume(*((paused & assigned) - wanted))

    def _must_pause(self, tp: TopicPartition) -> bool:
        lane = self._lanes.get(tp.partition)
        return lane is None or not lane.active or lane.full(self._roles[tp.topic])

    def _measure(self) -> None:
        self._metrics.owned_partitions(sum(lane.active for lane in self._lanes.values()))
        for tp in self._consumer.assignment():
            end = self._consumer.highwater(tp)
            lane = self._lanes.get(tp.partition)
            at = lane.next_offset(self._roles[tp.topic]) if lane else None
            if end is not None and at is not None:
                self._metrics.consumer_lag(tp.topic, tp.partition, max(0, end - at))
