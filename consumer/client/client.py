"""All that a client can ask for, by one object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from consumer.audit.checkpoint import Checkpoint
from consumer.audit.findings import Report
from consumer.client.audits import Auditor, Window
from consumer.client.dead_letters import DeadLetters
from consumer.client.errors import TimedOut
from consumer.client.follow import Follower, Since
from consumer.client.partitions import count_partitions, partition_of
from consumer.client.publish import Publisher, new_execution_id
from consumer.client.read import CLOCK_SKEW, Filter, History, Listing, list_states, read_history, read_state
from consumer.client.registry import Registry
from consumer.client.replayed import ReplayedEvent
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.ports import CommandTopic
from schemas.events import Event
from schemas.execution import ExecutionState

if TYPE_CHECKING:
    from consumer.policy.signing import SigningKey


class Client:
    """Reads and follows executions, and makes publishers. Opens connections for each call; holds none."""

    def __init__(self, connection: KafkaConnection, topics: TopicNames, *, sign_key: SigningKey | None = None) -> None:
        self.connection = connection
        self.topics = topics
        self._sign_key = sign_key

    def publisher(self) -> Publisher:
        """A context manager that writes commands, signed where the client has a key."""
        return Publisher(self.connection, self.topics, sign_key=self._sign_key)

    async def id_beside(self, execution_id: str) -> str:
        """A new id whose commands lie on the same partition: for a command that names that execution's dry run."""
        names = [self.topics.name(topic) for topic in CommandTopic]
        partitions = await count_partitions(self.connection, names)
        wanted = partition_of(execution_id, partitions)
        return next(name for name in iter(new_execution_id, "") if partition_of(name, partitions) == wanted)

    def follower(self, execution_id: str, *, since: Since = "beginning", partition: int | None = None) -> Follower:
        """A context manager that gives an execution's events; enter it before you publish."""
        return Follower(self.connection, self.topics, execution_id, since=since, partition=partition)

    async def follow(self, execution_id: str) -> AsyncGenerator[Event, None]:
        """All events of the execution in order, those to come too, until it is over."""
        async with self.follower(execution_id, since=await self.beginning(execution_id)) as follower:
            async with aclosing(follower.events()) as events:
                async for event in events:
                    yield event

    async def beginning(self, execution_id: str) -> Since:
        """Since when its events must be read: shortly before its acceptance where the state topic knows it."""
        return since_of(await read_state(self.connection, self.topics, execution_id))

    async def result(self, execution_id: str, timeout: float | None = None) -> ExecutionState:
        """The execution's state at its end, which may be long past or to come. Raises TimedOut after `timeout` s."""
        state = await read_state(self.connection, self.topics, execution_id)
        if state is not None and state.over:
            return state
        async with self.follower(execution_id, since=since_of(state)) as follower:
            try:
                async with asyncio.timeout(timeout), aclosing(follower.events()) as events:
                    async for _ in events:
                        pass
            except TimeoutError as error:
                status = follower.state.status if follower.state else None
                raise TimedOut(
                    f"execution {execution_id} did not end within {timeout:g} s"
                    + (f"; it is {status}" if status else "; no agent has answered: does one run?")
                ) from error
            assert follower.state is not None, "the events end with a state"
            return follower.state

    async def status(self, execution_id: str) -> ExecutionState:
        """The newest state; from the events where the state topic forgot it. Raises UnknownExecution."""
        state = await read_state(self.connection, self.topics, execution_id)
        if state is not None:
            return state
        return (await read_history(self.connection, self.topics, execution_id)).state

    async def history(self, execution_id: str) -> History:
        """The execution's events that the topics hold now. Raises UnknownExecution."""
        state = await read_state(self.connection, self.topics, execution_id)
        accepted = state.accepted_at if state else None
        return await read_history(self.connection, self.topics, execution_id, since=accepted)

    async def executions(self, wanted: Filter | None = None, *, most: int | None = None) -> Listing:
        """The executions that the state topic knows, newest first; `most`: so many of them, where memory counts."""
        return await list_states(self.connection, self.topics, wanted or Filter(), most)

    async def verify(
        self, window: Window | None = None, *, strict: bool = False, checkpoint: Checkpoint | None = None
    ) -> Report:
        """Verifies the trail: its hash chains, and that nothing is missing, foreign or cut off; see docs/audit.md.

        `strict`: the agents ran with exactly_once all the time, so that no record may be doubled or void.
        `checkpoint`: what lies before it must still be what it was then; raises CheckpointError where it is of another
        trail, or the window has times.
        """
        return await Auditor(self.connection, self.topics, strict=strict, checkpoint=checkpoint).verify(window)

    async def checkpoint(self) -> tuple[Report, Checkpoint]:
        """Verifies all of the trail; what was found, and what the trail is now: sign it where the report holds."""
        return await Auditor(self.connection, self.topics).checkpoint()

    async def replay(self, window: Window | None = None) -> AsyncGenerator[ReplayedEvent, None]:
        """All events of the window that hold, over all executions in the order of time, each execution's in sequence.

        Only what the topics hold now; to go on with what comes, follow an execution.
        """
        async with aclosing(Auditor(self.connection, self.topics).replay(window)) as events:
            async for event in events:
                yield event

    def registry(self) -> Registry:
        """The packages that commands may name: publishing one, and what there is."""
        return Registry(self.connection, self.topics)

    def dead_letters(self) -> DeadLetters:
        """The records that no agent could understand, and sending one again."""
        return DeadLetters(self.connection, self.topics)


def since_of(state: ExecutionState | None) -> Since:
    """A moment before the first event of that execution."""
    return state.accepted_at - CLOCK_SKEW if state is not None and state.accepted_at else "beginning"
