"""One partition on an agent: what is taken first, what waits, and what a lost owner means."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from consumer.adapters.delay import DelayAdapter
from consumer.clock import SystemClock
from consumer.engine.services import Limits, Services
from consumer.engine.supervisor import Supervisor, supervising
from consumer.errors import OwnershipLost
from consumer.intake import inbox
from consumer.intake.decode import RawRecord
from consumer.intake.inbox import QUEUE_RECORDS
from consumer.intake.lane import Lane
from consumer.journal.owner import Stats, Trouble
from consumer.journal.restore import Restored
from consumer.policy.load import OPEN
from consumer.ports import CommandTopic, Journal, Record, Topic
from consumer.telemetry.metrics import Metrics
from schemas import events
from tests.support.eventually import eventually
from tests.support.memory_journal import Log, MemoryJournal


class MemoryOwner(MemoryJournal):
    """A journal in memory with an owner's life."""

    opened = 0
    trouble: Trouble | None = None
    backlogged = False

    def __init__(self, partition: int, epoch: int, *, log: Log | None = None) -> None:
        super().__init__(partition, epoch, log=log)
        self.stats = Stats()

    async def open(self) -> Restored:
        self.opened += 1
        return Restored(epoch=self.epoch, state=dict(self.state), offsets=self.offsets)

    async def idle(self) -> None:
        pass

    async def close(self, *, grace: float = 10.0) -> None:
        await asyncio.sleep(0)
        self.kill("closed")


@dataclass
class Sought:
    """The consumer's side: where the lane set it to."""

    offsets: list[Mapping[CommandTopic, int]] = field(default_factory=list)
    refuse: int = 0

    async def seek(self, partition: int, restored: Restored) -> Mapping[CommandTopic, int]:
        if self.refuse:
            self.refuse -= 1
            raise OwnershipLost("not assigned any more")
        self.offsets.append(restored.offsets)
        return restored.offsets


@dataclass
class Bench:
    lane: Lane
    source: Sought
    owners: list[MemoryOwner]
    supervisor: Supervisor

    @property
    def owner(self) -> MemoryOwner:
        return self.owners[-1]

    def push(self, role: CommandTopic, offset: int, body: object, *, at: int = 0) -> None:
        value = json.dumps(body).encode()
        self.lane.push(
            RawRecord(role=role, topic=role.value, partition=0, offset=offset, timestamp_ms=at, key=None, value=value)
        )

    def execute(self, offset: int, execution_id: str, duration: str = "0s", *, at: int = 0) -> None:
        step = {"name": "wait", "type": "delay", "config": {"duration": duration}}
        package = {"metadata": {"name": "waits"}, "spec": {"handlers": [step]}}
        self.push(CommandTopic.EXECUTE, offset, {"execution_id": execution_id, "wpk_content": package}, at=at)

    def cancel(self, offset: int, execution_id: str, *, at: int = 0) -> None:
        self.push(CommandTopic.CONTROL, offset, {"execution_id": execution_id, "action": "cancel"}, at=at)

    def names(self, execution_id: str) -> list[str]:
        found = [events.decode(r.value or b"") for t in (Topic.PROGRESS, Topic.RESULTS) for r in self.owner.records(t)]
        mine = sorted((e for e in found if e.data.execution_id == execution_id), key=lambda e: e.data.seq)
        return [event.name for event in mine]

    async def until(self, execution_id: str, name: str) -> None:
        await eventually(lambda: name in self.names(execution_id), because=f"{name} of {execution_id}")


