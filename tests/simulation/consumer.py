"""A stand-in for aiokafka's consumer, as far as the agent uses it: the same errors at the same places.

Its group membership follows aiokafka 0.14: the revocation's callback is awaited while heartbeats go on, a commit that
is refused resets the member, and a closed consumer ends its rebalance first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from tests.simulation.groups import Assignment, Joined, ranges
from tests.simulation.log import Entry, Fetched
from tests.simulation.loop import current
from tests.simulation.producer import cluster

Result = TypeVar("Result")
_BACKOFF = 0.1
_EVICTED = (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError)


class _Coordinator:
    """What `GroupMembership` and `Member` look into."""

    def __init__(self) -> None:
        self.member_id = ""
        self.generation = -1
        self.coordinator_id = 1
        self._coordination_task: asyncio.Task[None] | None = None
        self._heartbeat_task: asyncio.Task[None] | None = None


class _Client:
    """What `Member` leaves the group by where the consumer itself does not get to it."""

    def __init__(self, consumer: SimConsumer) -> None:
        self._consumer = consumer

    async def send(self, node: int, request: object) -> None:
        await self._consumer.say_goodbye()

    async def close(self) -> None:
        pass


class SimClient:
    """As AIOKafkaClient: asks whether Kafka answers."""

    def __init__(self, **options: Any) -> None:
        self._network = cluster.get().network

    async def bootstrap(self) -> None:
        await self._network.call(lambda: None)

    async def coordinator_lookup(self, kind: object, key: str) -> int:
        return await self._network.call(lambda: 1)

    async def ready(self, node: int) -> bool:
        return await self._network.call(lambda: True)

    async def close(self) -> None:
        pass


class SimConsumer:
    """As AIOKafkaConsumer, with `assign` or with `subscribe`; fetches when it is asked."""

    def __init__(self, **options: Any) -> None:
        self._cluster = cluster.get()
        self._network = self._cluster.network
        self._loop = self._cluster.loop
        self._session: float = options.get("session_timeout_ms", 10_000) / 1000
        self._rebalance: float = options.get("rebalance_timeout_ms", 30_000) / 1000
        self._group: str | None = options.get("group_id")
        self._coordinator = _Coordinator()
        self._client = _Client(self)
        self._fetcher = None
        self._topics: list[str] = []
        self._listener: Any = None
        self._positions: dict[TopicPartition, int | None] = {}
        """The assignment, and where each partition goes on."""
        self._paused: set[TopicPartition] = set()
        self._fetched: dict[TopicPartition, Fetched] = {}
        self._assigned_once = asyncio.Event()
        self._rejoin = asyncio.Event()
        self._closing = False
        self._in_rebalance = False
        self._data: asyncio.Future[None] | None = None

    # --- assignment ---

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._take(partitions)

    def subscribe(self, topics: list[str], listener: Any) -> None:
        self._topics, self._listener = list(topics), listener

    async def start(self) -> None:
        if self._listener is None:
            await self._network.call(lambda: None)
        else:  # the first connection may fail too, and ends the process then; its next start is the same again
            await self._patiently(lambda: None)
            self._rejoin.set()
            self._coordinator._coordination_task = self._loop.create_task(self._coordinate(), name="coordination")
            await self._assigned_once.wait()

    async def stop(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._rejoin.set()
        self._forget()
        if self._coordinator._coordination_task is not None:
            await asyncio.wait([self._coordinator._coordination_task])
        await self._stop_heart()
        if self._coordinator.generation > 0:
            with contextlib.suppress(KafkaError):
                await self.say_goodbye()
            self._reset()

    async def say_goodbye(self) -> None:
        """LeaveGroup."""
        await self._network.call(partial(self._cluster.group.leave, self._coordinator.member_id))

    def assignment(self) -> set[TopicPartition]:
        return set(self._positions)

    def paused(self) -> set[TopicPartition]:
        return set(self._paused)

    def pause(self, *partitions: TopicPartition) -> None:
        self._check(*partitions)
        self._paused.update(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self._check(*partitions)
        self._paused.difference_update(partitions)
        self._poke()

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._check(tp)
        self._positions[tp] = offset
        self._poke()

    async def seek_to_beginning(self, tp: TopicPartition) -> None:
        self._check(tp)
        self._positions[tp] = 0
        self._poke()

    async def position(self, tp: TopicPartition) -> int:
        self._check(tp)
        found = self._positions[tp]
        assert found is not None
        return found

    def highwater(self, tp: TopicPartition) -> int | None:
        return self._fetched[tp].end if tp in self._fetched else None

    def last_stable_offset(self, tp: TopicPartition) -> int | None:
        return self._fetched[tp].stable if tp in self._fetched else None

    # --- data ---

    async def getmany(self, *, timeout_ms: float, max_records: int | None = None) -> dict[TopicPartition, list[Entry]]:
        until = self._loop.time() + timeout_ms / 1000
        while True:
            found = await self._fetch(max_records or 500)
            left = until - self._loop.time()
            if found or left <= 0:
                return found
            data = self._data = self._loop.create_future()
            timer = self._loop.call_later(left, self._poke)
            try:
                if not self._more_there():
                    await data
            finally:
                timer.cancel()

    def _wanted(self) -> dict[TopicPartition, int]:
        if self._in_rebalance or self._closing:
            return {}
        positions = self._positions.items()
        return {tp: at for tp, at in positions if at is not None and tp not in self._paused}

    def _more_there(self) -> bool:
        logs = self._cluster.logs
        return any(logs[tp].stable > at for tp, at in self._wanted().items())

    async def _reset_positions(self) -> None:
        """Where nobody seeked, it goes on at the committed offset, or at the beginning (`earliest`)."""
        unset = [tp for tp, at in self._positions.items() if at is None and tp not in self._paused]
        if unset and not self._in_rebalance and not self._closing:
            offsets = self._cluster.group.offsets
            found = await self._patiently(lambda: {tp: offsets.get((tp.topic, tp.partition), 0) for tp in unset})
            for tp, offset in found.items():
                if tp in self._positions and self._positions[tp] is None:
                    self._positions[tp] = offset

    async def _fetch(self, most: int) -> dict[TopicPartition, list[Entry]]:
        await self._reset_positions()
        wanted = self._wanted()
        if not wanted or (all(tp in self._fetched for tp in wanted) and not self._more_there()):
            return {}
        logs = self._cluster.logs
        try:
            answers = await self._network.call(lambda: {tp: logs[tp].read(at, most) for tp, at in wanted.items()})
        except KafkaError:
            await asyncio.sleep(_BACKOFF)
            return {}
        found: dict[TopicPartition, list[Entry]] = {}
        for tp, answer in answers.items():
            if self._positions.get(tp, -1) != wanted[tp] or tp in self._paused:
                continue  # it was seeked, revoked or paused meanwhile
            self._positions[tp] = answer.position
            self._fetched[tp] = answer
            if answer.records:
                found[tp] = answer.records
        return found

    def _poke(self) -> None:
        if self._data is not None and not self._data.done():
            self._data.set_result(None)

    def _heard(self) -> None:
        """A broker has more: who waits for data is told a little later."""
        self._loop.at_world(self._network.latency * self._loop.random.random(), self._poke)

    def _take(self, partitions: Iterable[TopicPartition]) -> None:
        self._forget()
        self._positions = dict.fromkeys(sorted(partitions))
        for tp in self._positions:
            self._cluster.logs[tp].listeners[self] = self._heard
        self._poke()

    def _forget(self) -> None:
        for tp in self._positions:
            self._cluster.logs[tp].listeners.pop(self, None)
        self._positions, self._fetched = {}, {}
        self._paused.clear()

    def _check(self, *partitions: TopicPartition) -> None:
        for tp in partitions:
            if tp not in self._positions:
                raise IllegalStateError(f"partition {tp} is not assigned")

    # --- offsets ---

    async def committed(self, tp: TopicPartition) -> int | None:
        return await self._patiently(lambda: self._cluster.group.offsets.get((tp.topic, tp.partition)))

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._patiently(lambda: dict.fromkeys(partitions, 0))

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._patiently(lambda: {tp: self._cluster.logs[tp].end for tp in partitions})

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._check(*offsets)
        places = {(tp.topic, tp.partition): offset for tp, offset in offsets.items()}
        while True:
            mine = self._coordinator
            request = partial(self._cluster.group.commit, mine.member_id, mine.generation, places)
            try:
                await self._network.call(request)
            except _EVICTED as error:
                if isinstance(error, RebalanceInProgressError):
                    self._rejoin.set()
                else:
                    self._reset()
                raise CommitFailedError("the group has already rebalanced") from error
            except KafkaError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(_BACKOFF)
            else:
                return

    async def _patiently(self, request: Callable[[], Result]) -> Result:
        while True:
            try:
                return await self._network.call(request)
            except KafkaError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(_BACKOFF)

    # --- the group ---

    async def _coordinate(self) -> None:
        prepared = False
        while not self._closing:
            if not self._rejoin.is_set():
                await self._rejoin.wait()
                continue
            if not prepared:
                self._in_rebalance = True
                self._loop.note(f"{current.get().name}: revoked")
                await self._listener.on_partitions_revoked(self.assignment())
                prepared = True
            await self._stop_heart()
            if self._closing:
                return
            assignment = await self._join()
            if assignment is None:
                await asyncio.sleep(_BACKOFF)
                continue
            prepared = False
            self._begin(assignment)

    def _begin(self, assignment: Assignment) -> None:
        if self._closing:
            return
        self._take(TopicPartition(*place) for place in assignment)
        self._in_rebalance = False
        self._loop.note(f"{current.get().name}: assigned {sorted({number for _, number in assignment})}")
        self._listener.on_partitions_assigned(self.assignment())
        self._assigned_once.set()
        self._coordinator._heartbeat_task = self._loop.create_task(self._beat(), name="heartbeat")

    async def _join(self) -> Assignment | None:
        mine, group = self._coordinator, self._cluster.group
        patience = self._rebalance + 5.0
        self._rejoin.clear()
        former = mine.member_id
        try:
            joined: Joined = await self._network.ask(
                lambda reply: group.join(former, self._session, self._rebalance, reply), patience
            )
            mine.member_id, mine.generation = joined.member, joined.generation
            plan = ranges(joined.members, self._topics, self._cluster.partitions) if joined.members else {}
            assignment: Assignment = await self._network.ask(
                lambda reply: group.sync(joined.member, joined.generation, plan, reply), patience
            )
        except (UnknownMemberIdError, IllegalGenerationError):
            self._reset()
            return None
        except KafkaError:
            self._rejoin.set()
            return None
        return assignment

    async def _beat(self) -> None:
        mine, group = self._coordinator, self._cluster.group
        pause = self._session / 3
        while mine.member_id:
            await asyncio.sleep(pause)
            try:
                await self._network.call(partial(group.heartbeat, mine.member_id, mine.generation))
            except RebalanceInProgressError:
                self._rejoin.set()
            except (UnknownMemberIdError, IllegalGenerationError):
                self._reset()
            except KafkaError:
                continue

    async def _stop_heart(self) -> None:
        heart, self._coordinator._heartbeat_task = self._coordinator._heartbeat_task, None
        if heart is not None and not heart.done():
            heart.cancel()
            await asyncio.wait([heart])

    def _reset(self) -> None:
        self._coordinator.member_id, self._coordinator.generation = "", -1
        self._rejoin.set()
