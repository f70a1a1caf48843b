"""The seed of the contract: a foreign client, the topics, and an agent as a process, on both brokers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import processes
from tests.support.eventually import eventually
from tests.support.foreign import ForeignUser, foreign_user
from tests.support.k8s_api import K8sApi, k8s_api
from tests.support.k8s_steps import deployment
from tests.support.kafka import KafkaBroker
from tests.support.processes import AgentProcess, wpk

pytestmark = pytest.mark.timeout(240)

EXAMPLE = processes.ROOT / "examples" / "restart-unhealthy.wpk.yaml"
STATUS_FIELDS = {
    "execution_id",
    "workflow_id",
    "status",
    "started_at",
    "completed_at",
    "current_step",
    "steps_completed",
    "total_steps",
    "error_message",
}


@pytest.fixture
async def api() -> AsyncIterator[K8sApi]:
    async with k8s_api() as server:
        yield server


@pytest.fixture
def variables(kafka: KafkaBroker, prefix: str, api: K8sApi, tmp_path: Path) -> dict[str, str]:
    return processes.environment(kafka, prefix, KUBECONFIG=api.kubeconfig(tmp_path / "kubeconfig"))


@pytest.fixture
async def agent(variables: dict[str, str]) -> AsyncIterator[AgentProcess]:
    await processes.create_topics(variables)
    async with processes.agent(variables) as running:
        yield running


@pytest.fixture
def user(agent: AgentProcess, kafka: KafkaBroker, prefix: str) -> Iterator[ForeignUser]:
    with foreign_user(kafka.bootstrap, prefix) as user:
        yield user


def restart_unhealthy(deployment: str) -> dict[str, Any]:
    """A package as callers have sent it since before there was this agent: none of its fields is an extension."""
    target = {"resource_type": "deployment", "name": deployment}
    return {
        "apiVersion": "v1",
        "kind": "WorkflowPackage",
        "metadata": {"name": "restart-unhealthy", "version": "1.0.0", "tags": ["kubernetes", "restart"]},
        "spec": {
            "runtime": {"type": "k8s", "version": "1.28+", "requirements": {"cpu": "100m", "memory": "128Mi"}},
            "safety": {"mode": "auto", "approval_required": False, "rollback_enabled": True},
            "handlers": [
                {"name": "collect-logs", "type": "k8s", "config": {"action": "logs", **target, "lines": 10}},
                {"name": "restart", "type": "k8s", "config": {"action": "restart", **target}, "timeout": "120s"},
                {
                    "name": "wait",
                    "type": "k8s",
                    "config": {"action": "wait", **target, "condition": "rollout", "timeout": "60s"},
                },
            ],
            "rollback": {"enabled": True},
            "validation": {"schema_version": "v1"},
        },
    }


def shell(command: str = "echo hello", name: str = "small") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "version": "1.0.0"},
        "spec": {"handlers": [{"name": "only", "type": "shell", "config": {"command": command}}]},
    }


async def deployed(api: K8sApi) -> None:
    """A deployment in the namespace `default` whose pods are all ready."""
    api.create("Deployment", "default", deployment("api", replicas=3))

    def available() -> bool:
        found = api.get("Deployment", "api", "default").get("status", {})
        return bool(found.get("availableReplicas") == 3)

    await eventually(available)


async def status(variables: dict[str, str], execution_id: str) -> dict[str, Any]:
    done = await wpk(variables, "status", execution_id, "--json")
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


async def test_the_seed_of_the_contract_runs_once_and_is_answered_on_every_topic(
    user: ForeignUser, variables: dict[str, str], api: K8sApi
) -> None:
    await deployed(api)
    before = {pod["metadata"]["uid"] for pod in api.store.all("Pod")}
    command = {
        "workflow_id": "restart-unhealthy-1.0.0",
        "wpk_content": restart_unhealthy("api"),
        "parameters": {"namespace": "default"},
        "dry_run": False,
    }
    user.publish("execute", command, key="seed-1")
    result = await user.result("seed-1")

    assert (result["status"], result.get("error_message")) == ("completed", None)
    assert (result["workflow_id"], result["total_steps"], result["steps_completed"]) == (
        "restart-unhealthy-1.0.0",
        3,
        3,
    )
    assert user.names("seed-1") == [
        "execution.accepted",
        "execution.started",
        "step.started",
        "step.succeeded",
        "step.started",
        "step.captured",
        "step.succeeded",
        "step.started",
        "step.succeeded",
        "execution.completed",
    ]
    assert user.log("seed-1"), "the pods' log lines are on the log topic"
    assert before.isdisjoint(pod["metadata"]["uid"] for pod in api.store.all("Pod"))

    shown = await status(variables, "seed-1")
    assert shown.keys() >= STATUS_FIELDS
    assert {name: shown[name] for name in STATUS_FIELDS - {"started_at", "completed_at"}} == {
        "execution_id": "seed-1",
        "workflow_id": "restart-unhealthy-1.0.0",
        "status": "completed",
        "current_step": None,
        "steps_completed": 3,
        "total_steps": 3,
        "error_message": None,
    }
    assert shown["started_at"] <= shown["completed_at"]

    patches = len(api.sent("PATCH"))
    user.publish("execute", command, key="seed-1")
    duplicate = await user.event("seed-1", "command.duplicate")
    assert (duplicate["command"], duplicate["status"]) == ("execute", "completed")
    assert len(user.results("seed-1")) == 1
    assert len(api.sent("PATCH")) == patches
    user.assert_whole("seed-1")


async def test_the_example_waits_for_approval_and_then_restarts(
    user: ForeignUser, variables: dict[str, str], api: K8sApi
) -> None:
    await deployed(api)
    package = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    parameters = {"namespace": "default", "deployment": "api"}
    user.publish("execute", {"wpk_content": package, "parameters": parameters, "requested_by": "alice"}, key="seed-2")
    await user.event("seed-2", "execution.awaiting_approval")
    assert (await status(variables, "seed-2"))["status"] == "awaiting_approval"

    user.publish("control", {"execution_id": "seed-2", "action": "approve", "requested_by": "bob"}, key="seed-2")
    result = await user.result("seed-2")
    assert (result["status"], result["outputs"]) == ("completed", {"ready": 3})
    user.assert_whole("seed-2")


async def test_what_cannot_be_run_gets_a_clear_answer_each_and_runs_nothing(user: ForeignUser) -> None:
    unknown_type = shell()
    unknown_type["spec"]["handlers"][0]["type"] = "shel"
    cases: dict[str, tuple[object, str, str]] = {
        "unknown-type": (unknown_type, "handlers[0].type", "shell"),
        "no-handlers": ({"metadata": {"name": "a"}, "spec": {"handlers": []}}, "handlers", ""),
        "no-spec": ({"metadata": {"name": "a"}}, "spec", ""),
        "wrong-structure": ({"metadata": [], "spec": {"handlers": "restart"}}, "metadata", ""),
    }
    for name, (package, _, _) in cases.items():
        user.publish("execute", {"wpk_content": package}, key=name)
    for name, (_, path, word) in cases.items():
        result = await user.result(name)
        assert result["status"] == "rejected", name
        assert any(path in problem["path"] and word in problem["message"] for problem in result["errors"]), (
            name,
            result["errors"],
        )
        assert result["error_message"], name
        assert "step.started" not in user.names(name)
        user.assert_whole(name)

    for topic in ("rollback", "control"):
        body = {"execution_id": f"nobody-{topic}"} | ({"action": "cancel"} if topic == "control" else {})
        user.publish(topic, body, key=f"nobody-{topic}")
        refused = await user.event(f"nobody-{topic}", "command.rejected")
        assert refused["command"] == topic
        assert any(f"nobody-{topic}" in problem["message"] for problem in refused["errors"]), refused


async def test_garbage_goes_to_the_dead_letters_as_it_came_and_the_next_command_runs(
    user: ForeignUser, prefix: str
) -> None:
    garbage = b"\x00\xff not a command"
    partition, offset = user.publish("execute", garbage, key="next", headers={"from": "a-broken-sender"})
    user.publish("execute", {"wpk_content": shell()}, key="next")  # the same key: the same partition
    assert (await user.result("next"))["status"] == "completed"

    await user.until(lambda: user.dead)
    (letter,) = user.dead
    headers = {name: value.decode() for name, value in letter.headers()}
    assert (letter.key(), letter.value()) == (b"next", garbage)
    assert headers["from"] == "a-broken-sender"
    assert headers["wpk-reason"] == "not_json"
    assert headers["wpk-detail"]
    assert (headers["wpk-topic"], headers["wpk-partition"], headers["wpk-offset"]) == (
        f"{prefix}.commands.execute",
        str(partition),
        str(offset),
    )


async def test_commands_are_taken_in_every_form_that_callers_use(user: ForeignUser, prefix: str) -> None:
    context = {"specversion": "1.0", "id": "1", "source": "/tests", "type": "wpk.command.execute.v1"}
    body = {"wpk_content": shell()}
    binary = {f"ce_{name}": value for name, value in context.items()} | {"content-type": "application/json"}
    structured = context | {"datacontenttype": "application/json", "data": body}
    user.publish("execute", body, key="binary", headers=binary)
    user.publish(
        "execute", structured, key="structured", headers={"content-type": "application/cloudevents+json; charset=UTF-8"}
    )
    user.publish("execute", {"execution_id": "yaml-text", "wpk_content": yaml.safe_dump(shell())})
    partition, offset = user.publish("execute", body)  # neither key nor id: its place is its id
    for name in ("binary", "structured", "yaml-text", f"{prefix}.commands.execute-{partition}-{offset}"):
        result = await user.result(name)
        assert (result["status"], result["workflow_id"]) == ("completed", "small-1.0.0"), name
        assert user.log(name) == ["hello"]
        user.assert_whole(name)
