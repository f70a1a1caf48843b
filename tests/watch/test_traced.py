"""A trace from the command's header to what its steps call, and on from an agent that is killed; and its exemplar."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from consumer.settings import Settings
from schemas.events import Status
from tests.support import agents, http_server, otlp, processes, prometheus
from tests.support.cache import Unavailable
from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker
from tests.support.require import require
from tests.watch import boards

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = f"00-{TRACE}-00f067aa0ba902b7-01"


def _package(*handlers: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "traced", "version": "1.0.0"}, "spec": {"handlers": list(handlers)}}


def _call(url: str, **config: Any) -> dict[str, Any]:
    return {"name": "call", "type": "api", "config": {"method": "GET", "url": url, **config}}


_PRINT = {"name": "print", "type": "shell", "config": {"command": "echo $TRACEPARENT"}}


async def _publish(config: Settings, execution_id: str, wpk: dict[str, Any]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=config.kafka_bootstrap_servers)
    await producer.start()
    try:
        body = json.dumps({"execution_id": execution_id, "wpk_content": wpk}).encode()
        headers = [("traceparent", GIVEN.encode())]
        topic = f"{config.topic_prefix}.commands.execute"
        await producer.send_and_wait(topic, body, key=execution_id.encode(), headers=headers)
    finally:
        await producer.stop()


async def test_a_trace_goes_from_the_command_through_each_step_to_what_it_calls(
    kafka: KafkaBroker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = agents.settings(kafka, prefix, sandbox="off")
    await agents.create_topics(config)
    async with otlp.receiver() as receiver, http_server.serve() as called:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setattr("consumer.telemetry.otlp._PARTING", 60.0)  # a loaded machine may need it
        async with agents.running(config), agents.user(config) as topics:
            await _publish(config, "e1", _package(_call(called.url("/echo")), _PRINT))
            assert (await topics.over("e1")).status is Status.COMPLETED
            printed = topics.log("e1", "print")
        (request,) = called.seen("/echo")

    (whole,), (call,), (shell,) = (receiver.named(name) for name in ("execute traced", "step call", "step print"))
    assert (whole.trace_id, whole.parent) == (TRACE, "00f067aa0ba902b7")
    assert {call.parent, shell.parent} == {whole.span_id}
    assert request.headers["traceparent"] == f"00-{TRACE}-{call.span_id}-01"
    assert f"00-{TRACE}-{shell.span_id}-01" in printed


async def test_without_a_receiver_steps_pass_on_the_commands_own_context_unless_they_name_another(
    embedded_kafka: KafkaBroker, prefix: str
) -> None:
    config = agents.settings(embedded_kafka, prefix, sandbox="off")
    await agents.create_topics(config)
    async with http_server.serve() as called:
        async with agents.running(config), agents.user(config) as topics:
            named = _call(called.url("/echo"), headers={"Traceparent": "mine"})
            await _publish(config, "e1", _package(_call(called.url("/echo")), {**named, "name": "own"}, _PRINT))
            assert (await topics.over("e1")).status is Status.COMPLETED
            assert topics.log("e1", "print") == [GIVEN]
            await topics.execute("e2", _package(_call(called.url("/echo"))))
            await topics.over("e2")
        sent = [request.headers.get("traceparent") for request in called.seen("/echo")]
    assert sent == [GIVEN, "mine", None]


async def test_the_agent_that_follows_a_killed_one_goes_on_in_its_trace(
    embedded_kafka: KafkaBroker, prefix: str
) -> None:
    async with otlp.receiver() as receiver, http_server.serve() as called:
        variables = processes.environment(embedded_kafka, prefix, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
        variables |= {"OTEL_BSP_SCHEDULE_DELAY": "100"}
        config = agents.settings(embedded_kafka, prefix)
        await processes.create_topics(variables)
        called.route("/slow", called.routes["/silent"])
        async with agents.user(config) as topics:
            async with processes.agent(variables) as first:
                first_call, second_call = _call(called.url("/echo")), {**_call(called.url("/slow")), "name": "slow"}
                await _publish(config, "e1", _package(first_call, second_call))
                await eventually(lambda: called.seen("/slow"), timeout=60)
                await eventually(lambda: receiver.named("step call"), timeout=60)
                await first.kill()
            called.answer("/slow", 200)
            async with processes.agent(variables):
                assert (await topics.over("e1")).status is Status.COMPLETED
                await eventually(lambda: receiver.named("execute traced"), timeout=60)
        before, after = (request.headers["traceparent"] for request in called.seen("/slow"))

    (whole,), (call,), (slow,) = (receiver.named(name) for name in ("execute traced", "step call", "step slow"))
    assert {whole.trace_id, call.trace_id, slow.trace_id} == {TRACE}
    assert {call.parent, slow.parent} == {whole.span_id}
    assert before == after == f"00-{TRACE}-{slow.span_id}-01"
    assert slow.attributes["wpk.step.interruptions"] == 1


async def test_a_real_prometheus_keeps_the_trace_of_a_runs_duration(embedded_kafka: KafkaBroker, prefix: str) -> None:
    try:
        prometheus.programs()
    except Unavailable as error:
        require(False, f"there is no Prometheus: {error}")
    config = agents.settings(embedded_kafka, prefix, sandbox="off")
    await agents.create_topics(config)
    async with agents.running(config) as agent, agents.user(config) as topics:
        await _publish(config, "e1", _package(_PRINT))
        await topics.over("e1")
        address = agent.started.metrics_url.removeprefix("http://").removesuffix("/metrics")
        scrape = {"job_name": boards.JOB, "static_configs": [{"targets": [address]}], "scrape_interval": "1s"}
        with prometheus.serve({"scrape_configs": [scrape]}) as server:

            async def look() -> set[str]:
                window = {"query": "workflow_duration_seconds_bucket", "start": "0", "end": "9999999999"}
                found = await asyncio.to_thread(server.get, "query_exemplars", **window)
                return {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}

            assert await eventually(look, timeout=60, interval=0.3) == {TRACE}
