"""Long-lived tasks, so that none dies unseen and none is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import structlog

_log = structlog.get_logger(__name__)


class Guard:
    """Runs work that lasts as long as the agent, and asks for the stop when some of it ends before.

    A child of a TaskGroup that raises would make the group cancel its body, and with it the orderly stop. So a guarded
    task returns in any case; after the stop its owner calls `check`.
    """

    def __init__(self, stop: asyncio.Event) -> None:
        self.stop = stop
        """Set when the agent is to stop: by a signal, or by a guarded task that ended."""
        self.failure: Exception | None = None
        """What ended the first guarded task that failed."""

    async def run(self, work: Awaitable[None], name: str) -> None:
        """Awaits the work, which may only end after `stop` is set. Never raises but when it is cancelled."""
        try:
            await work
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            _log.error("task.ended", task=name)
            self.fail(RuntimeError(f"{name} was given a cancellation that nobody had asked for"))
        except Exception as error:
            _log.exception("task.failed", task=name, reason=f"{type(error).__name__}: {error}")
            self.fail(error)
        else:
            if not self.stop.is_set():
                _log.error("task.ended", task=name)
                self.fail(RuntimeError(f"{name} ended although nobody asked it to"))

    def fail(self, error: Exception) -> None:
        """Asks for the stop because of an error; the first one is kept."""
        self.failure = self.failure or error
        self.stop.set()

    def check(self) -> None:
        """Raises what was kept, if anything."""
        if self.failure is not None:
            raise self.failure


def is_cancelled() -> bool:
    """Whether the present task itself is to end. A CancelledError alone may come from what it awaited: aiokafka hands
    on that a task of its own was cancelled, and a task group takes such an end for a wanted one."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def cancel_and_wait(*tasks: asyncio.Task[object]) -> None:
    """Cancels the tasks and returns when all have ended. An error on their way out is logged, not raised."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("task.failed_on_cancel", task=task.get_name(), exc_info=error)
