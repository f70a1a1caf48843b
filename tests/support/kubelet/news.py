"""Waiting for a condition that other tasks of the same loop make true."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable


class News:
    """Wakes all who wait whenever there is something new; they look for themselves whether it matters to them."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        told, self._next = self._next, asyncio.Event()
        told.set()

    async def wait(self) -> None:
        """Returns at the next news."""
        await self._next.wait()

    async def within(self, timeout: float | None) -> None:
        """Returns at the next news, or after `timeout` seconds (None: never)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.wait()

    async def until(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Whether the condition became true within `timeout` seconds (None: waits for ever)."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    await self.wait()
        except TimeoutError:
            return False
        return True
