"""How long an action waits, so that it is the action that gives up: it alone can say what it was waiting for."""

from __future__ import annotations

import asyncio

from consumer.ports import StepContext

#: Of the attempt's time, what is kept to say why: this part of it, but not more than these seconds.
_PART, _MOST = 0.1, 1.0


def time_for(own: float | None, step: StepContext) -> float | None:
    """The seconds that the action has from its beginning: its own timeout, or a moment less than the attempt has.

    The step runner ends an attempt whose time is over without a word on what it was doing.
    """
    if step.timeout is None:
        return own
    last = step.timeout - min(step.timeout * _PART, _MOST)
    return last if own is None else min(own, last)


def deadline(own: float | None, step: StepContext) -> float | None:
    """The same as a moment of the running loop's clock, for `asyncio.timeout_at`. To be asked first of all."""
    seconds = time_for(own, step)
    return None if seconds is None else asyncio.get_running_loop().time() + seconds
