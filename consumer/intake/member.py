"""The agent's place in the consumer group: one client of aiokafka, and what must be known of its inside.

aiokafka works in tasks of its own. One that died is told at the next poll at best, and a member without a heartbeat is
thrown out and never comes back: whoever polls asks `broken` from time to time, and makes a new member where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

from consumer import tasks
from consumer.journal.connection import KafkaConnection
from consumer.journal.membership import GroupCommits

_log = structlog.get_logger(__name__)
_POLL_RECORDS = 1000
#: How long Kafka may take to answer who coordinates the group (seconds).
_ANSWER_SECONDS = 10.0
#: The parts of aiokafka's consumer that work in the background: where it is, and the name of its task.
_BACKGROUND = (
    ("_coordinator", "_coordination_task"),
    ("_coordinator", "_heartbeat_task"),
    ("_fetcher", "_fetch_task"),
    ("_client", "_sync_task"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the agent consumes; seconds and bytes."""

    session_timeout: float
    fetch_max_wait_ms: int
    max_command_bytes: int
    hang_timeout: float = 60.0
    """A part that has something to do and makes no progress for so long hangs."""
    start_timeout: float = 60.0
    """So long may Kafka let an owner's writer wait for its start."""

    @property
    def rebalance_timeout(self) -> float:
        """How long the group waits for its members when it is rebalanced."""
        return max(self.session_timeout, 25.0)

    @property
    def poll_limit(self) -> float:
        """The longest silence of a poll that may have a reason: a rebalance, of which each member takes its time."""
        return self.hang_timeout + self.rebalance_timeout

    @property
    def taking_limit(self) -> float:
        """How long the taking of a partition may go without progress. Its parts are bounded by themselves, so that this
        is far off: what was read is lost where it is begun anew."""
        return max(10 * self.hang_timeout, 2 * (self.hang_timeout + self.start_timeout))

    @property
    def answer_limit(self) -> float:
        """How long the group's coordinator may be silent before that is told; some heartbeats may be late."""
        return max(5.0, self.session_timeout / 3)

    def consumer_arguments(self, group: str) -> dict[str, object]:
        """The consumer's settings. The relations matter: heartbeat < session / 3, rebalance < request (KIP-62)."""
        session = int(self.session_timeout * 1000)
        rebalance = int(self.rebalance_timeout * 1000)
        return {
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",  # only after an explicit seek has found its offset gone
            "isolation_level": "read_committed",
            "partition_assignment_strategy": [RangePartitionAssignor],  # one partition number of all topics together
            "session_timeout_ms": session,
            # By its answer a member learns of a rebalance: so long is the pause when another agent stops or starts.
            "heartbeat_interval_ms": max(100, min(1000, session // 10)),
            "rebalance_timeout_ms": rebalance,
            "request_timeout_ms": rebalance + 15_000,
            "fetch_max_wait_ms": self.fetch_max_wait_ms,
            "max_partition_fetch_bytes": 2 << 20,
        }


class Member:
    """One membership of the group by a consumer of its own; `start` it, and `leave` in any case."""

    def __init__(self, consumer: AIOKafkaConsumer, group: str, *, poll_ms: int = 100) -> None:
        self.consumer = consumer
        self.commits = GroupCommits(consumer)
        self._group = group
        self._poll_ms = poll_ms
        self._answered = self._now()
        self._leaving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Joins the group; may take as long as a rebalance."""
        await self.consumer.start()

    async def poll(self) -> Mapping[TopicPartition, Sequence[ConsumerRecord]]:
        """What was fetched; returns within a moment, but for a rebalance. Raises KafkaError."""
        batches: Mapping[TopicPartition, Sequence[ConsumerRecord]] = await self.consumer.getmany(
            timeout_ms=self._poll_ms, max_records=_POLL_RECORDS
        )
        return batches

    def joined(self) -> None:
        """The group gave this member its partitions; heartbeats begin after that."""
        self._answered = self._now()
        coordinator = getattr(self.consumer, "_coordinator", None)
        if coordinator is None or "_do_heartbeat" in vars(coordinator) or not hasattr(coordinator, "_do_heartbeat"):
            return
        beat = coordinator._do_heartbeat

        async def noted() -> bool:
            took = bool(await beat())
            if took:
                self._answered = self._now()
            return took

        coordinator._do_heartbeat = noted

    @property
    def silence(self) -> float:
        """How long ago (seconds) the group's coordinator last answered; tells something between rebalances only."""
        return self._now() - self._answered

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def broken(self) -> str | None:
        """Which of the client's own tasks has ended, so that it never will work again."""
        for part, name in _BACKGROUND:
            task: asyncio.Task[object] | None = getattr(getattr(self.consumer, part, None), name, None)
            if task is None or not task.done():
                continue
            error = None if task.cancelled() else task.exception()
            if name == "_heartbeat_task" and error is None and not task.cancelled():
                continue  # so it ends when the member has to join anew
            reason = f"{type(error).__name__}: {error}"[:300] if error else "it was cancelled or returned"
            return f"the Kafka client's {name.strip('_').replace('_', ' ')} ended: {reason}"
        return None

    async def leave(self, within: float) -> None:
        """Leaves the group, within that time (seconds) and a little. Does not raise KafkaError.

        A member that is just joining waits for the others' answers: it says goodbye on another connection then. Who is
        cancelled meanwhile, or calls it again, does not disturb that.
        """
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave(within), name="leave")
        await asyncio.shield(self._leaving)

    async def _leave(self, within: float) -> None:
        leaving = asyncio.create_task(self.consumer.stop(), name="stop")
        await asyncio.wait([leaving], timeout=within / 2)
        if not leaving.done():
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(within / 4):
                    await self._say_goodbye()
            await tasks.cancel_and_wait(leaving)
            await self._cut_off(within / 4)
        elif leaving.cancelled() or leaving.exception() is not None:
            # Cancelled by itself: aiokafka awaits fetches that it has just cancelled, and what is raised ends its stop.
            reason = "the Kafka client cancelled its own stop" if leaving.cancelled() else repr(leaving.exception())
            _log.warning("group.left_in_disorder", error=reason[:300])
            await self._cut_off(within / 4)

    async def _say_goodbye(self) -> None:
        coordinator = self.consumer._coordinator
        node = getattr(coordinator, "coordinator_id", None)
        member = getattr(coordinator, "member_id", "")
        if node is None or not member:
            _log.warning("group.left_unanswered", reason="the group's coordinator is not known")
            return
        await self.consumer._client.send(node, LeaveGroupRequest(self._group, member))

    async def _cut_off(self, within: float) -> None:
        """Ends the client's parts one by one. Each in a task: its own cancellations must not end what comes after."""
        coordinator, fetcher = self.consumer._coordinator, self.consumer._fetcher
        if coordinator is not None:
            names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task")
            mine = [task for name in names if (task := getattr(coordinator, name, None)) is not None]
            await tasks.cancel_and_wait(*mine)
        if fetcher is not None:
            await tasks.cancel_and_wait(fetcher._fetch_task, *fetcher._pending_tasks)
        closing = asyncio.create_task(self.consumer._client.close(), name="close")
        await asyncio.wait([closing], timeout=within)
        await tasks.cancel_and_wait(closing)


async def answers(connection: KafkaConnection, group: str) -> bool:
    """Whether Kafka tells a new client who coordinates the group: then an old client that gets no answer hangs."""
    client = AIOKafkaClient(**connection.options("probe"), request_timeout_ms=int(_ANSWER_SECONDS * 1000))
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await client.bootstrap()
            node = await client.coordinator_lookup(CoordinationType.GROUP, group)
            return bool(await client.ready(node))
    except Exception:  # whatever it is, this is no answer
        return False
    finally:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await client.close()
