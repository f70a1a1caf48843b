"""What the metrics say of executions that wait, and of those that say nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from consumer.telemetry import census
from consumer.telemetry.census import Census, CensusCollector
from schemas.events import Status
from schemas.execution import ExecutionState, StepState, StepStatus

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def state(status: Status, ago: float, **steps: tuple[str, StepStatus]) -> ExecutionState:
    """Silent for so many seconds; steps are adapter and status."""
    phase = "rollback" if status is Status.ROLLING_BACK else "run"
    found = {
        name: StepState(step=name, adapter=adapter, phase=phase, status=where)
        for name, (adapter, where) in steps.items()
    }
    return ExecutionState(
        execution_id="e",
        status=status,
        updated_at=NOW - timedelta(seconds=ago),
        **{"rollback_steps" if phase == "rollback" else "steps": found},
    )


RUNNING, RETRYING, DONE = StepStatus.RUNNING, StepStatus.RETRYING, StepStatus.SUCCEEDED


def test_an_agent_without_executions_has_nothing_to_tell() -> None:
    assert census.take([], NOW) == Census()


def test_approvals_are_counted_and_the_longest_wait_is_told() -> None:
    states = [state(Status.AWAITING_APPROVAL, ago) for ago in (5, 700, 60)]
    assert census.take(states, NOW) == Census(approvals=3, approval_seconds=700)


@pytest.mark.parametrize(
    ("quiet", "silent"),
    [
        pytest.param(state(Status.RUNNING, 90, a=("shell", RUNNING)), 90, id="a step at work"),
        pytest.param(state(Status.ROLLING_BACK, 90, a=("k8s", RUNNING)), 90, id="a rollback at work"),
        pytest.param(state(Status.RUNNING, 90, a=("shell", RUNNING), b=("delay", RUNNING)), 90, id="one of two waits"),
        pytest.param(state(Status.PENDING, 90), 90, id="accepted, and nothing began"),
        pytest.param(state(Status.RUNNING, 90, a=("shell", DONE)), 90, id="between two steps"),
        pytest.param(state(Status.RUNNING, 90, a=("delay", RUNNING)), 0, id="a delay"),
        pytest.param(state(Status.RUNNING, 90, a=("api", RETRYING)), 0, id="a backoff"),
    ],
)
def test_silence_counts_only_where_something_should_happen(quiet: ExecutionState, silent: float) -> None:
    assert census.take([quiet], NOW).silent_seconds == silent


def test_the_census_is_taken_anew_each_time_the_metrics_are_read() -> None:
    states: list[ExecutionState] = []
    registry = CollectorRegistry()
    CensusCollector(lambda: census.take(states, NOW), registry)
    assert registry.get_sample_value("wpk_approvals_waiting") == 0
    states.append(state(Status.AWAITING_APPROVAL, 30))
    assert registry.get_sample_value("wpk_approvals_waiting") == 1
    assert registry.get_sample_value("wpk_approval_wait_seconds") == 30
    assert registry.get_sample_value("wpk_execution_silence_seconds") == 0
