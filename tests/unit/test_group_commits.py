"""Commits of one consumer that wait for each other go together, and each still gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from consumer.journal.membership import GroupCommits
from tests.support.eventually import eventually

PLACES = [TopicPartition("t", number) for number in range(4)]


class Consumer:
    """Commits as aiokafka's does, as long as a test wants."""

    def __init__(self) -> None:
        self.asked: list[dict[TopicPartition, int]] = []
        self.committed: dict[TopicPartition, int] = {}
        self.assigned = set(PLACES)
        self.failure: Exception | None = None
        self.turns = asyncio.Semaphore(0)

    def free(self) -> None:
        """Lets all commits end."""
        for _ in range(100):
            self.turns.release()

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self.asked.append(dict(offsets))
        if not self.assigned >= offsets.keys():
            raise IllegalStateError("not assigned")
        await self.turns.acquire()
        if self.failure is not None:
            raise self.failure
        self.committed.update(offsets)


async def under_way() -> tuple[Consumer, GroupCommits, list[asyncio.Task[None]]]:
    """A commit that is under way, and three that wait behind it."""
    consumer: Any = Consumer()
    commits = GroupCommits(consumer)
    tasks = [asyncio.create_task(commits.commit({place: 10 + at})) for at, place in enumerate(PLACES)]
    await eventually(lambda: consumer.asked)
    await asyncio.sleep(0)
    return consumer, commits, tasks


async def test_those_that_wait_for_one_under_way_go_together() -> None:
    consumer, _, tasks = await under_way()
    consumer.free()
    await asyncio.gather(*tasks)
    assert consumer.asked == [{PLACES[0]: 10}, {PLACES[1]: 11, PLACES[2]: 12, PLACES[3]: 13}]
    assert consumer.committed == {place: 10 + at for at, place in enumerate(PLACES)}


async def test_a_partition_that_went_elsewhere_fails_alone() -> None:
    consumer, _, tasks = await under_way()
    consumer.assigned.discard(PLACES[2])
    consumer.free()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), IllegalStateError, type(None)]
    assert consumer.committed == {PLACES[0]: 10, PLACES[1]: 11, PLACES[3]: 13}


async def test_who_is_no_member_any_more_is_told_so_for_each_and_nothing_is_sent_again() -> None:
    consumer, _, tasks = await under_way()
    consumer.failure = CommitFailedError("rebalanced")
    consumer.free()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {CommitFailedError}
    assert len(consumer.asked) == 2
    assert consumer.committed == {}


async def test_what_waits_and_is_cancelled_is_not_committed() -> None:
    consumer, _, tasks = await under_way()
    tasks[2].cancel()
    await asyncio.wait([tasks[2]])
    consumer.free()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[2], asyncio.CancelledError)
    assert consumer.committed == {PLACES[0]: 10, PLACES[1]: 11, PLACES[3]: 13}


async def test_where_who_commits_for_all_is_cancelled_the_others_commit_their_own() -> None:
    consumer, _, tasks = await under_way()
    consumer.turns.release()
    await tasks[0]
    await eventually(lambda: len(consumer.asked) == 2)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    consumer.free()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), asyncio.CancelledError, type(None), type(None)]
    assert {PLACES[2]: 12, PLACES[3]: 13}.items() <= consumer.committed.items()


async def test_one_after_the_other_each_is_committed_at_once() -> None:
    consumer: Any = Consumer()
    consumer.free()
    commits = GroupCommits(consumer)
    for offset in (1, 2, 3):
        await commits.commit({PLACES[0]: offset})
        assert consumer.committed == {PLACES[0]: offset}


@pytest.mark.parametrize("failure", [CommitFailedError("no"), IllegalStateError("no")])
async def test_a_failure_is_not_remembered(failure: Exception) -> None:
    consumer: Any = Consumer()
    consumer.free()
    commits = GroupCommits(consumer)
    consumer.failure = failure
    with pytest.raises(type(failure)):
        await commits.commit({PLACES[0]: 1})
    consumer.failure = None
    await commits.commit({PLACES[0]: 2})
    assert consumer.committed == {PLACES[0]: 2}
