"""The k8s adapter against an API server over real HTTP: what goes wrong, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from consumer.adapters.k8s import build
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject
from tests.support.eventually import eventually
from tests.support.k8s_api import Fault, K8sApi, k8s_api
from tests.support.k8s_steps import Steps, rolled_out, running_steps

API = {"resource_type": "deployment", "name": "api"}


@pytest.fixture
async def api() -> AsyncIterator[K8sApi]:
    async with k8s_api() as server:
        yield server


@pytest.fixture
async def steps(api: K8sApi, tmp_path: Path) -> AsyncIterator[Steps]:
    async with running_steps(api, tmp_path) as running:
        yield running


# --- what goes wrong --------------------------------------------------------------------------------------------


async def test_a_missing_object_and_a_missing_permission_are_named(api: K8sApi, steps: Steps) -> None:
    with pytest.raises(PermanentError, match=r"^deployment payments/api not found$") as caught:
        await steps.run({"action": "get", **API})
    assert caught.value.code == "not_found"
    await rolled_out(api)
    api.forbidden.add(("patch", "deployments/scale"))
    with pytest.raises(PermanentError, match=r"not allowed to patch deployments/scale in namespace payments") as caught:
        await steps.run({"action": "scale", "name": "api", "replicas": 1})
    assert caught.value.code == "forbidden"


async def test_reads_are_tried_again_and_changes_are_not(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    api.faults += [Fault("GET", "deployments/api$", 503), Fault("GET", "deployments/api$", 0)]
    await steps.run({"action": "get", **API})
    api.requests.clear()
    api.faults.append(Fault("PATCH", "scale", 500))
    with pytest.raises(TemporaryError, match="500"):
        await steps.run({"action": "scale", "name": "api", "replicas": 4})
    assert len(api.sent("PATCH")) == 1


async def test_a_throttled_change_is_tried_again_as_it_was_not_carried_out(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    api.faults.append(Fault("PATCH", "scale", 429, times=2))
    assert (await steps.run({"action": "scale", "name": "api", "replicas": 4}))["to"] == 4


async def test_a_change_whose_answer_is_lost_is_in_doubt_and_its_repetition_is_safe(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    config = {"action": "scale", "name": "api", "scale_factor": 2}
    api.faults.append(Fault("PATCH", "scale", 0, after=True))
    with pytest.raises(TemporaryError, match="whether the change was made is not known") as caught:
        await steps.run(config)
    assert caught.value.code == "unreachable"
    assert (await steps.again(config))["to"] == 6
    assert api.get("Deployment", "api")["spec"]["replicas"] == 6


async def test_rotated_credentials_are_read_again(api: K8sApi, steps: Steps, tmp_path: Path) -> None:
    await rolled_out(api)
    await steps.run({"action": "get", **API})
    api.token = "a-new-token"
    with pytest.raises(PermanentError) as caught:
        await steps.run({"action": "get", **API})
    assert caught.value.code == "unauthorized"
    api.kubeconfig(tmp_path / "config")
    await steps.run({"action": "get", **API})


async def test_a_server_that_is_not_there_is_a_temporary_error_that_names_it(tmp_path: Path) -> None:
    async with k8s_api() as server:
        path = server.kubeconfig(tmp_path / "config")
    adapter = build(SimpleNamespace(kubeconfig=str(path)))
    try:
        with pytest.raises(TemporaryError, match=r"cannot reach the API server at http://127\.0\.0\.1") as caught:
            await Steps(adapter).run({"action": "get", **API})
    finally:
        await adapter.aclose()
    assert caught.value.code == "unreachable"


async def test_several_kubeconfigs_are_merged_and_the_first_current_context_counts(
    api: K8sApi, steps: Steps, tmp_path: Path
) -> None:
    first = api.kubeconfig(tmp_path / "first")
    second = tmp_path / "second"
    second.write_text("{apiVersion: v1, kind: Config, current-context: nowhere, contexts: [], clusters: [], users: []}")
    adapter = build(SimpleNamespace(kubeconfig=f"{tmp_path / 'missing'}:{first}:{second}"))
    try:
        await rolled_out(api)
        assert (await Steps(adapter).run({"action": "get", **API}))["kind"] == "Deployment"
    finally:
        await adapter.aclose()


async def test_a_name_can_not_lead_to_another_path(api: K8sApi, steps: Steps) -> None:
    for name in ("..", "a/../../b/c", "a%2fb"):
        with pytest.raises(Exception, match=r"is no (name|pod)|should match"):
            await steps.run({"action": "get", "resource_type": "pod", "name": name})
    assert api.requests == []


async def test_over_tls_the_servers_certificate_is_checked_and_the_token_sent(tmp_path: Path) -> None:
    async with k8s_api(tls=True) as server:
        await rolled_out(server, replicas=1)
        async with running_steps(server, tmp_path) as trusting:
            assert (await trusting.run({"action": "get", **API}))["kind"] == "Deployment"
        server.authority = None
        async with running_steps(server, tmp_path) as doubting:
            with pytest.raises(TemporaryError, match=r"(?i)certificate"):
                await doubting.run({"action": "get", **API})


async def test_a_wait_goes_on_while_the_server_is_away_and_says_so(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    condition = "jsonpath={.metadata.annotations.go}=yes"
    waiting = asyncio.create_task(steps.run({"action": "wait", "name": "api", "condition": condition}))
    try:
        await eventually(lambda: [seen for seen in api.requests if seen.query.get("watch")])
        api.faults.append(Fault("GET", "deployments$", 503, times=8))
        await api.end_watches()
        await eventually(lambda: any(stream == "agent" for stream, _ in steps.lines))
        api.store.touch(api.get("Deployment", "api"), metadata={"annotations": {"go": "yes"}})
        async with asyncio.timeout(60):
            await waiting
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert any("still waiting" in line for _, line in steps.lines)


async def test_a_wait_that_may_list_but_not_watch_looks_from_time_to_time(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    api.forbidden.add(("watch", "deployments"))
    condition = "jsonpath={.metadata.annotations.go}"
    waiting = asyncio.create_task(steps.run({"action": "wait", "name": "api", "condition": condition}))
    try:
        await eventually(lambda: [seen for seen in api.requests if seen.query.get("watch")])
        api.store.touch(api.get("Deployment", "api"), metadata={"annotations": {"go": "yes"}})
        async with asyncio.timeout(30):
            await waiting
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_an_unknown_kind_is_refused_and_one_that_the_cluster_serves_is_found(api: K8sApi, steps: Steps) -> None:
    with pytest.raises(PermanentError, match='no resource type "gadget"'):
        await steps.run({"action": "get", "resource_type": "gadget", "name": "a"})
    api.create("Widget", "payments", {"metadata": {"name": "w"}, "spec": {"size": 1}})
    patch = {"action": "patch", "resource_type": "widgets.example.com", "name": "w", "data": {"spec": {"size": 2}}}
    output = await steps.run(patch)
    assert output["changes"] == [{"path": "spec.size", "from": 1, "to": 2}]
    assert {seen.content_type for seen in api.sent("PATCH")} == {"application/merge-patch+json"}


async def test_a_list_comes_in_pages_and_whole_where_their_state_is_forgotten(api: K8sApi, steps: Steps) -> None:
    for number in range(1001):
        api.create("ConfigMap", "payments", {"metadata": {"name": f"c{number}"}})
    every: JsonObject = {"action": "get", "resource_type": "configmap", "field": "items[*].metadata.name"}

    listed = await steps.run({"action": "get", "resource_type": "configmap"})
    assert listed["count"] == 1001
    assert [seen.query.get("limit") for seen in api.requests] == ["500"] * 3

    api.requests.clear()
    api.faults.append(Fault("GET", "configmaps$", 410, query="continue"))
    assert len((await steps.run(every))["value"]) == 1001
    assert ["limit" in seen.query for seen in api.requests] == [True, True, False]
