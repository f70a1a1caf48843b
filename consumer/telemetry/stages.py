"""What the agent is about: it starts, runs, and stops in named stages, each of which has its share of the grace.

refusing: no command is taken any more, and no step begins.
draining: steps that run come to their end. What only waits is left to the next owner at once.
interrupting: what has not ended is ended. What may be repeated is left to the next owner; the trail of every other step
says that the agent's stop interrupted it.
flushing: all that was queued becomes durable, and the partitions are closed.
leaving: the group is left, so that the next owner begins at once and not after the session's timeout.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable

import structlog

from consumer.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)


class Stage(enum.StrEnum):
    """In the order of an agent's life."""

    STARTING = "starting"
    RUNNING = "running"
    REFUSING = "refusing"
    DRAINING = "draining"
    INTERRUPTING = "interrupting"
    FLUSHING = "flushing"
    LEAVING = "leaving"


#: What remains of the grace when a stage must be over, as a share of the time that is kept for what follows draining.
_REMAINS = {Stage.REFUSING: 1.0, Stage.DRAINING: 1.0, Stage.INTERRUPTING: 0.4, Stage.FLUSHING: 0.2, Stage.LEAVING: 0.0}
#: What is kept of the grace for all that follows draining: so many seconds, or so much of a short grace. A command gets
#: 5 s between SIGTERM and SIGKILL, and a write to Kafka, or to leave the group, takes a fraction of one.
_TAIL_SECONDS, _TAIL_SHARE = 10.0, 0.4
#: What stages after draining get even where the grace is too short for them (seconds).
_SHORTEST = 1.0


class Stages:
    """The present stage; log, metrics and /readyz tell it. All times are seconds."""

    def __init__(self, metrics: Metrics, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._grace = 0.0
        self._metrics = metrics
        self._monotonic = monotonic
        self._ends: float | None = None
        self.stage = Stage.STARTING
        metrics.stage(self.stage)

    @property
    def stopping(self) -> bool:
        """Whether the agent was told to stop."""
        return self._ends is not None

    def stop(self, grace: float) -> None:
        """The stop begins, and has to be over when the grace is; does nothing the second time."""
        if self._ends is None:
            self._grace = grace
            self._ends = self._monotonic() + self._grace

    def enter(self, stage: Stage, **facts: object) -> None:
        """The next stage begins; `facts` go into the log."""
        self.stage = stage
        self._metrics.stage(stage)
        if self._ends is not None:
            facts = {"seconds_left": round(self._ends - self._monotonic(), 3), **facts}
        say = _log.warning if stage is Stage.INTERRUPTING else _log.info
        say("agent.stage", stage=stage.value, **facts)

    def left(self, stage: Stage) -> float:
        """How long that stage of the stop may still take."""
        assert self._ends is not None, "the agent stops"
        tail = min(_TAIL_SECONDS, _TAIL_SHARE * self._grace)
        left = self._ends - _REMAINS[stage] * tail - self._monotonic()
        return max(0.0 if stage in (Stage.REFUSING, Stage.DRAINING) else _SHORTEST, left)
