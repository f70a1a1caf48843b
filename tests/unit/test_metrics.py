"""Metrics: exact names and labels, and what is counted when."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families

from consumer.intake import decode
from consumer.telemetry.census import Census, CensusCollector
from consumer.telemetry.metrics import DEAD_LETTER_REASONS, OTHER, Metrics, process_registry
from schemas import events
from schemas.events import Status
from schemas.execution import ExecutionState, RollbackState
from schemas.failure import Failure, Problem
from schemas.usage import Usage

START = datetime(2026, 11, 24, 4, tzinfo=UTC)
SOURCE = events.Source(topic="wpk.commands.execute", partition=0, offset=1)
BROKEN = Failure(type="exit_code", message="exit code 1")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def ended(status: Status, **update: object) -> ExecutionState:
    state = ExecutionState(
        execution_id="e1",
        workflow_name="greet",
        status=status,
        started_at=START,
        completed_at=START + timedelta(seconds=7),
    )
    return state.model_copy(update=update)


def rollback(previous: Status, *, trigger: str = "automatic", dry_run: bool = False) -> RollbackState:
    return RollbackState(trigger=trigger, mode="compensation", previous=previous, started_at=START, dry_run=dry_run)


def families(metrics: Metrics) -> dict[str, tuple[str, set[str]]]:
    """Type and label names of each metric, as a scraper sees it."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, labels)
    return found


def succeeded(usage: Usage | None) -> events.StepSucceeded:
    return events.StepSucceeded(step="a", adapter="shell", started_at=START, duration=1, usage=usage)


def fill(metrics: Metrics) -> None:
    """Lets every metric have a value."""
    metrics.execution_ended(ended(Status.COMPLETED))
    metrics.execution_ended(ended(Status.FAILED, error=BROKEN))
    metrics.executions(running=1, waiting=2)
    metrics.attempt_ended(
        "shell", [events.StepRetrying(step="a", adapter="shell", error=BROKEN, duration=1, retry_at=START)]
    )
    metrics.attempt_ended("shell", [succeeded(Usage(cpu_seconds=0.2, peak_memory_bytes=10_000_000))])
    metrics.command("execute", [])
    metrics.dead_letter("not_json")
    metrics.owned_partitions(3)
    metrics.partitions(12)
    CensusCollector(lambda: Census(approvals=1), metrics.registry)
    metrics.committed(0.01)
    metrics.recovered()
    metrics.notice("slack", "sent")
    metrics.consumer_lag("wpk.commands.execute", 3, 5)
    metrics.loop_lag(0.1)
    metrics.sandbox("bubblewrap")
    metrics.stage("running")
    metrics.hung("partition")


def test_a_scraper_sees_exactly_the_promised_names_types_and_labels(metrics: Metrics) -> None:
    fill(metrics)
    assert families(metrics) == {
        "workflow_runs_total": ("counter", {"workflow_name", "status"}),
        "workflow_success_total": ("counter", {"workflow_name"}),
        "workflow_failure_total": ("counter", {"workflow_name", "error_type"}),
        "workflow_duration_seconds": ("histogram", set()),
        "active_workflows": ("gauge", set()),
        "wpk_executions": ("gauge", {"state"}),
        "wpk_step_duration_seconds": ("histogram", {"adapter", "status"}),
        "wpk_step_cpu_seconds": ("histogram", {"adapter"}),
        "wpk_step_peak_memory_bytes": ("histogram", {"adapter"}),
        "wpk_step_retries_total": ("counter", {"adapter"}),
        "wpk_commands_total": ("counter", {"command", "outcome"}),
        "wpk_dead_letters_total": ("counter", {"reason"}),
        "wpk_owned_partitions": ("gauge", set()),
        "wpk_partitions": ("gauge", set()),
        "wpk_approvals_waiting": ("gauge", set()),
        "wpk_approval_wait_seconds": ("gauge", set()),
        "wpk_execution_silence_seconds": ("gauge", set()),
        "wpk_commit_seconds": ("histogram", set()),
        "wpk_event_loop_lag_seconds": ("gauge", set()),
        "wpk_consumer_lag": ("gauge", {"topic", "partition"}),
        "wpk_sandbox_info": ("gauge", {"sandbox"}),
        "wpk_policy_stale": ("gauge", set()),
        "wpk_agent_stage": ("gauge", {"stage"}),
        "wpk_recoveries_total": ("counter", set()),
        "wpk_notices_total": ("counter", {"type", "outcome"}),
        "wpk_hangs_total": ("counter", {"part"}),
    }


def test_the_lines_carry_the_exact_names_and_no_creation_times(metrics: Metrics) -> None:
    fill(metrics)
    text = generate_latest(metrics.registry).decode()
    assert 'workflow_runs_total{status="completed",workflow_name="greet"} 1.0' in text
    assert 'workflow_success_total{workflow_name="greet"} 1.0' in text
    assert 'workflow_failure_total{error_type="exit_code",workflow_name="greet"} 1.0' in text
    assert "workflow_duration_seconds_count 2.0" in text
    assert "active_workflows 3.0" in text
    assert "_created" not in text
    assert "_total_total" not in text


