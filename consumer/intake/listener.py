"""The only consumer of the command topics: polls, hands records to the lanes, and follows the group's assignments.

aiokafka knows the eager protocol: each rebalance revokes everything and gives a new set. Here a revocation is a hold. A
partition that comes back keeps its lane, its owner and its running steps; only one that went elsewhere is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError

from consumer.engine.supervisor import Supervisor
from consumer.errors import OwnershipLost
from consumer.intake.decode import RawRecord
from consumer.intake.lane import Lane
from consumer.journal.factory import OwnerFactory
from consumer.journal.membership import GroupMembership
from consumer.journal.restore import Restored
from consumer.ports import CommandTopic
from consumer.telemetry.health import Health
from consumer.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)
_POLL_MS = 100
_POLL_RECORDS = 1000
#: How long a revocation waits for running steps to end, in case their partition goes elsewhere (seconds).
_REVOKE_GRACE = 2.0
_LAG_SECONDS = 5.0
_LEAVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the listener consumes; seconds and bytes."""

    session_timeout: float
    fetch_max_wait_ms: int
    max_command_bytes: int

    def consumer_arguments(self, group: str) -> dict[str, object]:
        """The consumer's settings. The relations matter: heartbeat < session / 3, rebalance < request (KIP-62)."""
        session = int(self.session_timeout * 1000)
        rebalance = max(session, 25_000)
        return {
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",  # only after an explicit seek has found its offset gone
            "isolation_level": "read_committed",
            "partition_assignment_strategy": [RangePartitionAssignor],  # one partition number of all topics together
            "session_timeout_ms": session,
            "heartbeat_interval_ms": max(100, session // 10),
            "rebalance_timeout_ms": rebalance,
            "request_timeout_ms": rebalance + 15_000,
            "fetch_max_wait_ms": self.fetch_max_wait_ms,
            "max_partition_fetch_bytes": 2 << 20,
        }


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """See the module. `run` until `stop` is set; then `drain` ends it in order."""

    def __init__(
        self,
        factory: OwnerFactory,
        supervisor: Supervisor,
        options: Options,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._factory = factory
        self._names = factory.names
        self._supervisor = supervisor
        self._options = options
        self._metrics = metrics
        self._health = health
        self._lanes: dict[int, Lane] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup
        self._consumer: AIOKafkaConsumer
        self._roles = {self._names.name(role): role for role in CommandTopic}
        self._assigned = False
        self._draining = False
        supervisor.on_room(self._wake_all)

    @property
    def partitions(self) -> list[int]:
        """The partition numbers that are assigned to this agent."""
        return sorted(self._lanes)

    @property
    def assigned(self) -> bool:
        """Whether the agent has its place in the group; not so during a rebalance."""
        return self._assigned

    @property
    def owned(self) -> int:
        """How many of the partitions are restored and take commands."""
        return sum(lane.active for lane in self._lanes.values())

    async def run(self, stop: asyncio.Event, grace: float) -> None:
        """Consumes until `stop`, then lets running steps end for `grace` seconds and leaves the group."""
        arguments = self._factory.connection.options("intake")
        arguments |= self._options.consumer_arguments(self._factory.identity.group)
        self._consumer = AIOKafkaConsumer(**arguments)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._consumer.subscribe(topics=list(self._roles), listener=self)
                await self._start(stop)
                polling = group.create_task(self._poll(), name="poll")
                await stop.wait()
                polling.cancel()  # in a rebalance it may not return for long; the consumer is not used any more
                await self._drain(grace)
        finally:
            await asyncio.shield(self._leave())

    async def _start(self, stop: asyncio.Event) -> None:
        """Joins the group. That may take as long as a rebalance, so that a stop does not wait for it."""
        joining = self._group.create_task(self._consumer.start())
        stopping = self._group.create_task(stop.wait())
        await asyncio.wait([joining, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (joining, stopping):
            if not task.done():
                task.cancel()

    # --- polling ---

    async def _poll(self) -> None:
        measured_at = 0.0
        while True:
            try:
                batches = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            except KafkaError as error:
                _log.warning("poll.failed", error=f"{type(error).__name__}: {error}"[:300])
                await asyncio.sleep(0.5)
                continue
            self._health.polled()
            for tp, records in batches.items():
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

    def _wake_all(self) -> None:
        for lane in self._lanes.values():
            lane.wake.set()

    # --- the group ---

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """A rebalance begins. What it revokes may come back, so that nothing is given up yet.

        Until this returns the agent is a member as before, and its commits are taken: the ends of the steps that are
        waited for must be durable before it joins anew, or the partition's next owner could not know them.
        """
        self._assigned = False
        for lane in self._lanes.values():
            lane.hold_steps()
        if self._lanes:
            await self._supervisor.quiet(_REVOKE_GRACE)
            await self._written()
        for lane in self._lanes.values():
            lane.hold()
        for lane in self._lanes.values():
            await lane.settle()

    async def _written(self) -> None:
        """Waits until what the steps led to is durable: a slot is free before that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REVOKE_GRACE):
                for lane in list(self._lanes.values()):
                    await lane.written()

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """The new set. No heartbeat is sent while this runs, so that all that takes time becomes a task."""
        self._consumer.pause(*assigned)
        numbers = {tp.partition for tp in assigned}
        for number in self._lanes.keys() - numbers:
            self._give_up(number)
            for topic in self._roles:
                self._metrics.forget_lag(topic, number)
        for number in sorted(numbers):
            lane = self._lanes.get(number)
            if self._draining:  # a rebalance during the stop: nothing is begun, but what ends is still written
                if lane is not None:
                    lane.write_again()
            elif lane is None:
                self._open(number)
            else:
                self._keep(lane)
        self._assigned = True
        _log.info("group.assigned", partitions=sorted(numbers))

    def _keep(self, lane: Lane) -> None:
        """aiokafka forgot the position: it would deliver again what waits in the lane."""
        for topic, role in self._roles.items():
            offset = lane.next_offset(role)
            if offset is not None:
                self._consumer.seek(TopicPartition(topic, lane.number), offset)
        lane.release()

    def _open(self, number: int) -> None:
        lane = Lane(
            number,
            supervisor=self._supervisor,
            # A membership for each writer: it is bound to the member id that the agent has when the writer begins.
            new_owner=lambda: self._factory.owner(number, lambda: GroupMembership(self._consumer, self._names, number)),
            source=self,
            max_bytes=self._options.max_command_bytes,
        )
        self._lanes[number] = lane
        former = self._leaving.get(number)
        self._tasks[number] = self._group.create_task(_after(former, lane), name=f"lane {number}")

    def _give_up(self, number: int) -> None:
        del self._lanes[number]
        task = self._tasks.pop(number)
        task.cancel()
        self._leaving[number] = task
        task.add_done_callback(lambda done: self._left(number, done))

    def _left(self, number: int, task: asyncio.Task[None]) -> None:
        if self._leaving.get(number) is task:
            del self._leaving[number]

    async def seek(self, partition: int, restored: Restored) -> dict[CommandTopic, int]:
        """See `lane.Source`."""
        known: dict[CommandTopic, int] = {}
        try:
            for topic, role in self._roles.items():
                tp = TopicPartition(topic, partition)
                offset = restored.resume_at(role, await self._consumer.committed(tp))
                if offset is not None and await self._is_beyond(tp, offset):
                    offset = None
                if offset is None:
                    await self._consumer.seek_to_beginning(tp)
                else:
                    self._consumer.seek(tp, offset)
                    known[role] = offset
        except (IllegalStateError, KafkaError) as error:
            raise OwnershipLost(f"the consumer can't be set to where partition {partition} goes on: {error}") from error
        return known

    async def _leave(self) -> None:
        """Leaves the group. While the group is being joined that can take as long as a rebalance; it is bounded."""
        leaving = asyncio.create_task(self._consumer.stop(), name="leave")
        await asyncio.wait([leaving], timeout=_LEAVE_SECONDS)
        if not leaving.done():
            _log.warning("group.left_unanswered", waited_seconds=_LEAVE_SECONDS)
            leaving.cancel()
            await asyncio.wait([leaving])

    async def _is_beyond(self, tp: TopicPartition, offset: int) -> bool:
        """Whether the topic has become shorter than what was consumed of it: it was made anew, or lost records.

        Then all that is there is taken: ids make a repetition harmless, a command that is passed over is lost. The
        embedded broker can't be asked where a topic ends.
        """
        if self._factory.mode != "exactly_once":
            return False
        end: int = (await self._consumer.end_offsets([tp]))[tp]
        if offset <= end:
            return False
        _log.error("commands.topic_shorter", topic=tp.topic, partition=tp.partition, expected=offset, end=end)
        return True

    # --- the end ---

    async def _drain(self, grace: float) -> None:
        """Stops in order: nothing new, running steps end or are left to the next owner, the rest is written."""
        self._draining = True
        for lane in self._lanes.values():
            lane.hold_steps()
        running = self._supervisor.running
        if running:
            _log.info("agent.draining", executions=running, grace_seconds=grace)
        if not await self._supervisor.quiet(grace):
            _log.warning("agent.interrupts", executions=self._supervisor.running)
        await self._written()
        for task in self._tasks.values():
            task.cancel()


async def _after(former: asyncio.Task[None] | None, lane: Lane) -> None:
    """A partition that comes back while its former lane still ends waits for that, even where it is cancelled: who
    waits for this task means that nothing of the partition runs any more."""
    if former is not None:
        try:
            await asyncio.wait([former])
        except asyncio.CancelledError:
            await asyncio.wait([former])
            raise
    await lane.run()
