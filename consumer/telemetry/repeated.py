"""Trouble that comes again and again is told at once, and then ever more rarely."""

from __future__ import annotations

from dataclasses import dataclass

#: Between two tellings of the same: the shortest and the longest pause (seconds).
_PAUSES = (5.0, 300.0)
#: What did not come for so long (seconds) is news again.
_OVER = 60.0
_MAX_TEXTS = 16


@dataclass(slots=True)
class _Seen:
    last: float
    told: float
    pause: float = _PAUSES[0]


class Repeated:
    """Remembers a few texts; where there are more, all are news again."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def is_due(self, text: str, now: float) -> bool:
        """Whether to tell it, which comes now (seconds of a monotonic clock)."""
        seen = self._seen.get(text)
        if seen is None or now - seen.last > _OVER:
            if len(self._seen) >= _MAX_TEXTS:
                self._seen.clear()
            self._seen[text] = _Seen(last=now, told=now)
            return True
        seen.last = now
        if now - seen.told < seen.pause:
            return False
        seen.told, seen.pause = now, min(2 * seen.pause, _PAUSES[1])
        return True
