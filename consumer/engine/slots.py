"""How many executions may run steps at the same time, and whose partition is on hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from consumer.engine.execution import Execution
from consumer.ports import Journal


class Slots:
    """A fixed number of slots, given in the order in which they were asked for.

    Asking does not wait: who gets none now is told by its `changed` event when it has one, so that a cancel still
    reaches an execution that waits for a slot. While a journal is on hold (rebalance, shutdown) its executions get
    none.
    """

    def __init__(self, size: int, on_change: Callable[[], None]) -> None:
        self._size = size
        self._on_change = on_change
        self._holders: set[Execution] = set()
        self._waiting: dict[Execution, None] = {}
        self._resting: set[Execution] = set()
        self._held: dict[Journal, set[Execution]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def taken(self) -> int:
        """How many are in use."""
        return len(self._holders)

    @property
    def resting(self) -> int:
        """How many executions only wait: for an approval, a backoff, a delay."""
        return len(self._resting)

    async def idle(self) -> None:
        """Waits until no slot is in use."""
        await self._idle.wait()

    def hold(self, journal: Journal) -> None:
        """No execution of that journal begins another step until `resume`."""
        self._held.setdefault(journal, set())

    def resume(self, journal: Journal) -> None:
        """Ends the hold; who asked meanwhile asks again."""
        for execution in self._held.pop(journal, ()):
            execution.changed.set()

    def held(self, who: Execution) -> bool:
        """Whether its journal is on hold."""
        return who.journal in self._held

    def take(self, who: Execution) -> bool:
        """Whether it has a slot now and may begin steps; else its `changed` is set when it is worth asking again."""
        if who.journal in self._held:
            self._held[who.journal].add(who)
            return False
        if who in self._holders:
            return True
        self._resting.discard(who)
        if len(self._holders) < self._size:
            self._waiting.pop(who, None)
            self._grant(who)
            self._on_change()
            return True
        self._waiting[who] = None
        self._on_change()
        return False

    def rest(self, who: Execution) -> None:
        """It only waits now: its slot goes to others."""
        if who in self._resting and who not in self._waiting:
            return
        self._resting.add(who)
        self._give_back(who)
        self._on_change()

    def leave(self, who: Execution) -> None:
        """It has ended, or ends here."""
        self._resting.discard(who)
        self._give_back(who)
        self._on_change()

    def _give_back(self, who: Execution) -> None:
        self._waiting.pop(who, None)
        if who not in self._holders:
            return
        self._holders.remove(who)
        if self._waiting:
            heir = next(iter(self._waiting))
            del self._waiting[heir]
            self._grant(heir)
            heir.changed.set()
        elif not self._holders:
            self._idle.set()

    def _grant(self, who: Execution) -> None:
        self._holders.add(who)
        self._idle.clear()
