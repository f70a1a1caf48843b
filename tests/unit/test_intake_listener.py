"""What a rebalance may and may not do to the place where a partition's commands are read on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from prometheus_client import CollectorRegistry

from consumer.intake import listener as listener_module
from consumer.intake.listener import Listener, Options
from consumer.journal.restore import Restored
from consumer.journal.topics import TopicNames
from consumer.ports import CommandTopic
from consumer.tasks import Guard
from consumer.telemetry.metrics import Metrics
from tests.support.eventually import eventually

EXECUTE = TopicPartition("wpk.commands.execute", 0)


class Rebalanced:
    """A consumer whose group is rebalanced while it is asked for a committed offset for the `at`th time."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.asked = 0
        self.positions: dict[TopicPartition, int | None] = {}
        self.paused: set[TopicPartition] = set()
        self.listener: Listener

    async def committed(self, tp: TopicPartition) -> int | None:
        self.asked += 1
        if self.asked == self.at:
            self.positions.clear()  # aiokafka forgets them with the former assignment
            self.paused.clear()
            self.listener.on_partitions_assigned([])
        return None

    async def seek_to_beginning(self, tp: TopicPartition) -> None:
        self.positions[tp] = None

    def seek(self, tp: TopicPartition, offset: int) -> None:
        assert tp in self.paused, "what is fetched between a seek and the pause would be passed over"
        self.positions[tp] = offset

    def pause(self, *partitions: TopicPartition) -> None:
        self.paused |= set(partitions)


async def test_a_rebalance_in_the_middle_of_a_seek_has_it_done_again() -> None:
    consumer = Rebalanced(at=2)
    listener = Listener(
        SimpleNamespace(names=TopicNames("wpk"), mode="at_least_once"),  # type: ignore[arg-type]
        SimpleNamespace(on_room=lambda callback: None),  # type: ignore[arg-type]
        Options(session_timeout=10, fetch_max_wait_ms=100, max_command_bytes=1000),
        Metrics(CollectorRegistry()),
        SimpleNamespace(),  # type: ignore[arg-type]
    )
    listener._member = SimpleNamespace(consumer=consumer, joined=lambda: None)  # type: ignore[assignment]
    consumer.listener = listener
    restored = Restored(epoch=1, state={}, offsets={CommandTopic.EXECUTE: 33})

    known = await listener.seek(0, restored)

    assert known == {CommandTopic.EXECUTE: 33}
    assert consumer.positions[EXECUTE] == 33


async def test_nothing_of_a_partition_is_taken_before_all_of_its_former_lanes_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[str] = []

    async def runs(name: str, may_end: asyncio.Event) -> None:
        begun.append(name)
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()

    first_may_end = asyncio.Event()
    lanes = iter(["first", "second", "third"])

    def new_lane(number: int, **rest: object) -> SimpleNamespace:
        name = next(lanes)
        return SimpleNamespace(number=number, run=lambda: runs(name, first_may_end))

    monkeypatch.setattr(listener_module, "Lane", new_lane)
    listener = Listener(
        SimpleNamespace(names=TopicNames("wpk"), mode="exactly_once"),  # type: ignore[arg-type]
        SimpleNamespace(on_room=lambda callback: None),  # type: ignore[arg-type]
        Options(session_timeout=10, fetch_max_wait_ms=100, max_command_bytes=1000),
        Metrics(CollectorRegistry()),
        SimpleNamespace(),  # type: ignore[arg-type]
    )
    listener._guard = Guard(asyncio.Event())
    async with asyncio.TaskGroup() as listener._group:
        listener._open(0)
        await eventually(lambda: begun == ["first"])
        listener._give_up(0)
        listener._open(0)
        listener._give_up(0)  # before its task has made a step
        listener._open(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert begun == ["first"]
        first_may_end.set()
        await eventually(lambda: begun == ["first", "third"])
        listener._give_up(0)
    assert listener._guard.failure is None
    assert listener._leaving == {}


async def test_a_stop_in_a_rebalance_still_gives_what_is_queued_its_time() -> None:
    graces: dict[str, float] = {}

    class Unwritten:
        def __init__(self, name: str, *, held: bool) -> None:
            self.name, self.held, self.owner = name, held, None

        def refuse(self) -> None:
            pass

        async def written(self) -> None:
            await asyncio.Event().wait()  # Kafka does not take it now

        def end_within(self, seconds: float) -> None:
            graces[self.name] = seconds

    async def quiet(within: float) -> bool:
        return True

    listener = Listener(
        SimpleNamespace(names=TopicNames("wpk"), mode="at_least_once"),  # type: ignore[arg-type]
        SimpleNamespace(on_room=lambda callback: None, quiet=quiet, running=0),  # type: ignore[arg-type]
        Options(session_timeout=10, fetch_max_wait_ms=100, max_command_bytes=1000),
        Metrics(CollectorRegistry()),
        SimpleNamespace(),  # type: ignore[arg-type]
    )
    listener._lanes = {0: Unwritten("held", held=True), 1: Unwritten("free", held=False)}  # type: ignore[dict-item]
    listener._stages.stop(2.0)
    await listener._drain()
    assert graces["held"] > 0, "it is written when the lane ends, which lets go of the hold first"
    assert graces["free"] == 0
