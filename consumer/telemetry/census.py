"""What the executions of an agent wait for, counted whenever the metrics are read: nothing is kept for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from schemas.events import Status
from schemas.execution import ExecutionState, StepStatus

_AT_WORK = frozenset({Status.RUNNING, Status.ROLLING_BACK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Of the executions that have not ended, at one moment."""

    approvals: int = 0
    """How many wait for an approval."""
    approval_seconds: float = 0.0
    """How long the one that waits longest for it has, since its last event: an approval of several begins it anew."""
    silent_seconds: float = 0.0
    """How long the one has written nothing, not even a line of output, that has been silent longest. Those that wait
    for an approval, a delay or a backoff do not count: they have nothing to say."""


def take(states: Iterable[ExecutionState], now: datetime) -> Census:
    """The census of those executions."""
    approvals, since, silent = 0, now, now
    for state in states:
        last = state.updated_at or now
        if state.status is Status.AWAITING_APPROVAL:
            approvals += 1
            since = min(since, last)
        elif not _rests(state):
            silent = min(silent, last)
    return Census(
        approvals=approvals,
        approval_seconds=(now - since).total_seconds(),
        silent_seconds=(now - silent).total_seconds(),
    )


def _rests(state: ExecutionState) -> bool:
    """Whether it only waits for times that are known. One that has just been accepted, or is between steps, does not:
    something is to happen at once."""
    if state.status not in _AT_WORK:
        return False
    steps = (state.rollback_steps if state.status is Status.ROLLING_BACK else state.steps).values()
    works = any(step.status is StepStatus.RUNNING and step.adapter != "delay" for step in steps)
    waits = any(step.status in (StepStatus.RUNNING, StepStatus.RETRYING) for step in steps)
    return waits and not works


class CensusCollector(Collector):
    """Shows the census of the moment in which the metrics are read."""

    def __init__(self, take: Callable[[], Census], registry: CollectorRegistry) -> None:
        self._take = take
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The three metrics."""
        census = self._take()
        for name, meaning, value in (
            ("wpk_approvals_waiting", "Executions that wait for an approval.", census.approvals),
            ("wpk_approval_wait_seconds", "How long the longest of them has waited.", census.approval_seconds),
            (
                "wpk_execution_silence_seconds",
                "How long the execution has written nothing that has been silent longest.",
                census.silent_seconds,
            ),
        ):
            yield GaugeMetricFamily(name, meaning, value=value)
