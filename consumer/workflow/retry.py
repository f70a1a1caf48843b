"""How long to wait before a step is tried again."""

from __future__ import annotations

import math

from schemas.wpk import Retry

#: Seconds. What the other side asks for (HTTP's Retry-After) is heeded up to this, even above `max_backoff`.
MAX_ASKED = 3600.0


def backoff(retry: Retry, attempt: int, draw: float, at_least: float = 0.0) -> float:
    """Seconds to wait after the attempt of that number (1 for the first) has failed.

    The bound grows by `multiplier` with each attempt, up to `max_backoff`; with jitter the pause is `draw`, in [0, 1),
    of the bound ("full jitter": it spreads those that failed together the furthest). `at_least` is the pause the other
    side asks for: the result is never shorter, unless it asks for more than an hour and more than `max_backoff`.
    """
    bound = _grown(retry, attempt)
    pause = bound * draw if retry.jitter else bound
    asked = at_least if math.isfinite(at_least) else MAX_ASKED
    return max(pause, min(asked, max(MAX_ASKED, retry.max_backoff)), 0.0)


def _grown(retry: Retry, attempt: int) -> float:
    try:
        return min(retry.backoff * retry.multiplier ** max(attempt - 1, 0), retry.max_backoff)
    except OverflowError:
        return retry.max_backoff if retry.backoff else 0.0
