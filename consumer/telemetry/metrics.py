"""What the agent counts and measures. Names and labels are a contract with dashboards and alerts: docs/metrics.md.

One object over an injected registry, so that tests and several agents in one process don't share numbers. Labels come
from small sets, or are bounded here: a label of free values would let anyone who submits packages fill the memory of
the agent and of Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from schemas import events
from schemas.events import EventData, Status
from schemas.execution import ExecutionState
from schemas.usage import Usage

#: From a fast step to a long run.
_DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_CPU_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
_MEMORY_BUCKETS = tuple(2**20 * size for size in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192))
_COMMANDS = ("execute", "rollback", "control")
_OUTCOMES = ("accepted", "rejected", "duplicate")
#: Why a record becomes a dead letter: the codes of `intake.decode`, and `internal`.
DEAD_LETTER_REASONS = ("empty", "internal", "no_object", "not_json", "too_large")
_STEP_STATUS: dict[type[EventData], str] = {
    events.StepSucceeded: "succeeded",
    events.StepFailed: "failed",
    events.StepRetrying: "retrying",
    events.StepCancelled: "cancelled",
}
#: Stands for all values beyond a label's bound.
OTHER = "other"

disable_created_metrics()  # type: ignore[no-untyped-call]  # else each counter has a second series, of no use here


class Bounded:
    """The first `limit` different values of a label; every other one is `other`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: set[str] = set()

    def __call__(self, value: str | None) -> str:
        value = value or "unknown"
        if value not in self._seen:
            if len(self._seen) >= self._limit:
                return OTHER
            self._seen.add(value)
        return value