@asynccontextmanager
async def bench(limits: Limits | None = None, *, refuse: int = 0) -> AsyncIterator[Bench]:
    async def no_secrets(names: object) -> Mapping[str, str]:
        return {}

    async def read(journal: Journal) -> Mapping[str, bytes]:
        assert isinstance(journal, MemoryOwner)
        return {key.decode(): value for key, value in journal.state.items()}

    services = Services(
        agent="test",
        clock=SystemClock(),
        adapters={"delay": DelayAdapter(SystemClock())},
        secrets=no_secrets,
        policy=OPEN,
        metrics=Metrics(CollectorRegistry()),
        draw=random.random,
        limits=limits or Limits(),
    )
    owners: list[MemoryOwner] = []

    def new_owner() -> MemoryOwner:
        owners.append(MemoryOwner(0, len(owners) + 1, log=owners[-1].log if owners else None))
        return owners[-1]

    source = Sought(refuse=refuse)
    async with supervising(services, read) as supervisor:
        lane = Lane(0, supervisor=supervisor, new_owner=new_owner, source=source, max_bytes=900_000)  # type: ignore[arg-type]
        supervisor.on_room(lane.wake.set)
        running = asyncio.create_task(lane.run())
        try:
            await eventually(lambda: lane.active)
            yield Bench(lane, source, owners, supervisor)
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_commands_are_taken_in_the_order_in_which_they_were_sent_over_all_topics() -> None:
    async with bench() as b:
        b.cancel(0, "e1", at=2)
        b.execute(0, "e1", "1h", at=1)
        await b.until("e1", "execution.cancelled")
        assert "command.rejected" not in b.names("e1")


async def test_a_control_command_that_was_read_before_its_execute_command_waits_for_it() -> None:
    async with bench() as b:
        b.cancel(0, "e1", at=1)
        await asyncio.sleep(0.1)  # the lane has looked at it by now
        b.execute(0, "e1", "1h", at=2)
        await b.until("e1", "execution.cancelled")
        assert "command.rejected" not in b.names("e1")


async def test_a_control_command_for_an_id_that_never_appears_is_refused_and_the_next_one_taken() -> None:
    async with bench() as b:
        b.cancel(0, "ghost")
        b.cancel(1, "ghost")
        await eventually(lambda: b.names("ghost").count("command.rejected") == 2)
        assert b.owner.offsets[CommandTopic.CONTROL] == 2


async def test_while_the_agent_is_full_execute_commands_wait_and_control_commands_are_taken() -> None:
    async with bench(Limits(max_executions=1, max_waiting=1)) as b:
        b.execute(0, "first", "1h", at=1)
        await b.until("first", "step.started")
        await eventually(lambda: not b.supervisor.room.is_set())
        b.execute(1, "second", "0s", at=2)
        b.cancel(0, "first", at=3)
        await b.until("first", "execution.cancelled")
        await b.until("second", "execution.completed")
        assert b.owner.offsets == {CommandTopic.EXECUTE: 2, CommandTopic.CONTROL: 1}


async def test_a_lost_owner_is_followed_by_one_that_goes_on_from_the_log() -> None:
    async with bench() as b:
        b.execute(0, "done", "0s")
        await b.until("done", "execution.completed")
        b.execute(1, "lives", "700ms")
        await b.until("lives", "step.started")
        b.owner.kill("a write failed")
        await eventually(lambda: len(b.owners) == 2 and b.lane.active)
        assert b.source.offsets[-1] == {CommandTopic.EXECUTE: 2}
        taken = [batch for batch in b.owner.log.batches if batch.offsets == {CommandTopic.EXECUTE: 2}]
        assert any(not batch.records for batch in taken), "the group's offsets are set right at once"
        await b.until("lives", "execution.completed")
        assert "execution.resumed" in b.names("lives")
        assert b.names("lives").count("execution.completed") == 1


async def test_records_that_were_taken_before_are_not_taken_again() -> None:
    async with bench() as b:
        b.execute(0, "e1")
        await b.until("e1", "execution.completed")
        b.owner.kill("a write failed")
        await eventually(lambda: len(b.owners) == 2 and b.lane.active)
        b.execute(0, "e1")
        b.execute(1, "e2")
        await b.until("e2", "execution.completed")
        assert "command.duplicate" not in b.names("e1")


async def test_what_a_lost_owner_had_not_taken_moves_nobody_on() -> None:
    async with bench(Limits(max_executions=1)) as b:
        b.execute(0, "e1", "60s")
        b.lane.hold()
        b.execute(1, "e2")
        b.execute(2, "e3")
        b.owner.kill("another agent took the partition")
        await eventually(lambda: not b.lane.active)
        assert b.lane.next_offset(CommandTopic.EXECUTE) is None, "a rebalance would set the consumer behind e2 and e3"
        b.lane.release()
        await eventually(lambda: b.lane.active)
        taken = b.source.offsets[-1].get(CommandTopic.EXECUTE, 0)
        assert b.lane.next_offset(CommandTopic.EXECUTE) == (taken or None)


