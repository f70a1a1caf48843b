"""The agent as a process: how it starts, what it says where it can't, and how it stops."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from consumer.dev.broker import free_port
from tests.support import processes
from tests.support.eventually import eventually
from tests.support.foreign import ForeignUser, foreign_user
from tests.support.kafka import KafkaBroker
from tests.support.processes import processes_with, wpk

pytestmark = pytest.mark.timeout(240)

METRICS = {
    "workflow_runs_total": {"workflow_name", "status"},
    "workflow_success_total": {"workflow_name"},
    "workflow_failure_total": {"workflow_name", "error_type"},
    "workflow_duration_seconds": set(),
    "active_workflows": set(),
}


@pytest.fixture
def variables(embedded_kafka: KafkaBroker, prefix: str) -> dict[str, str]:
    return processes.environment(embedded_kafka, prefix)


@pytest.fixture
async def topics(variables: dict[str, str]) -> None:
    await processes.create_topics(variables)


@pytest.fixture
def user(topics: None, embedded_kafka: KafkaBroker, prefix: str) -> Iterator[ForeignUser]:
    with foreign_user(embedded_kafka.bootstrap, prefix) as user:
        yield user


def package(command: str, name: str = "small") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "version": "1.0.0"},
        "spec": {"handlers": [{"name": "only", "type": "shell", "config": {"command": command}}]},
    }


# --- it can't start -------------------------------------------------------------------------------------------------


async def test_without_a_broker_it_ends_with_3_and_one_sentence(prefix: str) -> None:
    port = free_port()
    variables = processes.environment(f"127.0.0.1:{port}", prefix, LOG_LEVEL="error", WPK_START_TIMEOUT="0s")
    done = await wpk(variables, "agent")
    assert done.code == 3, done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert f"127.0.0.1:{port}" in sentence
    assert "KAFKA_BOOTSTRAP_SERVERS" in sentence
    assert "Traceback" not in done.stderr


async def test_without_topics_it_ends_with_2_and_the_remedy(variables: dict[str, str], prefix: str) -> None:
    done = await wpk(variables, "agent")
    assert done.code == 2, done.stderr
    assert f"{prefix}.commands.execute" in done.stderr
    assert "wpk topics create" in done.stderr
    assert "Traceback" not in done.stderr


async def test_exactly_once_is_refused_where_the_broker_cannot_do_it(topics: None, variables: dict[str, str]) -> None:
    done = await wpk({**variables, "WPK_PROCESSING_GUARANTEE": "exactly_once"}, "agent")
    assert done.code == 2, done.stderr
    assert "this broker has no transactions" in done.stderr
    assert "at_least_once" in done.stderr
    assert "Traceback" not in done.stderr


async def test_all_wrong_settings_are_told_at_once(variables: dict[str, str]) -> None:
    wrong = {
        "KAFKA_BOOTSTRAP_SERVERS": "nowhere",
        "WPK_PARTITIONS": "many",
        "WPK_SANDBOX": "perhaps",
        "WPK_SESSION_TIMEOUT": "soon",
        "PROMETHEUS_PORT": "70000",
    }
    done = await wpk({**variables, **wrong}, "agent")
    assert done.code == 2, done.stderr
    for name in wrong:
        assert name in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_port_that_is_taken_is_told(variables: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = await wpk({**variables, "PROMETHEUS_PORT": str(port)}, "agent")
    assert done.code == 2, done.stderr
    assert str(port) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# --- it works -------------------------------------------------------------------------------------------------------


def series(text: str, name: str) -> list[set[str]]:
    """The names of the labels of each series of that metric."""
    found = []
    for line in text.splitlines():
        head, _, _ = line.rpartition(" ")
        metric, _, labels = head.partition("{")
        if metric == name:
            found.append({pair.split("=")[0] for pair in labels.rstrip("}").split(",") if "=" in pair})
    return found


async def test_a_busy_agent_tells_how_it_is(user: ForeignUser, variables: dict[str, str]) -> None:
    async with processes.agent(variables) as agent:
        facts = await agent.ready()
        assert (facts["status"], facts["active_executions"], facts["owned_partitions"]) == ("ok", 0, 2)
        assert facts["processing_guarantee"] == "at_least_once"

        user.publish("execute", {"wpk_content": package("echo fine")}, key="good")
        user.publish("execute", {"wpk_content": package("exit 7")}, key="bad")
        assert (await user.result("good"))["status"] == "completed"
        assert (await user.result("bad"))["status"] == "failed"
        user.publish("execute", {"wpk_content": package("sleep 300")}, key="long")
        await user.event("long", "step.started")

        assert json.loads((await agent.get("/readyz"))[1])["active_executions"] == 1
        status, body = await agent.get("/healthz")
        assert (status, json.loads(body)["status"]) == (200, "ok")
        assert (await agent.get("/nothing"))[0] == 404

        async def told() -> str | None:
            status, text = await agent.get("/metrics")
            assert status == 200
            return text if 'workflow_runs_total{status="failed",workflow_name="small"} 1.0' in text else None

        text = await eventually(told)
        assert text is not None
        for name, labels in METRICS.items():
            found = series(text, f"{name}_count" if name.endswith("seconds") else name)
            assert found, name
            assert all(each == labels for each in found), (name, found)
        assert 'workflow_success_total{workflow_name="small"} 1.0' in text
        assert 'workflow_failure_total{error_type="exit_code",workflow_name="small"} 1.0' in text
        assert "active_workflows 1.0" in text

        user.publish("control", {"execution_id": "long", "action": "cancel"}, key="long")
        assert (await user.result("long"))["status"] == "cancelled"


# --- it stops -------------------------------------------------------------------------------------------------------


async def test_an_idle_agent_stops_at_once(topics: None, variables: dict[str, str]) -> None:
    async with processes.agent({**variables, "WPK_SHUTDOWN_GRACE": "10m"}) as agent:
        agent.signal(signal.SIGTERM)
        assert await agent.ended(timeout=30) == 0
        assert agent.events("agent.stopped")


async def test_a_step_that_ends_within_the_grace_is_waited_for(user: ForeignUser, variables: dict[str, str]) -> None:
    async with processes.agent({**variables, "WPK_SHUTDOWN_GRACE": "60s"}) as agent:
        user.publish("execute", {"wpk_content": package("sleep 3; echo it took its time")}, key="e1")
        await user.event("e1", "step.started")
        agent.signal(signal.SIGTERM)
        await agent.stage("draining")
        assert await agent.ended(timeout=60) == 0
    result = await user.result("e1")
    assert result["status"] == "completed"
    assert user.log("e1") == ["it took its time"]
    user.assert_whole("e1")


async def test_a_step_that_outlasts_the_grace_is_ended_with_the_agent(
    user: ForeignUser, variables: dict[str, str], prefix: str
) -> None:
    async with processes.agent({**variables, "WPK_SHUTDOWN_GRACE": "1s"}) as agent:
        # The marker names this test's processes; the grandchild must go too.
        user.publish("execute", {"wpk_content": package(f": {prefix}; sleep 300 & wait")}, key="e1")
        await user.event("e1", "step.started")
        await eventually(lambda: processes_with(prefix), because="the step's process runs")
        agent.signal(signal.SIGTERM)
        assert await agent.ended(timeout=60) == 0
        await eventually(lambda: not processes_with(prefix), because="the step's process is gone")
        await agent.stage("interrupting")
    result = await user.result("e1")
    assert (result["status"], result["error"]["type"]) == ("failed", "interrupted")
    assert "the agent was stopped" in result["error"]["message"]


async def test_a_second_signal_ends_it_at_once(user: ForeignUser, variables: dict[str, str], prefix: str) -> None:
    async with processes.agent({**variables, "WPK_SHUTDOWN_GRACE": "10m"}) as agent:
        user.publish("execute", {"wpk_content": package(f": {prefix}; sleep 300 & wait")}, key="e1")
        await user.event("e1", "step.started")
        agent.signal(signal.SIGTERM)
        await agent.stage("draining")
        agent.signal(signal.SIGTERM)
        assert await agent.ended(timeout=30) == -signal.SIGTERM
        assert agent.events("agent.killed")
        await eventually(lambda: not processes_with(prefix), because="the step's process is gone")


async def test_a_signal_while_it_joins_the_group_ends_it(topics: None, variables: dict[str, str]) -> None:
    async with processes.agent(variables) as member:
        member.signal(signal.SIGSTOP)  # a silent member: the group waits for it until its session ends
        try:
            slow = {**variables, "WPK_SESSION_TIMEOUT": "60s"}
            async with processes.agent(slow, ready=False) as joining:
                await joining.logged("agent.started")
                assert json.loads((await joining.get("/readyz"))[1])["status"] == "failing"
                joining.signal(signal.SIGTERM)
                assert await joining.ended(timeout=60) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGCONT)
