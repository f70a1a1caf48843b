"""The only consumer of the command topics: follows the group's assignments, and stops in stages.

aiokafka knows the eager protocol: each rebalance revokes everything and gives a new set. Here a revocation is a hold. A
partition that comes back keeps its lane, its owner and its running steps; only one that went elsewhere is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from consumer import tasks
from consumer.engine.runner import Parting
from consumer.engine.supervisor import Supervisor
from consumer.errors import Hung, OwnershipLost
from consumer.intake import member
from consumer.intake.lane import Lane
from consumer.intake.lookout import FORGET_SECONDS, TRIES, Lookout
from consumer.intake.member import Member, Options
from consumer.intake.poller import Poller
from consumer.intake.stillness import LOOK_SECONDS
from consumer.journal.connection import explain
from consumer.journal.factory import OwnerFactory
from consumer.journal.membership import GroupMembership
from consumer.journal.restore import Restored
from consumer.ports import CommandTopic
from consumer.telemetry.health import Health
from consumer.telemetry.metrics import Metrics
from consumer.telemetry.stages import Stage, Stages

__all__ = ["Listener", "Options"]
_log = structlog.get_logger(__name__)
_POLL_MS = 100
#: How long a revocation waits for running steps to end, in case their partition goes elsewhere (seconds).
_REVOKE_GRACE = 2.0
_LEAVE_SECONDS = 5.0
_UNWRITTEN = "what ended last is in doubt for the next owner"
#: So often, with such pauses (seconds), a topic's end is asked for before it is believed to have become shorter.
_END_QUESTIONS = 6
_END_PAUSE_SECONDS = 1.0
#: How often it is looked whether something hangs.
_LOOK_SECONDS = LOOK_SECONDS
#: What is repeatable and quick comes to its end in that time; what only waits does not hold up a stop for longer.
_MOMENT = 1.0
#: Between attempts to join the group while Kafka is away: the shortest and the longest pause (seconds).
_PAUSES = (0.5, 5.0)


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """See the module. `run` until `stop` is set, and through the stop's stages."""

    def __init__(
        self,
        factory: OwnerFactory,
        supervisor: Supervisor,
        options: Options,
        metrics: Metrics,
        health: Health,
        stages: Stages | None = None,
    ) -> None:
        self._factory = factory
        self._names = factory.names
        self._supervisor = supervisor
        self._options = options
        self._metrics = metrics
        self._health = health
        self._stages = stages or Stages(metrics, monotonic=asyncio.get_running_loop().time)
        self._lanes: dict[int, Lane] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup
        self._guard: tasks.Guard
        self._member: Member
        self._lookout = Lookout(taking=options.taking_limit, writing=options.hang_timeout)
        self._roles = {self._names.name(role): role for role in CommandTopic}
        self._assigned = False
        self._assignments = 0
        """How often the group has assigned partitions to this agent."""
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

    def trouble(self) -> str:
        """What is wrong with Kafka, in a sentence; empty where nothing is."""
        if self._assigned and self._member.silence > self._options.answer_limit:
            return f"no answer from Kafka for {self._member.silence:.0f}s"
        troubles = [t for lane in self._lanes.values() if lane.owner is not None and (t := lane.owner.trouble)]
        if not troubles:
            return ""
        oldest = min(troubles, key=lambda trouble: trouble.since)
        seconds = time.monotonic() - oldest.since
        return f"Kafka has not taken the writes of {len(troubles)} partitions for {seconds:.0f}s: {oldest.reason}"

    async def run(self, stop: asyncio.Event, grace: float, guard: tasks.Guard | None = None) -> None:
        """Consumes until `stop`, then stops in stages within `grace` seconds.

        What made it stop by itself is for the guard to tell; without one it is raised.
        """
        own = tasks.Guard(stop)
        guard = self._guard = guard or own
        self._member = self._new_member()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                consuming = group.create_task(guard.run(self._consume(), "intake"), name="intake")
                await stop.wait()
                self._stages.stop(grace)
                consuming.cancel()  # in a rebalance a poll may not return for long; nothing is polled any more
                await self._drain()
        finally:
            within = _LEAVE_SECONDS
            if self._stages.stopping:
                self._stages.enter(Stage.LEAVING)
                within = self._stages.left(Stage.LEAVING)
            await self._member.leave(within)
        own.check()

    def _new_member(self) -> Member:
        group = self._factory.identity.group
        arguments = self._factory.connection.options("intake")
        arguments |= self._options.consumer_arguments(group)
        consumer = AIOKafkaConsumer(**arguments)
        consumer.subscribe(topics=list(self._roles), listener=self)
        return Member(consumer, group, poll_ms=_POLL_MS)

    # --- what hangs ---

    async def _consume(self) -> None:
        """Polls as a member of the group, and as a new one where that hangs. Raises Hung where this does not help."""
        tries, pause = 0, _PAUSES[0]
        while True:
            began = time.monotonic()
            try:
                reason = await self._poll_until_it_hangs()
            except KafkaError as error:
                if not error.retriable:
                    raise
                await self._wait_for_kafka(error, pause)
                pause = min(2 * pause, _PAUSES[1])
                continue
            pause = _PAUSES[0]
            tries = tries + 1 if time.monotonic() - began < FORGET_SECONDS else 1
            if tries > TRIES:
                raise Hung(f"the agent can't stay in the consumer group: {reason}")
            _log.error("group.hung", reason=reason, remedy="joins the group anew")
            self._metrics.hung("member")
            await self._give_up_all()
            await self._renew_member()
            self._health.polled()

    async def _wait_for_kafka(self, error: KafkaError, pause: float) -> None:
        """A member could not join, since Kafka is away: this is no hang, and nothing else to be done about."""
        self._health.excuse(True)
        _log.warning("group.unreachable", reason=explain(error, connected=True), remedy="tries again")
        await self._renew_member()
        await asyncio.sleep(pause)

    async def _renew_member(self) -> None:
        await self._member.leave(_LEAVE_SECONDS)
        self._member = self._new_member()

    async def _poll_until_it_hangs(self) -> str:
        """Gives why it hangs. Raises KafkaError where the member can't join."""
        poller = Poller(
            self._member, self._lanes, self._roles, self._options, self._health, self._metrics, self._ends_before
        )
        polling = asyncio.create_task(poller.run(), name="poll")
        try:
            while True:
                await asyncio.wait([polling], timeout=_LOOK_SECONDS)
                if polling.cancelled():
                    return self._member.broken() or "a poll was cancelled by the Kafka client"
                if polling.done():
                    polling.result()
                reason = self._member.broken()
                if reason is not None:
                    return reason
                if poller.hangs():
                    if not await member.answers(self._factory.connection, self._factory.identity.group):
                        self._health.excuse(True)
                    elif (reason := poller.hangs()) is not None:  # it may have come back meanwhile
                        return reason
                self._look_at_lanes()
        finally:
            if not polling.done():
                await tasks.cancel_and_wait(polling)

    def _look_at_lanes(self) -> None:
        """Begins anew what hangs. Raises Hung where this does not help."""
        for number, reason in self._lookout.hung(self._lanes).items():
            _log.error("partition.hung", partition=number, reason=reason, remedy="begins it anew")
            self._metrics.hung("partition")
            self._give_up(number)
            self._open(number)

    async def _give_up_all(self) -> None:
        """The membership is lost, and with it all partitions: what runs gets a moment, what is queued is written."""
        self._assigned = False
        for lane in self._lanes.values():
            lane.hold_steps()
        if self._lanes:
            await self._supervisor.quiet(_REVOKE_GRACE)
            await self._written(_REVOKE_GRACE)
        for number in list(self._lanes):
            self._give_up(number)
        if self._leaving:
            await asyncio.wait(list(self._leaving.values()), timeout=self._options.hang_timeout)

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
            await self._written(_REVOKE_GRACE)
        for lane in self._lanes.values():
            lane.hold()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.rebalance_timeout / 2):
                for lane in list(self._lanes.values()):
                    await lane.settle()

    async def _written(self, within: float) -> bool:
        """Waits until what the steps led to is durable (a slot is free before that); whether it is."""
        try:
            async with asyncio.timeout(within):
                for lane in list(self._lanes.values()):
                    await lane.written()
        except TimeoutError:
            return False
        return True

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """The new set. No heartbeat is sent while this runs, so that all that takes time becomes a task."""
        self._member.joined()
        self._assignments += 1
        self._member.consumer.pause(*assigned)
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
                self._member.consumer.seek(TopicPartition(topic, lane.number), offset)
        lane.release()

    def _open(self, number: int) -> None:
        lane = Lane(
            number,
            supervisor=self._supervisor,
            # A membership for each writer: it is bound to the member id that the agent has when the writer begins.
            new_owner=lambda: self._factory.owner(number, lambda: self._membership(number)),
            source=self,
            max_bytes=self._options.max_command_bytes,
        )
        self._lanes[number] = lane
        former = self._leaving.get(number)
        self._tasks[number] = self._group.create_task(self._run_lane(lane, former), name=f"lane {number}")

    async def _run_lane(self, lane: Lane, former: asyncio.Task[None] | None) -> None:
        """A partition that comes back while its former lane still ends waits for that."""
        if former is not None:
            await asyncio.wait([former])
        await self._guard.run(lane.run(), f"lane {lane.number}")

    def _membership(self, number: int) -> GroupMembership:
        return GroupMembership(self._member.commits, self._names, number)

    def _give_up(self, number: int) -> None:
        del self._lanes[number]
        task = self._tasks.pop(number)
        task.cancel()
        former = self._leaving.get(number)
        if former is not None:  # who waits for what leaves means that nothing of the partition runs any more
            task = self._group.create_task(_ended(former, task), name=f"lanes {number}")
        self._leaving[number] = task
        task.add_done_callback(lambda done: self._left(number, done))

    def _left(self, number: int, task: asyncio.Task[None]) -> None:
        if self._leaving.get(number) is task:
            del self._leaving[number]

    async def seek(self, partition: int, restored: Restored) -> dict[CommandTopic, int]:
        """See `lane.Source`. A rebalance sets the consumer elsewhere: what was begun before it is done again."""
        while True:
            assignments = self._assignments
            known = await self._seek(partition, restored)
            if assignments == self._assignments:
                return known

    async def _seek(self, partition: int, restored: Restored) -> dict[CommandTopic, int]:
        known: dict[CommandTopic, int] = {}
        try:
            # Where an owner follows another at once the poll may not have seen yet that the lane takes nothing: what it
            # fetched after the seek would be passed over.
            self._member.consumer.pause(*(TopicPartition(topic, partition) for topic in self._roles))
            for topic, role in self._roles.items():
                tp = TopicPartition(topic, partition)
                offset = restored.resume_at(role, await self._member.consumer.committed(tp))
                # The embedded broker can't be asked where a topic ends.
                if offset is not None and self._factory.mode == "exactly_once" and await self._ends_before(tp, offset):
                    offset = None
                if offset is None:
                    await self._member.consumer.seek_to_beginning(tp)
                else:
                    self._member.consumer.seek(tp, offset)
                    known[role] = offset
        except (IllegalStateError, KafkaError) as error:
            raise OwnershipLost(f"the consumer can't be set to where partition {partition} goes on: {error}") from error
        return known

    async def _ends_before(self, tp: TopicPartition, offset: int) -> bool:
        """Whether the topic has become shorter than what was consumed of it: it was made anew, or lost records.

        Then all that is there is taken: ids make a repetition harmless, a command that is passed over is lost. A leader
        that was elected just now may not know yet how far the topic was committed, and tells an end that is too low
        (KIP-207): it is asked again before it is believed.
        """
        for _ in range(_END_QUESTIONS):
            end: int = (await self._member.consumer.end_offsets([tp]))[tp]
            if offset <= end:
                return False
            await asyncio.sleep(_END_PAUSE_SECONDS)
        _log.error("commands.topic_shorter", topic=tp.topic, partition=tp.partition, expected=offset, end=end)
        return True

    # --- the end ---

    async def _drain(self) -> None:
        """The stop's stages but the last, see `telemetry.stages`. Each is bounded, whatever Kafka or a step does."""
        stages, supervisor = self._stages, self._supervisor
        self._draining = True
        stages.enter(Stage.REFUSING)
        for lane in self._lanes.values():
            lane.refuse()
        stages.enter(Stage.DRAINING, running=supervisor.running)
        quiet = await supervisor.quiet(min(_MOMENT, stages.left(Stage.DRAINING)))
        if not quiet:
            supervisor.part(Parting.WAITS)
            quiet = await supervisor.quiet(stages.left(Stage.DRAINING))
        if not quiet:
            stages.enter(Stage.INTERRUPTING, running=supervisor.running)
            supervisor.part(Parting.ALL)
            await supervisor.quiet(stages.left(Stage.INTERRUPTING))
        stages.enter(Stage.FLUSHING, running=supervisor.running)
        written = await self._written(stages.left(Stage.FLUSHING) / 2)
        ending = [*self._tasks.values(), *self._leaving.values()]  # the latter end already: don't disturb them
        for lane in self._lanes.values():
            # One that is held could not be written so far, and is when the lane ends.
            lane.end_within(stages.left(Stage.FLUSHING) / 2 if written or lane.held else 0.0)
        for task in self._tasks.values():
            task.cancel()
        if ending:
            await asyncio.wait(ending, timeout=stages.left(Stage.FLUSHING))
        if not written:
            _log.warning("agent.unwritten", reason=self.trouble() or "Kafka took too long", effect=_UNWRITTEN)


async def _ended(*ending: asyncio.Task[None]) -> None:
    await asyncio.wait(ending)
