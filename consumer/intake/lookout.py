"""Which partitions hang, and whether to begin them anew has helped."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from consumer.errors import Hung
from consumer.intake.lane import Lane

#: How often in a row the same part is begun again before the agent gives up.
TRIES = 3
#: A part that worked for so long is not begun again in a row (seconds).
FORGET_SECONDS = 600.0


class Lookout:
    """Looks at the lanes from time to time. The limits (seconds) are those of `Lane.stuck`."""

    def __init__(self, *, taking: float, writing: float) -> None:
        self._taking = taking
        self._writing = writing
        self._restarts: Counter[int] = Counter()
        self._works_since: dict[int, float] = {}

    def hung(self, lanes: Mapping[int, Lane]) -> dict[int, str]:
        """The partitions that must be begun anew, and why. Raises Hung where that did not help."""
        for number in self._restarts.keys() - lanes.keys():
            self._forget(number)
        found = {}
        for number, lane in lanes.items():
            reason = lane.stuck(taking=self._taking, writing=self._writing)
            if reason is None:
                self._note(number, works=lane.active)
                continue
            if self._restarts[number] >= TRIES:
                raise Hung(f"partition {number} hangs: {reason}")
            self._restarts[number] += 1
            self._works_since.pop(number, None)
            found[number] = reason
        return found

    def _note(self, number: int, *, works: bool) -> None:
        """What was begun anew is active soon, and may hang again: that says nothing yet."""
        if number not in self._restarts:
            return
        if not works:
            self._works_since.pop(number, None)
            return
        now = asyncio.get_running_loop().time()
        if now - self._works_since.setdefault(number, now) > max(FORGET_SECONDS, 2 * self._writing):
            self._forget(number)

    def _forget(self, number: int) -> None:
        del self._restarts[number]
        self._works_since.pop(number, None)
