"""What the engine keeps in memory of executions that ended, and what it does without reading the log again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer.clock import SystemClock
from consumer.engine import logs
from consumer.engine.execution import Execution
from consumer.engine.logs import StepLog
from consumer.engine.partition import Partition
from consumer.engine.services import Services
from consumer.policy.load import OPEN
from consumer.ports import Topic
from consumer.telemetry.metrics import Metrics
from schemas import events, snapshot
from schemas.events import Status
from schemas.execution import ExecutionState, StepState, StepStatus
from tests.support.engine_house import house, load, package, probe_module, step
from tests.support.eventually import eventually
from tests.support.memory_journal import MemoryJournal


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


def ended(name: str, **fields: Any) -> ExecutionState:
    """An execution that ended, as its owner has it."""
    now = SystemClock().now()
    steps = {"a": StepState(step="a", adapter="delay", status=StepStatus.SUCCEEDED, output={"n": 1})}
    whole: dict[str, Any] = {
        "status": "completed",
        "seq": 6,
        "command": {"wpk_content": {}},
        "command_digest": "d",
        "completed_at": now,
        "steps": steps,
        "undo": {"a": {"before": 1}},
    }
    return ExecutionState(execution_id=name, **(whole | fields))


def services() -> Services:
    async def no_secrets(names: object) -> dict[str, str]:
        return {}

    return Services(
        agent="tester",
        clock=SystemClock(),
        adapters={},
        secrets=no_secrets,
        policy=OPEN,
        metrics=Metrics(CollectorRegistry()),
        draw=random.random,
    )


def test_what_ended_long_ago_is_known_by_its_head_and_what_is_missing_shows() -> None:
    partition = Partition(MemoryJournal(0, 1))
    first = ended("e0")
    partition.remember(first)
    for number in range(1, 200):
        partition.remember(ended(f"e{number}"))
    assert partition.recall("e199", whole=True) is not None
    assert partition.recall("e0", whole=True) is None
    head = partition.recall("e0", whole=False)
    assert head is not None
    assert snapshot.head(head) == snapshot.head(first)  # so that it may be written again


def test_large_executions_do_not_stay_whole_and_long_heads_do_not_stay_at_all() -> None:
    partition = Partition(MemoryJournal(0, 1))
    partition.remember(ended("large", command={"wpk_content": "x" * 100_000}))
    assert partition.recall("large", whole=True) is None
    assert partition.recall("large", whole=False) is not None
    steps = {f"s{n}": StepState(step=f"s{n}", adapter="delay") for n in range(1000)}
    partition.remember(ended("long", steps=steps))
    assert partition.ended["long"].head is None
    partition.remember(ended("output", steps={"a": StepState(step="a", adapter="delay", output="x" * 100_000)}))
    assert partition.recall("output", whole=True) is None


def test_what_could_not_be_ended_is_read_again_since_it_may_go_on() -> None:
    partition = Partition(MemoryJournal())
    partition.remember(ended("stuck", status=Status.RUNNING, command={"wpk_content": "x" * 100_000}))
    assert partition.knows("stuck")
    assert partition.recall("stuck", whole=False) is None


def test_an_id_known_from_refused_commands_only_is_never_read_again() -> None:
    partition = Partition(MemoryJournal(0, 1))
    partition.remember(ExecutionState(execution_id="refused", seq=2, last_hash="h"))
    for number in range(200):
        partition.remember(ended(f"e{number}"))
    assert partition.recall("refused", whole=True) is not None
    assert not partition.knows("refused")
    assert partition.knows("e0")


def test_a_state_made_of_its_head_does_not_take_the_place_of_the_whole_one() -> None:
    partition = Partition(MemoryJournal(0, 1))
    whole = ended("e1", command={"wpk_content": "x" * 100_000})
    partition.remember(whole)
    head = partition.recall("e1", whole=False)
    assert head is not None
    partition.remember(head.model_copy(update={"seq": 7}))
    assert partition.recall("e1", whole=True) is None
    again = partition.recall("e1", whole=False)
    assert again is not None
    assert again.seq == 7


def test_what_expires_is_told_by_the_end_of_each() -> None:
    partition = Partition(MemoryJournal(0, 1))
    now = SystemClock().now()
    partition.remember(ended("old", completed_at=now - timedelta(days=8)))
    partition.remember(ended("new"))
    assert partition.expired(now - timedelta(days=7)) == {"old"}
    partition.forget("old")
    assert partition.recall("old", whole=False) is None


async def test_duplicates_and_refusals_of_what_ended_long_ago_are_answered_without_reading_the_log(
    probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(probe) as h:
        wpk = package(step("a", {"capture": "old", "output": {"n": 1}}))
        await h.execute(wpk)
        before = await h.over()
        for number in range(70):
            await h.execute(package(step("a")), f"other-{number}")
            await h.over(f"other-{number}")

        async def unread(_journal: object) -> Any:
            raise AssertionError("the log was read")

        with monkeypatch.context() as patch:
            patch.setattr(h.supervisor, "_read_state", unread)
            await h.execute(wpk)
            await h.control("cancel")
        assert h.names()[-3:] == ["command.duplicate", "command.rejected", "execution.rejected"]
        assert h.kept().steps == before.steps  # what was written again lost nothing
        assert h.kept().undo.keys() == {"a"}


async def test_large_packages_leave_room_for_fewer_executions(probe: Any) -> None:
    async with house(probe, max_held_bytes=10_000) as h:
        await h.execute(package(step("a", {"wait": True})), "small")
        await h.runs("a", "small")
        assert h.supervisor.room.is_set()
        await h.execute(package(step("a", {"wait": True}), description="x" * 10_000), "large")
        await h.runs("a", "large")
        assert not h.supervisor.room.is_set()
        probe.seen["large"].release["a"].set()
        await h.over("large")
        await eventually(h.supervisor.room.is_set)
        probe.seen["small"].release["a"].set()
        await h.over("small")


async def test_a_step_that_prints_without_end_waits_so_that_others_are_not_behind_all_that_it_printed() -> None:
    journal = MemoryJournal()
    journal.stall()
    state = ExecutionState(execution_id="e1", status=Status.RUNNING, seq=1)
    log = StepLog(
        Execution("e1", state, journal, services()),
        step="a",
        phase="run",
        attempt=1,
        mask=str,
        max_bytes=1 << 30,
    )
    printed = 0

    async def print_all() -> None:
        nonlocal printed
        for _ in range(10_000):
            await log.write("stdout", "x" * 1000)
            printed += 1

    task = asyncio.create_task(print_all())
    await eventually(lambda: journal.appended == 16)
    await asyncio.sleep(0.3)  # longer than a batch becomes old
    assert journal.appended <= 17
    assert printed < 2000
    task.cancel()
    await asyncio.wait([task])
    journal.kill()


async def test_a_step_that_prints_slowly_does_not_pass_by_the_bound_of_what_waits_to_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "BATCH_AGE", 0.0)
    journal = MemoryJournal()
    journal.stall()
    state = ExecutionState(execution_id="e1", status=Status.RUNNING, seq=1)
    execution = Execution("e1", state, journal, services())
    log = StepLog(execution, step="a", phase="run", attempt=1, mask=str, max_bytes=1 << 30)
    for number in range(100):
        await log.write("stdout", f"line {number}")
        for _ in range(3):
            await asyncio.sleep(0)  # the line is older than a batch becomes
    assert journal.appended == 16, "Kafka is away: what is printed meanwhile goes in one batch"
    log.close()
    assert journal.appended == 17, "the end of an attempt has all of its lines before it"
    journal.resume()
    await execution.flush()
    found = [events.decode(r.value or b"") for r in journal.records(Topic.LOGS)]
    lines = [line.text for each in found if isinstance(each.data, events.LogLines) for line in each.data.lines]
    assert lines == [f"line {number}" for number in range(100)]


async def test_a_partition_that_holds_much_is_taken_without_standing_still_and_runs_nothing_before_all_is_known(
    probe: Any,
) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"wait": True})), "alive")
        await h.runs("a", "alive")
        h.journal.kill()
        await h.supervisor.drop(h.partition)
        (alive,) = load(h.journal.log).items()
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        def states() -> Iterator[tuple[str, ExecutionState | ValueError]]:
            yield alive
            for number in range(1000):
                assert h.supervisor.live == 0
                yield f"e{number}", ended(f"e{number}")

        task = asyncio.create_task(others())
        journal = MemoryJournal(epoch=2, log=h.journal.log)
        h.journal, h.partition = journal, await h.supervisor.adopt(journal, states())
        task.cancel()
        assert turns >= 10
        assert h.supervisor.live == 1
        assert len(h.partition.ended) == 1000
        probe.seen["alive"].release["a"].set()
        await h.over("alive")
