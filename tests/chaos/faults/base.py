"""What all faults are."""

from __future__ import annotations

import abc
import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar

from tests.chaos.stage import Setting, Stage

#: Seconds: until an agent runs, until a place is reached, until an agent has stopped.
UP_SECONDS = 20.0
REACH_SECONDS = 12.0
STOP_SECONDS = 75.0


class Fault(abc.ABC):
    """See the package."""

    name: ClassVar[str]
    weight: ClassVar[float] = 1.0
    cluster: ClassVar[bool] = False
    """Whether it needs three nodes with proxies before them."""

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        self.hold = 0.0
        """Seconds between strike and heal."""
        self.takes: frozenset[str] = frozenset()

    @abc.abstractmethod
    async def strike(self, stage: Stage) -> None:
        """Breaks it. Raises NotApplied."""

    async def heal(self, stage: Stage) -> None:
        """Mends what does not mend itself."""
        return

    def facts(self) -> dict[str, object]:
        """What was drawn, for the record."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "takes"}

    def __str__(self) -> str:
        shown = (
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.facts().items()
        )
        return f"{self.name}({', '.join(shown)})"


async def until(check: Callable[[], bool], within: float) -> bool:
    """Whether it came true in that time (seconds)."""

    async def checked() -> bool:
        return check()

    return await until_async(checked, within)


async def until_async(check: Callable[[], Awaitable[bool]], within: float) -> bool:
    """As `until`, for what has to be asked for."""
    deadline = time.monotonic() + within
    while not await check():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.05)
    return True
