"""The stages of the stop share its grace, each has an end, and all of it is told."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from consumer.telemetry.metrics import Metrics
from consumer.telemetry.stages import Stage, Stages


class Clock:
    """A monotonic clock that the test turns."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def stopped(grace: float, clock: Clock) -> Stages:
    stages = Stages(Metrics(CollectorRegistry()), clock)
    stages.stop(grace)
    return stages


@pytest.mark.parametrize(
    ("grace", "draining"), [pytest.param(25.0, 15.0, id="default"), pytest.param(10.0, 6.0), pytest.param(600.0, 590.0)]
)
def test_running_steps_get_all_of_the_grace_but_its_end(grace: float, draining: float) -> None:
    stages = stopped(grace, Clock())
    assert stages.left(Stage.DRAINING) == pytest.approx(draining)


def test_the_stages_follow_each_other_and_the_last_ends_with_the_grace() -> None:
    stages = stopped(25.0, Clock())
    ends = [stages.left(stage) for stage in (Stage.DRAINING, Stage.INTERRUPTING, Stage.FLUSHING, Stage.LEAVING)]
    assert ends == sorted(ends)
    assert ends[1] - ends[0] > 5, "a command has 5 s between SIGTERM and SIGKILL"
    assert ends[-1] == pytest.approx(25.0)


def test_what_one_stage_leaves_over_is_for_the_next_ones() -> None:
    clock = Clock()
    stages = stopped(25.0, clock)
    clock.now += 3
    assert stages.left(Stage.FLUSHING) == pytest.approx(20.0)


def test_even_when_the_grace_is_over_there_is_a_moment_to_write_and_to_leave() -> None:
    clock = Clock()
    stages = stopped(1.0, clock)
    clock.now += 60
    assert stages.left(Stage.DRAINING) == 0
    assert min(stages.left(Stage.FLUSHING), stages.left(Stage.LEAVING)) == 1.0


def test_a_second_stop_does_not_prolong_the_first() -> None:
    clock = Clock()
    stages = stopped(10.0, clock)
    clock.now += 5
    stages.stop(10.0)
    assert stages.left(Stage.LEAVING) == pytest.approx(5.0)


def test_log_and_metrics_tell_the_stage_with_what_is_left() -> None:
    clock = Clock()
    metrics = Metrics(CollectorRegistry())
    stages = Stages(metrics, clock)
    assert metrics.registry.get_sample_value("wpk_agent_stage", {"stage": "starting"}) == 1
    stages.stop(25.0)
    clock.now += 1.5
    with capture_logs() as logs:
        stages.enter(Stage.DRAINING, running=3)
    assert logs == [
        {"event": "agent.stage", "log_level": "info", "stage": "draining", "seconds_left": 23.5, "running": 3}
    ]
    assert metrics.registry.get_sample_value("wpk_agent_stage", {"stage": "draining"}) == 1
    assert metrics.registry.get_sample_value("wpk_agent_stage", {"stage": "starting"}) is None