def test_the_page_of_the_metrics_names_each_of_them(metrics: Metrics) -> None:
    fill(metrics)
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", page, flags=re.MULTILINE)
    assert {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows} == families(metrics)


def test_a_completed_run_counts_as_success_with_its_duration(metrics: Metrics) -> None:
    metrics.execution_ended(ended(Status.COMPLETED))
    assert value(metrics, "workflow_runs_total", workflow_name="greet", status="completed") == 1
    assert value(metrics, "workflow_success_total", workflow_name="greet") == 1
    assert value(metrics, "workflow_duration_seconds_sum") == 7
    assert value(metrics, "workflow_failure_total", workflow_name="greet", error_type="completed") is None


@pytest.mark.parametrize(
    ("state", "failures"),
    [
        pytest.param(ended(Status.FAILED, error=BROKEN), 1, id="failed"),
        pytest.param(ended(Status.REJECTED, error=BROKEN), 1, id="rejected"),
        pytest.param(
            ended(Status.ROLLED_BACK, error=BROKEN, rollback=rollback(Status.FAILED)), 1, id="failed and rolled back"
        ),
        pytest.param(
            ended(Status.ROLLBACK_FAILED, error=BROKEN, rollback=rollback(Status.CANCELLED)), 1, id="rollback failed"
        ),
        pytest.param(ended(Status.CANCELLED, error=BROKEN), 0, id="cancelled"),
        pytest.param(
            ended(Status.ROLLED_BACK, error=BROKEN, rollback=rollback(Status.CANCELLED)), 0, id="cancelled, rolled back"
        ),
        pytest.param(
            ended(Status.ROLLED_BACK, error=BROKEN, rollback=rollback(Status.FAILED, trigger="command")),
            0,
            id="rolled back by hand: its failure was counted before",
        ),
    ],
)
def test_a_run_counts_as_failure_once_and_only_for_its_own_failure(
    metrics: Metrics, state: ExecutionState, failures: int
) -> None:
    metrics.execution_ended(state)
    assert state.status is not None
    assert value(metrics, "workflow_runs_total", workflow_name="greet", status=state.status.value) == 1
    assert (value(metrics, "workflow_failure_total", workflow_name="greet", error_type="exit_code") or 0) == failures
    assert value(metrics, "workflow_success_total", workflow_name="greet") is None


def test_a_failure_without_an_error_counts_by_its_status(metrics: Metrics) -> None:
    metrics.execution_ended(ended(Status.FAILED))
    assert value(metrics, "workflow_failure_total", workflow_name="greet", error_type="failed") == 1


def test_a_rollback_by_hand_is_no_run_with_a_duration(metrics: Metrics) -> None:
    metrics.execution_ended(ended(Status.ROLLED_BACK, rollback=rollback(Status.COMPLETED, trigger="command")))
    assert value(metrics, "workflow_duration_seconds_count") == 0


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(ended(Status.COMPLETED, dry_run=True), id="dry run"),
        pytest.param(ended(Status.COMPLETED, validate_only=True), id="validation"),
        pytest.param(
            ended(Status.COMPLETED, rollback=rollback(Status.COMPLETED, trigger="command", dry_run=True)),
            id="dry run of a rollback",
        ),
    ],
)
def test_what_changes_nothing_is_not_counted(metrics: Metrics, state: ExecutionState) -> None:
    metrics.execution_ended(state)
    assert value(metrics, "workflow_runs_total", workflow_name="greet", status="completed") is None
    assert value(metrics, "workflow_duration_seconds_count") == 0


def test_attempts_are_measured_by_how_they_ended(metrics: Metrics) -> None:
    retrying = events.StepRetrying(step="a", adapter="api", error=BROKEN, duration=0.2, retry_at=START)
    succeeded = events.StepSucceeded(step="a", adapter="api", started_at=START, duration=0.5)
    metrics.attempt_ended("api", [retrying])
    metrics.attempt_ended("api", [succeeded])
    metrics.attempt_ended(
        "api", [events.StepSkipped(step="b", adapter="api", reason="no"), events.StepCancelled(step="c", adapter="api")]
    )
    assert value(metrics, "wpk_step_retries_total", adapter="api") == 1
    assert value(metrics, "wpk_step_duration_seconds_sum", adapter="api", status="retrying") == 0.2
    assert value(metrics, "wpk_step_duration_seconds_sum", adapter="api", status="succeeded") == 0.5
    assert value(metrics, "wpk_step_duration_seconds_count", adapter="api", status="cancelled") is None


