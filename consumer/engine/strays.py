"""An adapter's work under a time limit, with an end for the engine also where the work does not heed its cancellation.

An adapter that swallows its cancellation would hold up its execution, the hand-over of the partition and the stop of
the agent for ever. After a grace it is left behind: it can't log or capture any more, and the trail says that it may
still be at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

_log = structlog.get_logger(__name__)
Result = TypeVar("Result")


class TooLong(Exception):
    """The work took longer than its limit, and ended when it was told to."""


class LeftBehind(Exception):
    """The work did not end within the grace after it was told to."""


class Strays:
    """Runs work that can be left behind, and keeps what was until it ends."""

    def __init__(self, grace: float = 15.0) -> None:
        self.grace = grace
        """How long cancelled work may take to end (seconds); longer than an adapter needs to end what it started."""
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def count(self) -> int:
        """How much work was left behind and still runs."""
        return len(self._tasks)

    async def run(self, work: Coroutine[Any, Any, Result], limit: float, *, name: str) -> Result:
        """The work's result. Raises TooLong after `limit` seconds, and LeftBehind where it then does not end.

        What the work gives although it was cancelled is its result: that is what happened.
        """
        task = asyncio.create_task(work, name=name)
        try:
            await asyncio.wait([task], timeout=limit)
        except asyncio.CancelledError:
            await self._end(task)
            if task.cancelled():
                raise
            return task.result()
        if not task.done():
            await self._end(task)
            if task.cancelled():
                raise TooLong
        if task.cancelled():
            raise RuntimeError("it cancelled itself although nobody had cancelled it")
        return task.result()

    async def _end(self, task: asyncio.Task[Any]) -> None:
        try:
            task.cancel()
            await asyncio.wait([task], timeout=self.grace)
        finally:
            if not task.done():
                self._tasks.add(task)
                task.add_done_callback(self._returned)
                _log.warning("step.left_behind", work=task.get_name(), grace_seconds=self.grace)
        if not task.done():
            raise LeftBehind

    def _returned(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        _log.info("step.returned", work=task.get_name(), error=type(error).__name__ if error else None)