class _Steps:
    """The attempts of steps: how they ended, and what they used."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._adapter = Bounded(100)
        self._durations = Histogram(
            "wpk_step_duration_seconds",
            "Time of one attempt of a step, by how it ended.",
            ("adapter", "status"),
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self._cpu = Histogram(
            "wpk_step_cpu_seconds",
            "Processor time of one attempt of a step, where its adapter tells it.",
            ("adapter",),
            buckets=_CPU_BUCKETS,
            registry=registry,
        )
        self._memory = Histogram(
            "wpk_step_peak_memory_bytes",
            "The most that one process of a step's attempt had in memory, where its adapter tells it.",
            ("adapter",),
            buckets=_MEMORY_BUCKETS,
            registry=registry,
        )
        self._retries = Counter(
            "wpk_step_retries_total", "Attempts that failed and are made again.", ("adapter",), registry=registry
        )

    def ended(self, adapter: str, drafts: Iterable[EventData]) -> None:
        label = self._adapter(adapter)
        for draft in drafts:
            status = _STEP_STATUS.get(type(draft))
            duration: float | None = getattr(draft, "duration", None)
            if status is not None and duration is not None:
                self._durations.labels(label, status).observe(duration)
            usage: Usage | None = getattr(draft, "usage", None)
            if usage is not None and usage.cpu_seconds is not None:
                self._cpu.labels(label).observe(usage.cpu_seconds)
            if usage is not None and usage.peak_memory_bytes is not None:
                self._memory.labels(label).observe(usage.peak_memory_bytes)
            if isinstance(draft, events.StepRetrying):
                self._retries.labels(label).inc()


class Metrics:
    """All of the agent's metrics, as methods that are named after what happened."""

    def __init__(self, registry: CollectorRegistry, *, max_workflows: int = 1000) -> None:
        self.registry = registry
        self._workflow = Bounded(max_workflows)
        self._code = Bounded(200)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(name, meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(name, meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, meaning, buckets=buckets, registry=registry)

        self._runs = counter(
            "workflow_runs_total", "Ends of workflow runs, by the status they ended in.", "workflow_name", "status"
        )
        self._successes = counter("workflow_success_total", "Workflow runs that completed.", "workflow_name")
        self._failures = counter(
            "workflow_failure_total",
            "Workflow runs that failed or were rejected, by the error's type.",
            "workflow_name",
            "error_type",
        )
        meaning = "Time from the start of a workflow run to its end, an automatic rollback included."
        self._durations = histogram("workflow_duration_seconds", meaning, _DURATION_BUCKETS)
        self._active = gauge("active_workflows", "Executions that this agent has and that have not ended.")
        executions = gauge("wpk_executions", "The same, by what they do: running or waiting.", "state")
        self._running, self._waiting = executions.labels("running"), executions.labels("waiting")
        self._steps = _Steps(registry)
        self._commands = counter("wpk_commands_total", "Commands, by what they led to.", "command", "outcome")
        self._dead_letters = counter("wpk_dead_letters_total", "Records that could not be understood.", "reason")
        self._owned = gauge("wpk_owned_partitions", "Partitions that this agent owns and has restored.")
        self._partitions = gauge("wpk_partitions", "Partitions of each topic, over all agents.")
        self._commits = histogram("wpk_commit_seconds", "Time to make one batch of records durable.", _COMMIT_BUCKETS)
        self._loop_lag = gauge("wpk_event_loop_lag_seconds", "Longest recent delay of the event loop.")
        self._lag = gauge("wpk_consumer_lag", "Commands that wait on the topic.", "topic", "partition")
        self._stage = gauge("wpk_agent_stage", "What the agent is about; 1 for the present stage.", "stage")
        self._hangs = counter("wpk_hangs_total", "What hung and was begun again.", "part")
        self._recoveries = counter(
            "wpk_recoveries_total", "Writes that failed, whose outcome was found out and that were made good."
        )
        self._notices = counter(
            "wpk_notices_total", "Notices of ends of executions, by how their delivery ended.", "type", "outcome"
        )
        self._sandbox = gauge("wpk_sandbox_info", "The sandbox of shell steps; 1 for the one in use.", "sandbox")
        self._policy_stale = gauge(
            "wpk_policy_stale", "1 while the policy's file can't be used, and the policy before is in force."
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """A rate needs the zero before the one."""
        for command in _COMMANDS:
            for outcome in _OUTCOMES:
                self._commands.labels(command, outcome)
        for part in ("member", "partition"):
            self._hangs.labels(part)
        for reason in DEAD_LETTER_REASONS:
            self._dead_letters.labels(reason)
        self.executions(running=0, waiting=0)

    # --- executions ---

    def executions(self, *, running: int, waiting: int) -> None:
        """How many executions there are: those that run steps or are about to, and those that wait."""
        self._active.set(running + waiting)
        self._running.set(running)
        self._waiting.set(waiting)

    def execution_ended(self, state: ExecutionState, trace_id: str | None = None) -> None:
        """An execution came to its end; called once more where a later command rolled it back.

        What changes nothing outside (dry runs of a run or a rollback, validations) is no run and is not counted. The id
        of its trace, where that is recorded, becomes the exemplar of its duration.
        """
        plan = state.dry_run or state.validate_only or (state.rollback is not None and state.rollback.dry_run)
        if state.status is None or plan:
            return
        workflow = self._workflow(state.workflow_name)
        self._runs.labels(workflow, state.status.value).inc()
        if state.status is Status.COMPLETED:
            self._successes.labels(workflow).inc()
        elif _failed(state):
            kind = state.error.type if state.error else state.status.value
            self._failures.labels(workflow, self._code(kind)).inc()
        if state.started_at is not None and state.completed_at is not None and not _undone_later(state):
            duration = max(0.0, (state.completed_at - state.started_at).total_seconds())
            self._durations.observe(duration, {"trace_id": trace_id} if trace_id else None)

    def attempt_ended(self, adapter: str, drafts: Iterable[EventData]) -> None:
        """An attempt of a step ended with these events."""
        self._steps.ended(adapter, drafts)

    # --- commands ---

    def command(self, command: str, drafts: Sequence[EventData]) -> None:
        """A command was understood and led to these events."""
        if any(isinstance(draft, events.CommandRejected) for draft in drafts):
            outcome = "rejected"
        elif any(isinstance(draft, events.CommandDuplicate) for draft in drafts):
            outcome = "duplicate"
        else:
            outcome = "accepted"
        self._commands.labels(command, outcome).inc()

    def dead_letter(self, reason: str) -> None:
        """A record could not be understood."""
        self._dead_letters.labels(self._code(reason)).inc()

    # --- the log and the agent ---

    def owned_partitions(self, count: int) -> None:
        """How many partitions the agent owns now."""
        self._owned.set(count)

    def partitions(self, count: int) -> None:
        """How many partitions there are to be owned, by this agent or another."""
        self._partitions.set(count)

    def committed(self, seconds: float) -> None:
        """A batch became durable."""
        self._commits.observe(seconds)

    def recovered(self) -> None:
        """A partition's owner found out what became of a write, and made it good."""
        self._recoveries.inc()

    def consumer_lag(self, topic: str, partition: int, records: int) -> None:
        """How many commands of a partition have not been taken yet."""
        self._lag.labels(topic, str(partition)).set(records)

    def forget_lag(self, topic: str, partition: int) -> None:
        """The partition is another agent's now; a last number that stays would be untrue for ever."""
        try:
            self._lag.remove(topic, str(partition))
        except KeyError:
            return

    def loop_lag(self, seconds: float) -> None:
        """The longest recent delay of the event loop."""
        self._loop_lag.set(seconds)

    def stage(self, name: str) -> None:
        """What the agent is about; see `telemetry.stages`."""
        self._stage.clear()
        self._stage.labels(name).set(1)

    def hung(self, part: Literal["member", "partition"]) -> None:
        """The agent's place in the group, or a partition's owner, made no progress and was begun again."""
        self._hangs.labels(part).inc()

    def notice(self, kind: str, outcome: str) -> None:
        """A notice was sent, refused by a rule of the agent, or given up."""
        self._notices.labels(kind, outcome).inc()

    def sandbox(self, kind: str) -> None:
        """Which sandbox shell steps get."""
        self._sandbox.clear()
        self._sandbox.labels(kind).set(1)

    def policy_stale(self, *, stale: bool) -> None:
        """Whether the policy's file can't be used, so that the policy before is in force."""
        self._policy_stale.set(stale)


def process_registry() -> CollectorRegistry:
    """A registry with the numbers of the process: memory, processor time, open files, garbage collections."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _undone_later(state: ExecutionState) -> bool:
    """Whether the end is that of a rollback that a command asked for, after the run had ended."""
    by_rollback = state.status in (Status.ROLLED_BACK, Status.ROLLBACK_FAILED)
    return by_rollback and state.rollback is not None and state.rollback.trigger == "command"


def _failed(state: ExecutionState) -> bool:
    """A rollback that worked is a failure only where the run's own failure made it necessary."""
    if state.status is Status.ROLLED_BACK:
        rollback = state.rollback
        return rollback is not None and rollback.trigger == "automatic" and rollback.previous is Status.FAILED
    return state.status in (Status.FAILED, Status.ROLLBACK_FAILED, Status.REJECTED)
