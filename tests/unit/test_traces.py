"""Traces: which spans there are, with which ids, sent to a real receiver, and never at an execution's cost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumer.telemetry import traces, tracing
from consumer.telemetry.traces import Context, Span
from schemas import events
from schemas.events import EventData, PlannedStep, Status
from schemas.execution import ExecutionState
from schemas.failure import Failure
from tests.support import http_server, otlp
from tests.support.engine_house import House, house, package, probe_module, step
from tests.support.eventually import eventually
from tests.support.memory_journal import MemoryJournal
from tests.support.stories import Story

pytestmark = pytest.mark.timeout(180)
GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = GIVEN[:-2] + "00"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SECRET = "0123-hidden-4567"


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


@dataclass
class Kept:
    """Keeps the spans instead of sending them."""

    spans: list[Span] = field(default_factory=list)

    def told(self, data: EventData, before: ExecutionState | None, after: ExecutionState) -> None:
        self.spans += traces.spans_of(data, before, after)

    def sampled(self, state: ExecutionState) -> bool:
        return True

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


def keep(h: House) -> Kept:
    kept = h.services.traces = Kept()
    return kept


# --- traceparent ---


def test_a_traceparent_is_read_and_written() -> None:
    context = traces.parse(GIVEN)
    assert context == Context(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, sampled=True)
    assert str(context) == GIVEN
    assert str(traces.parse(UNSAMPLED)) == UNSAMPLED


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param("ff" + GIVEN[2:], id="the forbidden version"),
        pytest.param(f"00-{'0' * 32}-00f067aa0ba902b7-01", id="no trace"),
        pytest.param(f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", id="no parent"),
        pytest.param(GIVEN.upper(), id="upper case"),
        pytest.param(GIVEN + "-more", id="too long"),
    ],
)
def test_what_is_no_traceparent_is_none(text: str | None) -> None:
    assert traces.parse(text) is None


def test_ids_are_an_executions_own_also_where_its_name_comes_again() -> None:
    first = ExecutionState(execution_id="e1", accepted_at=NOW)
    again = first.model_copy(update={"accepted_at": NOW + timedelta(days=8)})
    other = first.model_copy(update={"execution_id": "e2"})
    assert len({traces.trace_id(state) for state in (first, again, other)}) == 3
    assert traces.trace_id(first) == traces.trace_id(first.model_copy(update={"status": Status.RUNNING}))


def test_without_traces_of_its_own_an_agent_passes_on_the_commands() -> None:
    state = ExecutionState(execution_id="e1", accepted_at=NOW, traceparent=GIVEN)
    assert traces.step_traceparent(state, None, "run", "a", 1) == GIVEN
    assert traces.step_traceparent(ExecutionState(execution_id="e1"), None, "run", "a", 1) is None
    mine = traces.parse(traces.step_traceparent(state, Kept(), "run", "a", 1))
    assert mine is not None
    assert f"{mine.trace_id:032x}" == GIVEN[3:35]
    assert f"{mine.span_id:016x}" != GIVEN[36:52]


# --- spans of the trail ---


async def test_an_execution_and_each_attempt_of_its_steps_are_spans_of_the_commands_trace(probe: Any) -> None:
    wpk = package(step("a", {"fail_times": 1}, retry={"max_attempts": 2, "backoff": "1ms"}), step("b"))
    async with house(probe) as h:
        kept, h.traceparent = keep(h), GIVEN
        await h.execute(wpk)
        state = await h.over()

    whole, a, b = kept.named("execute probing")[0], kept.named("step a"), kept.named("step b")
    assert [span.name for span in kept.spans] == ["step a", "step a", "step b", "execute probing"]
    assert {f"{span.trace_id:032x}" for span in kept.spans} == {GIVEN[3:35]}
    assert f"{whole.parent:016x}" == GIVEN[36:52]
    assert {span.parent for span in (*a, *b)} == {whole.span_id}
    assert len({span.span_id for span in kept.spans}) == 4
    assert [(span.attributes["wpk.step.attempt"], span.failed) for span in a] == [(1, True), (2, False)]
    assert a[0].attributes["error.type"] == "probe"
    assert (whole.start, whole.began, whole.end) == (state.accepted_at, state.started_at, state.completed_at)
    assert all(whole.start <= span.start <= span.end <= whole.end for span in (*a, *b))


async def test_a_step_gets_the_context_of_its_own_attempts_span(probe: Any) -> None:
    wpk = package(step("a", {"fail_times": 1}, retry={"max_attempts": 2, "backoff": "1ms"}))
    async with house(probe) as h:
        kept = keep(h)
        await h.execute(wpk)
        await h.over()

    given = [traces.parse(context.traceparent) for context in probe.seen["e1"].contexts]
    assert [(each.trace_id, each.span_id) for each in given if each] == [
        (span.trace_id, span.span_id) for span in kept.named("step a")
    ]


async def test_the_next_owner_goes_on_in_the_same_trace_and_tells_the_interrupted_attempt_once(probe: Any) -> None:
    wpk = package(step("a"), step("b", {"wait": True, "repeatable": True}))
    async with house(probe) as h:
        kept = keep(h)
        await h.execute(wpk)
        await h.runs("b")
        await eventually(lambda: len(probe.seen["e1"].contexts) == 2)
        await h.move()
        await eventually(lambda: len(probe.seen["e1"].contexts) == 3)
        probe.seen["e1"].release["b"].set()
        await h.over()

    assert [span.name for span in kept.spans] == ["step a", "step b", "execute probing"]
    assert len({span.trace_id for span in kept.spans}) == 1
    before, after = (context.traceparent for context in probe.seen["e1"].contexts[1:])
    assert before == after
    assert kept.named("step b")[0].attributes["wpk.step.interruptions"] == 1


async def test_a_rollback_is_a_span_of_its_own_with_its_steps_below(probe: Any) -> None:
    wpk = package(
        step("a", {"capture": "1"}), step("b", {"fail_times": 9, "permanent": True}), rollback={"enabled": True}
    )
    async with house(probe) as h:
        kept = keep(h)
        await h.execute(wpk)
        await h.over()

    (whole,), (rollback,) = kept.named("execute probing"), kept.named("rollback")
    ran, undone = kept.named("step a")
    assert whole.failed
    assert whole.attributes["wpk.execution.status"] == "failed"
    assert (rollback.parent, rollback.failed) == (whole.span_id, False)
    assert (ran.parent, undone.parent) == (whole.span_id, rollback.span_id)
    assert rollback.attributes["wpk.rollback.trigger"] == "automatic"
    assert ran.span_id != undone.span_id


def test_an_attempt_has_one_span_also_where_it_is_cancelled_in_its_backoff() -> None:
    story = Story().accepted()
    error = Failure(type="probe", message="no")
    story.tell(events.ExecutionStarted(steps=(PlannedStep(step="a", adapter="probe"),), total_steps=1))
    story.tell(events.StepStarted(step="a", adapter="probe", attempt=1, started_at=story.now))
    story.tell(events.StepRetrying(step="a", adapter="probe", attempt=1, error=error, duration=2, retry_at=NOW))
    story.tell(events.StepCancelled(step="a", adapter="probe", attempt=1, reason="cancelled"))
    states = [None, *(told.state for told in story)]
    found = [
        span
        for told, before in zip(story, states, strict=False)
        for span in traces.spans_of(told.event.data, before, told.state)
    ]
    assert [(span.name, (span.end - span.start).total_seconds()) for span in found] == [("step a", 2)]


async def test_what_did_not_become_durable_is_not_told(probe: Any) -> None:
    journal = MemoryJournal()
    async with house(probe, journal=journal) as h:
        kept = keep(h)
        await h.execute(package(step("a", {"wait": True})))
        await eventually(lambda: probe.seen["e1"].contexts)
        journal.fail_at(journal.appended + 1)
        probe.seen["e1"].release["a"].set()
        await eventually(lambda: not journal.alive)
        await eventually(lambda: not h.partition.live)
    assert kept.spans == []


async def test_the_plan_that_is_made_again_before_an_approved_run_has_no_spans(probe: Any) -> None:
    wpk = package(step("a"), safety={"approval_required": True})
    async with house(probe) as h:
        await h.execute(wpk, "dry", dry_run=True, requested_by="alice")
        plan = (await h.over("dry")).plan_digest
        kept = keep(h)
        await h.execute(wpk, requested_by="alice")
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        await h.control("approve", requested_by="bob", digest=plan)
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert probe.seen["e1"].effects.count("plan a") == 1, "it was made again"
    assert [span.name for span in kept.spans] == ["step a", "execute probing"]


# --- sent ---


@asynccontextmanager
async def sent(
    probe: Any, monkeypatch: pytest.MonkeyPatch, endpoint: str, *, patient: bool = True, **variables: str
) -> AsyncIterator[House]:
    """An engine that sends its traces there; they have left when the block has ended."""
    for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **variables}.items():
        monkeypatch.setenv(name, value)
    if patient:
        monkeypatch.setattr("consumer.telemetry.otlp._PARTING", 60.0)  # a loaded machine needs more than an agent gives
    before = set(threading.enumerate())
    async with tracing.sending("agent-a") as sender, house(probe, secrets={"TOKEN": SECRET}) as h:
        assert sender is not None
        h.services.traces = sender
        yield h
    # A thread that still tries to send draws its backoff from `random`, which hypothesis forbids in the tests after it.
    await eventually(lambda: not any("Otel" in each.name or each.name == "traces" for each in _since(before)))


def _since(before: set[threading.Thread]) -> set[threading.Thread]:
    return set(threading.enumerate()) - before


async def test_spans_reach_a_receiver_as_opentelemetry_knows_them(probe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with otlp.receiver() as receiver:
        async with sent(probe, monkeypatch, receiver.endpoint, OTEL_RESOURCE_ATTRIBUTES="team=payments") as h:
            h.traceparent = GIVEN
            await h.execute(package(step("a"), step("b", {"fail_times": 9, "permanent": True})))
            await h.over()
        (whole,), (b,) = receiver.named("execute probing"), receiver.named("step b")

    assert sorted(span.name for span in receiver.spans) == ["execute probing", "step a", "step b"]
    assert (whole.trace_id, whole.parent) == (GIVEN[3:35], GIVEN[36:52])
    assert (b.trace_id, b.parent) == (whole.trace_id, whole.span_id)
    assert (whole.kind, b.kind) == (5, 1), "CONSUMER and INTERNAL"
    assert (whole.failed, b.failed, b.message) == (True, True, "attempt 1 failed as asked")
    assert whole.events == ["started"]
    assert b.attributes["error.type"] == "probe"
    assert b.attributes["wpk.execution.id"] == "e1"
    resource = receiver.resources[0]
    found = [resource[name] for name in ("service.name", "service.instance.id", "team")]
    assert found == ["wpk-agent", "agent-a", "payments"]


async def test_a_trace_that_its_caller_does_not_record_is_not_sent_but_passed_on(
    probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with otlp.receiver() as receiver:
        async with sent(probe, monkeypatch, receiver.endpoint) as h:
            h.traceparent = UNSAMPLED
            await h.execute(package(step("a")))
            state = await h.over()
            assert traces.exemplar(state, h.services.traces) is None
            h.traceparent = None
            await h.execute(package(step("other")), "e2")
            await h.over("e2")

    assert {span.attributes["wpk.execution.id"] for span in receiver.spans} == {"e2"}
    (context,) = probe.seen["e1"].contexts
    assert (context.traceparent[3:35], context.traceparent[-2:]) == (GIVEN[3:35], "00")


async def test_the_standard_sampler_decides_for_a_trace_as_a_whole(probe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with otlp.receiver() as receiver:
        variables = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
        async with sent(probe, monkeypatch, receiver.endpoint, **variables) as h:
            for number in range(24):
                await h.execute(package(step("a"), step("b")), f"e{number}")
                await h.over(f"e{number}")

    spans = [span.trace_id for span in receiver.spans]
    assert 0 < len(set(spans)) < 24
    assert {spans.count(trace) for trace in set(spans)} == {3}


async def test_no_secret_is_in_what_is_sent(probe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wpk = package(
        step("a", {"output": "${secrets.TOKEN}", "lines": ["${secrets.TOKEN}"]}),
        {"name": "b", "type": "delay", "config": {"duration": "1ms"}},
        step("c", {"delay": "${secrets.TOKEN}"}),
    )
    async with otlp.receiver() as receiver:
        async with sent(probe, monkeypatch, receiver.endpoint, OTEL_EXPORTER_OTLP_COMPRESSION="none") as h:
            await h.execute(wpk)
            state = await h.over()

    assert state.status is Status.FAILED
    assert receiver.named("step c")[0].failed
    assert receiver.bodies
    assert [body for body in receiver.bodies if SECRET.encode() in body] == []


async def test_a_sampler_that_fails_costs_executions_nothing_and_is_told_of_once(
    probe: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise RuntimeError("a defect of a plug-in")

    monkeypatch.setattr("opentelemetry.sdk.trace.sampling.ParentBased.should_sample", fail)
    async with otlp.receiver() as receiver:
        async with sent(probe, monkeypatch, receiver.endpoint) as h:
            await h.execute(package(step("a"), step("b")))
            state = await h.over()

    assert state.status is Status.COMPLETED
    assert capsys.readouterr().out.count("traces.failed") == 1
    assert receiver.spans == []


@pytest.mark.parametrize("trouble", ["silent", "nobody"])
async def test_a_receiver_that_does_not_answer_costs_executions_nothing(
    trouble: str, probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with http_server.serve() as server:
        endpoint = server.url("/silent") if trouble == "silent" else "http://127.0.0.1:9/v1/traces"
        small = {
            "OTEL_BSP_MAX_QUEUE_SIZE": "8",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
        }
        variables = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint, **small}
        async with sent(probe, monkeypatch, server.url(""), patient=False, **variables) as h:
            for number in range(20):
                await h.execute(package(step("a")), f"e{number}")
                state = await h.over(f"e{number}")
                assert state.status is Status.COMPLETED
            async with asyncio.timeout(30):  # the stop does not wait for the receiver either
                await h.services.traces.aclose()  # type: ignore[union-attr]


# --- whether ---


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_traces_are_sent_where_the_standard_variables_name_a_receiver(
    environment: dict[str, str], expected: bool
) -> None:
    assert tracing.wanted(environment) is expected


@pytest.mark.parametrize(
    ("variables", "missing", "hint"),
    [
        pytest.param({}, True, "wpk-agent[otel]", id="without the extra"),
        pytest.param({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False, "http/protobuf only", id="another protocol"),
        pytest.param({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, False, "ValueError", id="a wrong value"),
    ],
)
async def test_an_agent_that_can_not_send_traces_says_why_and_works(
    variables: dict[str, str],
    missing: bool,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if missing:
        monkeypatch.delitem(sys.modules, "consumer.telemetry.otlp", raising=False)
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    async with tracing.sending("agent-a") as sender:
        assert sender is None
    said = capsys.readouterr()
    assert "traces.unavailable" in said.out + said.err
    assert hint in said.out + said.err


def test_an_agent_that_sends_no_traces_imports_nothing_for_them() -> None:
    program = "import sys, consumer.agent; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