async def test_what_comes_while_there_is_no_owner_is_left_for_the_seek() -> None:
    lane = Lane(0, supervisor=None, new_owner=None, source=None, max_bytes=1)  # type: ignore[arg-type]
    lane.push(
        RawRecord(role=CommandTopic.EXECUTE, topic="t", partition=0, offset=7, timestamp_ms=0, key=None, value=b"{}")
    )
    assert lane.next_offset(CommandTopic.EXECUTE) is None
    assert not lane.active


async def test_a_lane_that_can_not_seek_gives_its_owner_up_and_tries_again() -> None:
    async with bench(refuse=1) as b:
        assert len(b.owners) == 2
        assert not b.owners[0].alive


async def test_commands_are_answered_in_a_hold_and_executions_run_after_it() -> None:
    async with bench() as b:
        b.lane.hold()
        step = {"name": "one", "type": "nothing-of-the-kind", "config": {}}
        package = {"metadata": {"name": "x"}, "spec": {"handlers": [step]}}
        b.push(CommandTopic.EXECUTE, 0, {"execution_id": "bad", "wpk_content": package})
        await b.until("bad", "execution.rejected")
        b.lane.release()
        b.execute(1, "good")
        await b.until("good", "execution.completed")


async def test_a_partition_is_not_taken_in_a_hold() -> None:
    async with bench() as b:
        b.lane.hold()
        b.owner.kill("fenced")
        await eventually(lambda: not b.lane.active)
        await asyncio.sleep(0.5)  # longer than the pause before the next try
        assert len(b.owners) == 1
        b.lane.release()
        await eventually(lambda: len(b.owners) == 2 and b.lane.active)


async def test_a_state_that_can_not_be_read_hides_no_other_and_its_commands_are_kept_apart() -> None:
    async with bench() as b:
        b.execute(0, "good")
        b.execute(1, "bad")
        for name in ("good", "bad"):
            await b.until(name, "execution.completed")
        await b.owner.append([Record(Topic.STATE, b"bad", b"{no state")])
        b.owner.kill("a write failed")
        await eventually(lambda: len(b.owners) == 2 and b.lane.active)
        b.execute(2, "bad")
        b.execute(3, "good")
        await b.until("good", "command.duplicate")
        (dead,) = b.owner.records(Topic.DEAD_LETTER)
        assert dict(dead.headers)["wpk-reason"] == b"internal"


async def test_a_cancel_for_a_command_that_waits_for_room_is_kept_for_it() -> None:
    async with bench(Limits(max_executions=1, max_waiting=1)) as b:
        b.execute(0, "first", "1h", at=1)
        await b.until("first", "step.started")
        await eventually(lambda: not b.supervisor.room.is_set())
        b.execute(1, "second", "1h", at=2)
        b.cancel(0, "second", at=3)
        await b.until("second", "execution.cancelling")
        b.cancel(1, "second", at=4)
        await b.until("second", "command.duplicate")
        b.owner.kill("a write failed")  # the next owner finds it in the log
        await eventually(lambda: len(b.owners) == 2 and b.lane.active)
        b.execute(1, "second", "1h", at=2)
        b.cancel(2, "first", at=5)
        await b.until("second", "execution.cancelled")
        assert b.names("second") == [
            "execution.cancelling",
            "command.duplicate",
            "execution.accepted",
            "execution.cancelled",
        ]


async def test_a_cancel_for_an_id_that_nothing_here_has_is_refused_while_the_agent_is_full_too() -> None:
    async with bench(Limits(max_executions=1, max_waiting=1)) as b:
        b.execute(0, "first", "1h", at=1)
        await b.until("first", "step.started")
        await eventually(lambda: not b.supervisor.room.is_set())
        for offset in range(1, QUEUE_RECORDS + 1):
            b.execute(offset, f"e{offset}x", "1h", at=2)
        assert b.lane.full(CommandTopic.EXECUTE)
        b.cancel(0, "e1", at=3)  # a part of an id that waits, but no id
        await b.until("e1", "command.rejected")
        assert "execution.cancelling" not in b.names("e1"), "it would end a later execution of that id"


