"""The journal in memory keeps the contract that the engine's tests rely on."""

from __future__ import annotations

import asyncio

import pytest

from consumer.errors import OwnershipLost
from consumer.ports import CommandTopic, Journal, Record, Topic
from tests.support.memory_journal import MemoryJournal


def state(key: str, value: str | None) -> Record:
    return Record(Topic.STATE, key.encode(), None if value is None else value.encode())


def as_port(journal: MemoryJournal) -> Journal:
    return journal


async def test_an_append_is_durable_once_awaited_and_not_before() -> None:
    journal = MemoryJournal()
    durable = as_port(journal).append([state("a", "1")], {CommandTopic.EXECUTE: 7})
    assert journal.state == {}
    await durable
    assert journal.state == {b"a": b"1"}
    assert journal.offsets == {CommandTopic.EXECUTE: 7}


async def test_the_newest_state_counts_and_a_tombstone_deletes() -> None:
    journal = MemoryJournal()
    await journal.append([state("a", "1"), state("b", "1"), state("a", "2"), state("b", None)])
    assert journal.state == {b"a": b"2"}


async def test_a_failing_append_takes_the_journal_and_all_later_appends_with_it() -> None:
    journal = MemoryJournal()
    journal.fail_at(2)
    first, second, third = (journal.append([state("a", str(n))]) for n in (1, 2, 3))
    await first
    for later in (second, third, journal.append([])):
        with pytest.raises(OwnershipLost):
            await later
    assert not journal.alive
    assert journal.lost.is_set()
    assert journal.state == {b"a": b"1"}


async def test_a_failure_can_leave_the_batch_written() -> None:
    journal = MemoryJournal()
    journal.fail_at(1, written=True)
    with pytest.raises(OwnershipLost):
        await journal.append([state("a", "1")])
    assert journal.state == {b"a": b"1"}


async def test_a_hold_keeps_effects_back_until_it_is_released() -> None:
    journal = MemoryJournal()
    journal.hold()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(journal.may_act())
        await asyncio.sleep(0)
        assert not waiting.done()
        journal.release()


async def test_a_waiting_effect_learns_that_the_owner_died() -> None:
    journal = MemoryJournal()
    journal.hold()
    journal.fill()
    waiting = [asyncio.create_task(journal.may_act()), asyncio.create_task(journal.backlog())]
    await asyncio.sleep(0)
    journal.kill("test")
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, OwnershipLost) for result in results)


async def test_a_successor_sees_what_was_durable_and_fences_its_predecessor() -> None:
    journal = MemoryJournal()
    await journal.append([state("a", "1")])
    journal.stall()
    lost = journal.append([state("a", "2")])
    successor = journal.successor()
    with pytest.raises(OwnershipLost):
        await lost
    assert successor.state == {b"a": b"1"}
    assert successor.epoch > journal.epoch
    await successor.append([state("a", "3")])
    assert successor.state == {b"a": b"3"}


async def test_a_stalled_journal_writes_all_in_order_when_it_resumes() -> None:
    journal = MemoryJournal()
    journal.stall()
    appends = [journal.append([state("a", str(n))]) for n in range(3)]
    await asyncio.sleep(0)
    assert journal.state == {}
    journal.resume()
    await asyncio.gather(*appends)
    assert journal.state == {b"a": b"2"}
