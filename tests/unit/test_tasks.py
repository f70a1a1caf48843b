"""Long-lived tasks: none dies unseen, none is left behind."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from consumer.tasks import Guard, cancel_and_wait


async def test_a_guarded_task_that_fails_asks_for_the_stop_and_its_error_is_raised_after_it() -> None:
    guard = Guard(asyncio.Event())
    stages: list[str] = []

    async def fails() -> None:
        raise ValueError("broken")

    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            group.create_task(guard.run(fails(), "listener"))
            await guard.stop.wait()
            stages.append("drained")
    assert stages == ["drained"]
    assert [(line["event"], line["task"]) for line in logs] == [("task.failed", "listener")]
    with pytest.raises(ValueError, match="broken"):
        guard.check()


async def test_a_guarded_task_that_ends_unasked_asks_for_the_stop_too() -> None:
    guard = Guard(asyncio.Event())

    async def ends() -> None:
        return

    await guard.run(ends(), "listener")
    assert guard.stop.is_set()
    with pytest.raises(RuntimeError, match="listener ended although nobody asked it to"):
        guard.check()


async def test_a_guarded_task_that_ends_after_the_stop_is_fine() -> None:
    guard = Guard(asyncio.Event())

    async def until_stop() -> None:
        await guard.stop.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(guard.run(until_stop(), "listener"))
        guard.stop.set()
    guard.check()


async def test_the_first_failure_is_kept() -> None:
    guard = Guard(asyncio.Event())
    guard.fail(ValueError("first"))
    guard.fail(ValueError("second"))
    with pytest.raises(ValueError, match="first"):
        guard.check()


async def test_cancelling_a_guarded_task_is_no_failure() -> None:
    guard = Guard(asyncio.Event())
    task = asyncio.create_task(guard.run(asyncio.sleep(3600), "listener"))
    await asyncio.sleep(0)
    await cancel_and_wait(task)
    assert task.cancelled()
    assert not guard.stop.is_set()


async def test_cancelled_tasks_are_waited_for_to_their_last_act() -> None:
    done: list[str] = []
    began = asyncio.Event()

    async def slow_to_leave() -> None:
        try:
            began.set()
            await asyncio.sleep(3600)
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            done.append("left")

    task = asyncio.create_task(slow_to_leave())
    await began.wait()
    await cancel_and_wait(task)
    assert done == ["left"]


async def test_an_error_on_the_way_out_is_logged() -> None:
    began = asyncio.Event()

    async def breaks() -> None:
        try:
            began.set()
            await asyncio.sleep(3600)
        finally:
            raise OSError("broken pipe")

    task = asyncio.create_task(breaks(), name="connection")
    await began.wait()
    with capture_logs() as logs:
        await cancel_and_wait(task)
    assert [(line["event"], line["task"]) for line in logs] == [("task.failed_on_cancel", "connection")]


async def test_cancelling_nothing_is_done_at_once() -> None:
    await cancel_and_wait()


async def test_a_cancellation_that_nobody_asked_for_is_a_failure() -> None:
    """As of a library that hands on that a task of its own was cancelled."""

    async def library() -> None:
        raise asyncio.CancelledError

    guard = Guard(asyncio.Event())
    await guard.run(library(), "work")
    assert guard.stop.is_set()
    with pytest.raises(RuntimeError, match="work was given a cancellation that nobody had asked for"):
        guard.check()


async def test_a_cancellation_that_was_asked_for_is_none() -> None:
    guard = Guard(asyncio.Event())
    task = asyncio.create_task(guard.run(asyncio.Event().wait(), "work"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    guard.check()
    assert not guard.stop.is_set()
