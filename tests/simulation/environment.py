"""What a schedule must not take from the machine: clocks, randomness, aiokafka, and the agent's own log."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from typing import Any
from unittest.mock import patch
from zlib import crc32

import structlog
from prometheus_client import CollectorRegistry

from consumer import clock
from consumer.engine.execution import Execution
from consumer.intake import lane, listener, member
from consumer.journal import owner, producers, reader
from consumer.telemetry.metrics import Metrics
from consumer.workflow import conditions
from tests.simulation.consumer import SimClient, SimConsumer
from tests.simulation.log import EPOCH_MS
from tests.simulation.loop import Loop, current
from tests.simulation.producer import SimProducer

_BEGIN = datetime.fromtimestamp(EPOCH_MS / 1000, UTC)
#: Polling is an interval of nothing here: data wakes it.
_POLL_MS = 3000
#: How often an owner looks for records that came late; so seldom in earnest that no schedule is long enough.
MEND_SECONDS = 15.0
#: What the agents reported as their own defects.
defects: list[str] = []


@cache
def metrics() -> Metrics:
    """Shared by all agents: nothing reads them."""
    return Metrics(CollectorRegistry())


class AgentClock:
    """The wall clock of whichever agent asks."""

    def __init__(self, loop: Loop, skew: dict[str, float]) -> None:
        self._loop = loop
        self._skew = skew

    def now(self) -> datetime:
        """The loop's time as a date, as wrong as that agent's clock is."""
        seconds = self._loop.time() + self._skew.get(current.get().name.partition(".")[0], 0.0)
        return _BEGIN + timedelta(milliseconds=int(seconds * 1000))


@contextmanager
def installed() -> Iterator[None]:
    """aiokafka's place is taken; the agent's log is silent but for defects. Once for many schedules."""
    conditions.compile_condition("true")
    before = structlog.get_config()
    structlog.configure(
        processors=[_keep_defect],
        wrapper_class=structlog.make_filtering_bound_logger(40),
        cache_logger_on_first_use=False,
    )
    try:
        with ExitStack() as stack:
            stack.enter_context(patch.object(producers, "AIOKafkaProducer", SimProducer))
            stack.enter_context(patch.object(reader, "AIOKafkaConsumer", SimConsumer))
            stack.enter_context(patch.object(listener, "AIOKafkaConsumer", SimConsumer))
            stack.enter_context(patch.object(member, "AIOKafkaClient", SimClient))
            stack.enter_context(patch.object(owner, "_MEND_SECONDS", MEND_SECONDS))
            stack.enter_context(patch.object(listener, "_POLL_MS", _POLL_MS))
            stack.enter_context(patch.object(lane, "_SWEEP_SECONDS", 7.0))
            # Sets of executions have the same order in every run.
            stack.enter_context(patch.object(Execution, "__hash__", lambda self: crc32(self.execution_id.encode())))
            yield
    finally:
        structlog.configure(**before)


@contextmanager
def deterministic(loop: Loop, seed: int, wall: AgentClock) -> Iterator[None]:
    """Clocks and randomness come from the loop and the seed."""
    defects.clear()
    state = random.getstate()
    random.seed(seed)
    draw = Random(seed)
    try:
        with ExitStack() as stack:
            stack.enter_context(patch.object(time, "monotonic", loop.time))
            stack.enter_context(patch.object(os, "urandom", draw.randbytes))
            stack.enter_context(patch.object(clock.SystemClock, "now", lambda self: wall.now()))
            yield
    finally:
        random.setstate(state)


def _keep_defect(logger: object, method: str, event: Any) -> Any:
    process = current.get(None)
    if process is not None and not process.dead:
        error = event.get("exc_info")
        told = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else ""
        defects.append(f"{process.name} logged {event.get('event')} {event} {told}"[:2000])
    raise structlog.DropEvent
