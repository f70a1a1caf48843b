"""The k8s adapter against an API server over real HTTP: logs, events, get and wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consumer.errors import PermanentError, TemporaryError
from schemas.wpk import ResourceLimits
from tests.support.eventually import eventually
from tests.support.k8s_api import K8sApi, k8s_api
from tests.support.k8s_steps import FixedScope, Steps, available, deployment, rolled_out, running_steps

API = {"resource_type": "deployment", "name": "api"}


@pytest.fixture
async def api() -> AsyncIterator[K8sApi]:
    async with k8s_api() as server:
        yield server


@pytest.fixture
async def steps(api: K8sApi, tmp_path: Path) -> AsyncIterator[Steps]:
    async with running_steps(api, tmp_path) as running:
        yield running


# --- reads ------------------------------------------------------------------------------------------------------


async def test_logs_of_a_deployment_are_those_of_all_its_pods_with_a_prefix(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    output = await steps.run({"action": "logs"}, name="read", namespace="payments", deployment="api")
    assert output["lines"] == 3
    pods = [pod["metadata"]["name"] for pod in api.store.all("Pod")]
    assert sorted(steps.output) == sorted(f"{pod}/main: main api:1 started" for pod in pods)


async def test_logs_find_the_workload_of_a_bare_name_and_stop_at_the_pod_limit(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    assert (await steps.run({"action": "logs", "name": "api", "lines": 1}))["lines"] == 3
    steps.limits = ResourceLimits(max_pods=2)
    with pytest.raises(PermanentError, match="max_pods is 2"):
        await steps.run({"action": "logs", "name": "api"})


async def test_logs_of_the_previous_run_tell_why_a_container_crashed(api: K8sApi, steps: Steps) -> None:
    api.controllers.broken_images.add("api:bad")
    api.create("Deployment", "payments", deployment(image="api:bad", replicas=1))
    await eventually(lambda: api.controllers.previous_logs)
    output = await steps.run({"action": "logs", "selector": "app=api", "previous": True})
    assert (output["lines"], steps.output) == (1, ["main panics"])


async def test_a_container_without_a_log_is_skipped_and_said_so(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api, replicas=1)
    output = await steps.run({"action": "logs", "selector": "app=api", "previous": True})
    assert output["lines"] == 0
    assert "previous terminated container" in str(output["skipped"])


async def test_following_a_log_streams_new_lines_until_it_is_cancelled(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api, replicas=1)
    (pod,) = api.store.all("Pod")
    key = ("payments", pod["metadata"]["name"], "main")
    running = asyncio.create_task(steps.run({"action": "logs", "selector": "app=api", "follow": True}))
    try:
        async with asyncio.timeout(30):
            await api.following.wait()
        api.controllers.logs[key].append("ready to serve")
        await eventually(lambda: "ready to serve" in steps.output)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()


async def test_more_containers_than_connections_are_for_are_not_followed(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api, replicas=51)
    with pytest.raises(PermanentError, match="51 containers can't be followed at once, but 50; name a container") as no:
        await steps.run({"action": "logs", "selector": "app=api", "follow": True})
    assert no.value.code == "limit"
    assert not api.sent("GET", "/log")


async def test_events_of_a_deployment_include_those_of_its_pods(api: K8sApi, steps: Steps) -> None:
    api.controllers.broken_images.add("api:bad")
    await rolled_out(api, "other")
    api.create("Deployment", "payments", deployment(image="api:bad", replicas=2))
    await eventually(lambda: len(api.store.all("Event")) == 2)
    api.controllers.event(api.get("Deployment", "other"), "Warning", "Unrelated", "of another deployment")
    output = await steps.run({"action": "events", **API})
    assert output["warnings"] == {"BackOff": 6}
    assert output["count"] == 2
    assert all("Warning BackOff pod/api-" in line for line in steps.output)


async def test_get_gives_the_object_a_field_or_a_list(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    whole = await steps.run({"action": "get", **API})
    assert whole["kind"] == "Deployment"
    field = await steps.run({"action": "get", **API, "field": "{.spec.template.spec.containers[0].image}"})
    assert (field["value"], field["resource"]) == ("api:1", "deployment payments/api")
    names = await steps.run(
        {"action": "get", "resource_type": "pods", "selector": "app=api", "field": "items[*].status.phase"}
    )
    assert names["value"] == ["Running"] * 3
    custom = await steps.run({"action": "get", "resource_type": "wd"})
    assert custom == {"items": [], "count": 0}


# --- wait -------------------------------------------------------------------------------------------------------


async def test_wait_ends_when_the_rollout_does_and_not_before(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    api.controllers.held = True
    await steps.run({"action": "restart", "name": "api"}, "restart")
    waiting = asyncio.create_task(steps.run({"action": "wait", "name": "api", "condition": "rollout"}, "wait"))
    try:
        await eventually(lambda: any(seen.query.get("watch") == "true" for seen in api.sent("GET", "deployments")))
        assert not waiting.done()
        api.controllers.release()
        async with asyncio.timeout(30):
            output = await waiting
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert output["state"] == "3 of 3 replicas updated and available"
    assert available(api)


async def test_a_rollout_past_its_deadline_ends_the_wait(api: K8sApi, steps: Steps) -> None:
    api.controllers.broken_images.add("api:bad")
    api.create("Deployment", "payments", deployment(image="api:bad", progressDeadlineSeconds=1))
    with pytest.raises(PermanentError, match="progress deadline"):
        await steps.run({"action": "wait", "name": "api"})


async def test_a_wait_that_times_out_says_what_it_saw_last(api: K8sApi, steps: Steps) -> None:
    api.controllers.broken_images.add("api:bad")
    api.create("Deployment", "payments", deployment(image="api:bad"))
    await eventually(lambda: api.get("Deployment", "api").get("status", {}).get("updatedReplicas") == 3)
    with pytest.raises(TemporaryError, match=r"not ready after 300ms: 0 of 3 updated replicas") as caught:
        await steps.run({"action": "wait", "name": "api", "timeout": "300ms"})
    assert caught.value.code == "timeout"


async def test_wait_lists_again_after_the_version_it_watched_from_is_gone(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    api.store.compacted = 10**9
    condition = "jsonpath={.metadata.annotations.go}=yes"
    waiting = asyncio.create_task(steps.run({"action": "wait", "name": "api", "condition": condition}))
    try:
        watches = lambda: [s for s in api.sent("GET", "deployments") if s.query.get("watch")]  # noqa: E731
        await eventually(lambda: len(watches()) >= 2)
        api.store.touch(api.get("Deployment", "api"), metadata={"annotations": {"go": "yes"}})
        async with asyncio.timeout(30):
            await waiting
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_an_object_that_is_deleted_meanwhile_fails_the_wait_and_fulfils_the_wait_for_it(
    api: K8sApi, steps: Steps
) -> None:
    await rolled_out(api)
    never = {"action": "wait", "name": "api", "condition": "jsonpath={.metadata.annotations.go}"}
    gone = {"action": "wait", "name": "api", "condition": "deleted"}
    tasks = [asyncio.create_task(steps.run(config)) for config in (never, gone)]
    try:
        await eventually(lambda: len([s for s in api.sent("GET", "deployments") if s.query.get("watch")]) == 2)
        api.store.remove(api.get("Deployment", "api"))
        async with asyncio.timeout(30):
            failed, done = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
    assert isinstance(failed, PermanentError)
    assert "was deleted while it was waited for" in str(failed)
    assert isinstance(done, dict)
    assert done["state"] == "deployment payments/api is gone"


async def test_a_wait_that_is_taken_up_again_has_the_time_that_is_left_and_looks_once_if_there_is_none(
    api: K8sApi, steps: Steps
) -> None:
    await rolled_out(api)
    long_ago = replace(steps.context(), repeated=True, first_started_at=datetime.now(UTC) - timedelta(hours=2))
    never = {"action": "wait", "name": "api", "condition": "jsonpath={.metadata.annotations.go}"}
    async with asyncio.timeout(60):
        with pytest.raises(TemporaryError, match="after 1h"):
            await steps.adapter.prepare({**never, "timeout": "1h"}, FixedScope()).run(long_ago)
        with pytest.raises(TemporaryError, match="after 59m59s"):  # it gives up a moment before its attempt does
            await steps.adapter.prepare(never, FixedScope()).run(replace(long_ago, timeout=3600.0))
    ready = {"action": "wait", "name": "api", "timeout": "1h"}
    assert (await steps.adapter.prepare(ready, FixedScope()).run(long_ago))["condition"] == "ready"
