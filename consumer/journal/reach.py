"""Waits at the start for a Kafka that does not answer yet; what waiting can't mend is told at once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from aiokafka.errors import KafkaError

from consumer.errors import KafkaRefused, SettingsError

_log = structlog.get_logger(__name__)
Answer = TypeVar("Answer")
#: Between two tries: the shortest and the longest pause (seconds).
_PAUSES = (0.5, 5.0)
#: It is said again after that time (seconds).
_REMIND_SECONDS = 30.0


async def patiently(
    ask: Callable[[], Awaitable[Answer]],
    *,
    within: float,
    on_trouble: Callable[[str], None],
) -> Answer:
    """What `ask` gives once Kafka answers; it is tried for `within` seconds, and once in any case.

    In Kubernetes agents and brokers start in any order, and a name may not resolve before its pod is ready.
    `on_trouble` is told each time why it is waited. Raises SettingsError: the last one when the time is over, and at
    once where Kafka answered, or refuses the agent (KafkaRefused).
    """
    began, told, pause = time.monotonic(), float("-inf"), _PAUSES[0]
    while True:
        try:
            return await ask()
        except SettingsError as error:
            now = time.monotonic()
            if now - began >= within or not _passes(error):
                raise
            on_trouble(str(error))
            if now - told >= _REMIND_SECONDS:
                told = now
                seconds = round(now - began)
                _log.warning("kafka.awaited", reason=str(error), seconds=seconds, limit=round(within))
        await asyncio.sleep(min(pause, max(0.0, within - (time.monotonic() - began))) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        pause = min(2 * pause, _PAUSES[1])


def _passes(error: SettingsError) -> bool:
    """Whether it may be another time: Kafka did not answer, or said that it can't yet."""
    cause = error.__cause__
    if isinstance(error, KafkaRefused):
        return False
    return isinstance(cause, OSError) or (isinstance(cause, KafkaError) and bool(cause.retriable))
