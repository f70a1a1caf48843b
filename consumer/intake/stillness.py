"""For how long something has stood still while this process ran."""

from __future__ import annotations

import asyncio

#: How often it is looked whether something hangs (seconds).
LOOK_SECONDS = 2.0
#: What counts of the time between two looks: a process that was frozen (SIGSTOP, a suspended machine) has not hung.
_AT_MOST_SECONDS = 2 * LOOK_SECONDS


class Stillness:
    """Looks from time to time at a sign that changes with each progress. It counts looks and not the clock."""

    def __init__(self) -> None:
        self._sign: object = None
        self._looked = 0.0
        self._seconds = 0.0

    def look(self, sign: object) -> float:
        """For how long (seconds) the sign has been the same at each look."""
        now = asyncio.get_running_loop().time()
        self._seconds = self._seconds + min(now - self._looked, _AT_MOST_SECONDS) if sign == self._sign else 0.0
        self._sign, self._looked = sign, now
        return self._seconds

    def excuse(self) -> None:
        """There is a reason to stand still: the next look begins anew."""
        self._sign, self._seconds = None, 0.0