def test_commands_are_counted_by_what_they_led_to(metrics: Metrics) -> None:
    assert value(metrics, "wpk_commands_total", command="rollback", outcome="rejected") == 0, "a rate needs its zero"
    rejected = events.CommandRejected(command="rollback", errors=(Problem(path="", message="no"),))
    duplicate = events.CommandDuplicate(command="execute", source=SOURCE)
    metrics.command("rollback", [rejected])
    metrics.command("execute", [duplicate])
    metrics.command("control", [events.ExecutionApproved(approved_by="bob")])
    assert value(metrics, "wpk_commands_total", command="rollback", outcome="rejected") == 1
    assert value(metrics, "wpk_commands_total", command="execute", outcome="duplicate") == 1
    assert value(metrics, "wpk_commands_total", command="control", outcome="accepted") == 1


def test_a_rate_of_dead_letters_has_its_zero_for_every_reason_there_is(metrics: Metrics) -> None:
    source = Path(decode.__file__).read_text(encoding="utf-8")
    reasons = {"internal", *re.findall(r'_DeadLetter\(\s*"(\w+)"', source)}
    assert len(reasons) > 3
    assert {reason: value(metrics, "wpk_dead_letters_total", reason=reason) for reason in reasons} == dict.fromkeys(
        DEAD_LETTER_REASONS, 0
    )


def test_names_of_workflows_can_not_fill_the_memory() -> None:
    metrics = Metrics(CollectorRegistry(), max_workflows=2)
    for name in ("a", "b", "c", "d", "a"):
        metrics.execution_ended(ended(Status.COMPLETED, workflow_name=name))
    assert value(metrics, "workflow_success_total", workflow_name="a") == 2
    assert value(metrics, "workflow_success_total", workflow_name=OTHER) == 2
    assert value(metrics, "workflow_success_total", workflow_name="c") is None


def test_error_types_and_reasons_can_not_fill_the_memory(metrics: Metrics) -> None:
    for number in range(300):
        metrics.dead_letter(f"reason-{number}")
    assert value(metrics, "wpk_dead_letters_total", reason=OTHER) == 100


def test_a_run_without_a_name_is_unknown(metrics: Metrics) -> None:
    metrics.execution_ended(ended(Status.REJECTED, workflow_name=None, error=BROKEN))
    assert value(metrics, "workflow_runs_total", workflow_name="unknown", status="rejected") == 1


def test_executions_are_active_whether_they_run_or_wait(metrics: Metrics) -> None:
    metrics.executions(running=2, waiting=5)
    assert value(metrics, "active_workflows") == 7
    assert value(metrics, "wpk_executions", state="running") == 2
    assert value(metrics, "wpk_executions", state="waiting") == 5


def test_the_lag_of_a_partition_goes_with_the_partition(metrics: Metrics) -> None:
    metrics.consumer_lag("wpk.commands.execute", 3, 5)
    assert value(metrics, "wpk_consumer_lag", topic="wpk.commands.execute", partition="3") == 5
    metrics.forget_lag("wpk.commands.execute", 3)
    metrics.forget_lag("wpk.commands.execute", 3)
    assert value(metrics, "wpk_consumer_lag", topic="wpk.commands.execute", partition="3") is None


def test_what_an_attempt_used_counts_where_it_is_told(metrics: Metrics) -> None:
    told = (None, Usage(sandbox="none"), Usage(cpu_seconds=2.5), Usage(cpu_seconds=0.5, peak_memory_bytes=5_000_000))
    metrics.attempt_ended("shell", [succeeded(usage) for usage in told])
    assert value(metrics, "wpk_step_cpu_seconds_count", adapter="shell") == 2
    assert value(metrics, "wpk_step_cpu_seconds_sum", adapter="shell") == 3
    assert value(metrics, "wpk_step_peak_memory_bytes_sum", adapter="shell") == 5_000_000


def test_only_the_sandbox_in_use_is_shown(metrics: Metrics) -> None:
    metrics.sandbox("none")
    metrics.sandbox("bubblewrap")
    assert value(metrics, "wpk_sandbox_info", sandbox="bubblewrap") == 1
    assert value(metrics, "wpk_sandbox_info", sandbox="none") is None


def test_two_agents_in_one_process_do_not_share_numbers() -> None:
    first, second = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    first.executions(running=1, waiting=0)
    assert value(second, "active_workflows") == 0


def test_the_process_tells_of_its_memory() -> None:
    assert (process_registry().get_sample_value("process_resident_memory_bytes") or 0) > 1_000_000


def test_the_duration_of_a_run_names_its_trace_in_openmetrics_only(metrics: Metrics) -> None:
    metrics.execution_ended(ended(Status.COMPLETED), "4bf92f3577b34da6a3ce929d0e0e4736")
    encode, kind = choose_encoder("application/openmetrics-text;version=1.0.0")
    assert "openmetrics" in kind
    exemplar = '# {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 7.0'
    assert [line for line in encode(metrics.registry).decode().splitlines() if exemplar in line]
    assert "trace_id" not in generate_latest(metrics.registry).decode()


def test_a_run_without_a_trace_has_no_exemplar(metrics: Metrics) -> None:
    metrics.execution_ended(ended(Status.COMPLETED))
    encode, _ = choose_encoder("application/openmetrics-text;version=1.0.0")
    assert "trace_id" not in encode(metrics.registry).decode()