async def test_what_makes_room_is_not_held_up_by_commands_for_what_has_no_room() -> None:
    async with bench(Limits(max_executions=1, max_waiting=1)) as b:
        b.execute(0, "first", "1h", at=1)
        await b.until("first", "step.started")
        await eventually(lambda: not b.supervisor.room.is_set())
        b.execute(1, "second", "0s", at=2)
        b.push(CommandTopic.CONTROL, 0, {"execution_id": "second", "action": "approve", "requested_by": "bob"}, at=3)
        b.cancel(1, "first", at=4)
        await b.until("second", "execution.completed")
        assert b.names("second")[:2] == ["command.rejected", "execution.rejected"]


async def test_many_commands_for_ids_that_never_appear_wait_at_the_same_time() -> None:
    async with bench() as b:
        for number in range(200):
            b.cancel(number, f"e{number}")
        await b.until("e199", "command.rejected")  # one after the other they would take 400 s


async def test_a_command_waits_for_an_execute_command_that_is_about_to_be_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox, "PATIENCE", 0.0)
    async with bench() as b:
        for number in range(100):
            b.execute(number, f"e{number}", "1h", at=number)
        b.cancel(0, "e99", at=0)
        await b.until("e99", "execution.cancelled")
        assert "command.rejected" not in b.names("e99")


async def test_a_topic_is_full_when_its_queue_is() -> None:
    async with bench(Limits(max_executions=1, max_waiting=1)) as b:
        b.execute(0, "first", "1h")
        await b.until("first", "step.started")
        await eventually(lambda: not b.supervisor.room.is_set())
        for offset in range(1, QUEUE_RECORDS + 1):
            b.execute(offset, f"e{offset}")
        assert b.lane.full(CommandTopic.EXECUTE)
        assert not b.lane.full(CommandTopic.CONTROL)


# --- what hangs ---


async def test_a_lane_that_writes_or_has_nothing_to_write_is_not_stuck() -> None:
    async with bench() as b:
        await eventually(lambda: b.lane.active)
        assert b.lane.stuck(taking=0, writing=0) is None
        b.owner.backlogged = True
        b.owner.stats.batches += 1
        assert b.lane.stuck(taking=0, writing=1000) is None


async def test_a_lane_whose_queue_is_not_written_is_stuck_but_not_while_its_owner_recovers() -> None:
    async with bench() as b:
        await eventually(lambda: b.lane.active)
        b.owner.backlogged = True
        assert b.lane.stuck(taking=1000, writing=1000) is None
        await eventually(lambda: b.lane.stuck(taking=1000, writing=0.05), because="nothing is written")
        b.owner.trouble = Trouble(0.0, "Kafka is away")
        assert b.lane.stuck(taking=1000, writing=0.05) is None
        b.owner.trouble = None
        b.lane.hold_steps()
        assert b.lane.stuck(taking=1000, writing=0) is None, "in a rebalance at_least_once does not write"


async def test_a_lane_that_is_being_taken_for_too_long_is_stuck() -> None:
    async with bench() as b:
        await eventually(lambda: b.lane.active)
        b.lane._partition = None
        assert b.lane.stuck(taking=1000, writing=0) is None
        await eventually(lambda: b.lane.stuck(taking=0.05, writing=0), because="it is not active")


async def test_a_lane_that_refuses_takes_no_command_any_more() -> None:
    async with bench() as b:
        await eventually(lambda: b.lane.active)
        b.execute(0, "first")
        await b.until("first", "execution.completed")
        b.lane.refuse()
        b.execute(1, "second")
        b.lane.wake.set()
        await b.lane.written()
        assert b.names("second") == []


async def test_a_cancellation_by_the_kafka_client_does_not_end_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[int] = []
    seek = Sought.seek

    async def seek_later(self: Sought, partition: int, restored: Restored) -> Mapping[CommandTopic, int]:
        if not cancelled:
            cancelled.append(partition)
            raise asyncio.CancelledError
        return await seek(self, partition, restored)

    monkeypatch.setattr(Sought, "seek", seek_later)
    async with bench() as b:
        await eventually(lambda: b.lane.active)
    assert cancelled == [0]
