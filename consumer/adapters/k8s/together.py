"""Coroutines at the same time, whose first error is raised as it is: a StepError, not a group with one inside."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator


@contextlib.asynccontextmanager
async def beside(endless: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Runs something that has no end of its own while the block lasts. Its error ends the block."""
    with _alone():
        async with asyncio.TaskGroup() as group:
            task = group.create_task(endless)
            try:
                yield
            finally:
                task.cancel()


async def together(*works: Coroutine[None, None, None]) -> None:
    """Returns when all have ended. The first error ends the others."""
    with _alone():
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
