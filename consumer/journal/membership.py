"""Proof that this agent still is the group's member for a partition: a commit that the group's coordinator takes.

An offset commit carries the generation and the member's id, and the coordinator refuses it from anyone who is no longer
a member. The at_least_once writer asks for it with every batch; the exactly_once writer, which has the broker's
fencing, only before it starts: who is no member must not fence the one who is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from consumer.errors import AgentError
from consumer.journal.topics import TopicNames
from consumer.ports import CommandTopic

#: Commits the next offsets to be consumed; an empty mapping commits again what is committed. Raises MembershipLost.
Commit = Callable[[Mapping[CommandTopic, int]], Awaitable[None]]


class MembershipLost(AgentError):
    """The agent is not, or can't be proven to be, the group's member for the partition."""


@dataclass(slots=True, eq=False)
class _Round:
    """Offsets that are committed together."""

    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    begun: bool = False
    taken: bool = False
    failure: KafkaError | None = None


class GroupCommits:
    """The commits of one consumer: those that wait while one is under way go together as the next.

    A consumer has one commit under way at a time, and in at_least_once each write of each partition ends in one.
    """

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self.consumer = consumer
        self._turn = asyncio.Lock()
        self._next = _Round()

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Returns once the coordinator took these. Raises as the consumer's own `commit`."""
        mine = self._next
        mine.offsets.update(offsets)
        try:
            async with self._turn:
                if not mine.begun:
                    await self._commit(mine)
        except asyncio.CancelledError:
            if not mine.begun:  # who asked is gone: nobody else says that these were consumed
                for place in offsets:
                    mine.offsets.pop(place, None)
            raise
        if mine.taken:
            return
        if mine.failure is not None and not isinstance(mine.failure, IllegalStateError):
            raise mine.failure
        # One of the others' partitions is not this consumer's any more, or who committed for all was cancelled.
        await self.consumer.commit(dict(offsets))

    async def _commit(self, mine: _Round) -> None:
        mine.begun = True
        self._next = _Round()
        try:
            await self.consumer.commit(mine.offsets)
        except KafkaError as error:
            mine.failure = error
        else:
            mine.taken = True


class GroupMembership:
    """A `Commit` by the consumer that is subscribed to the command topics.

    Bound to the member id the consumer has at first: one that was thrown out of the group comes back under another id,
    and others may have owned the partition meanwhile, whatever it owns now.
    """

    def __init__(self, commits: GroupCommits, names: TopicNames, partition: int) -> None:
        self._commits = commits
        self._consumer = commits.consumer
        self._member = self._member_id()
        self._partitions = {topic: TopicPartition(names.name(topic), partition) for topic in CommandTopic}
        self._committed: dict[TopicPartition, int] = {}

    async def __call__(self, offsets: Mapping[CommandTopic, int]) -> None:
        self._check_member()  # before anything else: a consumer that was stopped must not be asked
        wanted = {self._partitions[topic]: offset for topic, offset in offsets.items()}
        try:
            await self._commits.commit(wanted or await self._present())
        except CommitFailedError as error:
            raise MembershipLost("the group was rebalanced without this agent") from error
        except IllegalStateError as error:
            raise MembershipLost("the partition is not assigned to this agent") from error
        except KafkaError as error:
            raise MembershipLost(f"the group's coordinator took no commit: {error}") from error
        self._check_member()
        self._committed |= wanted

    async def _present(self) -> dict[TopicPartition, int]:
        """One offset that may be committed without changing what will be consumed."""
        for tp, offset in self._committed.items():
            return {tp: offset}
        for tp in self._partitions.values():
            offset = await self._consumer.committed(tp)
            if offset is not None:
                self._committed[tp] = offset
                return {tp: offset}
        first = self._partitions[CommandTopic.EXECUTE]
        beginnings = await self._consumer.beginning_offsets([first])
        return {first: beginnings[first]}

    def _check_member(self) -> None:
        if self._member_id() != self._member:
            raise MembershipLost("this agent was thrown out of the group and came back as a new member")

    def _member_id(self) -> str:
        """aiokafka has no public name for it."""
        coordinator = self._consumer._coordinator
        return str(getattr(coordinator, "member_id", ""))
