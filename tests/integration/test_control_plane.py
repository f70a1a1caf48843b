"""The Kubernetes that other tests stand on: that its workloads, logs, rights and faults are as a real cluster's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.control_plane import ExternalCluster, Kubectl, KubectlFailed, KubernetesCluster, any_cluster, build
from tests.support.control_plane.manifests import job, pod, workload
from tests.support.eventually import eventually
from tests.support.kubelet.api import Object
from tests.support.kubelet.behaviour import PREFIX

ROLLOUT = "--timeout=60s"


@pytest.fixture
async def space(control_plane: KubernetesCluster, prefix: str) -> AsyncIterator[str]:
    """A namespace of the test's own."""
    yield await control_plane.kubectl.create_namespace(prefix)
    with contextlib.suppress(KubectlFailed):
        await control_plane.kubectl("delete", "namespace", prefix, "--wait=false")


@pytest.fixture
def kubectl(control_plane: KubernetesCluster) -> Kubectl:
    return control_plane.kubectl


async def rolled_out(kubectl: Kubectl, space: str, what: str) -> None:
    await kubectl("rollout", "status", what, ROLLOUT, "-n", space)


async def pods(kubectl: Kubectl, space: str, app: str) -> list[Object]:
    return await kubectl.items("pods", "-n", space, "-l", f"app={app}")


async def names(kubectl: Kubectl, space: str, app: str) -> set[str]:
    return {item["metadata"]["name"] for item in await pods(kubectl, space, app)}


async def running(kubectl: Kubectl, space: str, name: str) -> None:
    await kubectl("wait", f"pod/{name}", "--for=condition=Ready", ROLLOUT, "-n", space)


async def waiting_for(kubectl: Kubectl, space: str, app: str) -> set[str]:
    """The reasons for which containers wait."""
    states = [status["state"] for item in await pods(kubectl, space, app) for status in _statuses(item)]
    return {state["waiting"]["reason"] for state in states if "waiting" in state}


def _statuses(item: Object) -> list[Object]:
    found = item.get("status", {})
    return [*found.get("initContainerStatuses", []), *found.get("containerStatuses", [])]


# --- workloads -------------------------------------------------------------------------------------------------------


async def test_a_restart_replaces_all_pods_of_a_deployment(kubectl: Kubectl, space: str) -> None:
    await kubectl.apply(workload("Deployment", "web", replicas=3), namespace=space)
    await rolled_out(kubectl, space, "deployment/web")
    before = await names(kubectl, space, "web")
    assert len(before) == 3

    await kubectl("rollout", "restart", "deployment/web", "-n", space)
    await rolled_out(kubectl, space, "deployment/web")

    await eventually(lambda: _replaced(kubectl, space, "web", before))


async def _replaced(kubectl: Kubectl, space: str, app: str, before: set[str]) -> bool:
    after = await names(kubectl, space, app)
    return len(after) == len(before) and not after & before


async def test_a_rollout_of_an_image_that_is_missing_stands_still_until_it_is_undone(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.simulated()
    await kubectl.apply(workload("Deployment", "web"), namespace=space)
    await rolled_out(kubectl, space, "deployment/web")
    before = await names(kubectl, space, "web")

    await kubectl("set", "image", "deployment/web", "main=app:missing", "-n", space)
    await eventually(lambda: _waits(kubectl, space, "web", "ImagePullBackOff"))
    assert before < await names(kubectl, space, "web")

    await kubectl("rollout", "undo", "deployment/web", "-n", space)
    await rolled_out(kubectl, space, "deployment/web")
    assert await names(kubectl, space, "web") == before


async def _waits(kubectl: Kubectl, space: str, app: str, reason: str) -> bool:
    return reason in await waiting_for(kubectl, space, app)


async def test_a_deployment_of_pods_that_never_get_ready_exceeds_its_deadline(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.simulated()
    unready = workload("Deployment", "web", wishes={"unready": True}, progressDeadlineSeconds=2)
    await kubectl.apply(unready, namespace=space)
    with pytest.raises(KubectlFailed, match="exceeded its progress deadline"):
        await rolled_out(kubectl, space, "deployment/web")

    for name in await names(kubectl, space, "web"):
        await kubectl("annotate", f"pod/{name}", f"{PREFIX}unready-", "-n", space)
    await kubectl("wait", "deployment/web", "--for=condition=Available", ROLLOUT, "-n", space)


async def test_a_stateful_set_starts_its_pods_one_after_the_other(kubectl: Kubectl, space: str) -> None:
    await kubectl.apply(workload("StatefulSet", "db", replicas=3), namespace=space)
    await rolled_out(kubectl, space, "statefulset/db")

    made = {item["metadata"]["name"]: item["status"] for item in await pods(kubectl, space, "db")}
    assert sorted(made) == ["db-0", "db-1", "db-2"]
    assert made["db-0"]["startTime"] <= made["db-1"]["startTime"] <= made["db-2"]["startTime"]


async def test_a_stateful_set_waits_with_the_next_pod_until_the_one_before_is_ready(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.simulated()
    await kubectl.apply(workload("StatefulSet", "db", wishes={"unready": True}), namespace=space)
    await eventually(lambda: _is(kubectl, space, "pod/db-0", "status.phase", "Running"))
    assert await names(kubectl, space, "db") == {"db-0"}

    await kubectl("annotate", "pod/db-0", f"{PREFIX}unready-", "-n", space)
    await eventually(lambda: _is(kubectl, space, "pod/db-1", "status.phase", "Running"))


async def _is(kubectl: Kubectl, space: str, what: str, path: str, value: str) -> bool:
    try:
        return await kubectl("get", what, "-n", space, "-o", f"jsonpath={{.{path}}}") == value
    except KubectlFailed as error:
        assert "NotFound" not in error.error, error
        raise


async def test_a_daemon_set_has_a_pod_on_each_node(kubectl: Kubectl, space: str) -> None:
    await kubectl.apply(workload("DaemonSet", "agent"), namespace=space)
    await rolled_out(kubectl, space, "daemonset/agent")

    nodes = {item["metadata"]["name"] for item in await kubectl.items("nodes")}
    assert sorted(item["spec"]["nodeName"] for item in await pods(kubectl, space, "agent")) == sorted(nodes)


async def test_a_job_completes_where_its_pod_does(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.simulated()
    await kubectl.apply(job("once", wishes={"log": "done"}), namespace=space)
    await kubectl("wait", "job/once", "--for=condition=Complete", ROLLOUT, "-n", space)

    assert await kubectl("logs", "job/once", "-n", space) == "done\n"


async def test_a_job_fails_after_its_retries_where_its_pods_fail(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.simulated()
    await kubectl.apply(job("broken", wishes={"exit-code": 3}, backoffLimit=0), namespace=space)
    await kubectl("wait", "job/broken", "--for=condition=Failed", ROLLOUT, "-n", space)

    (failed,) = await pods(kubectl, space, "broken")
    assert failed["status"]["phase"] == "Failed"
    assert failed["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3


async def test_a_container_that_crashes_is_started_again_and_its_last_log_can_be_read(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.simulated()
    await kubectl.apply(pod("bad", "app:crash", {"log": "run {restart}"}), namespace=space)

    async def restarted() -> bool:
        (item,) = await pods(kubectl, space, "bad")
        return any(status["restartCount"] >= 1 for status in _statuses(item))

    await eventually(restarted)
    assert re.fullmatch(r"run \d+\n", await kubectl("logs", "bad", "--previous", "-n", space))
    await eventually(lambda: _waits(kubectl, space, "bad", "CrashLoopBackOff"))
    assert "Back-off restarting" in await kubectl("events", "--for", "pod/bad", "-n", space)


async def test_containers_wait_for_the_good_end_of_init_containers(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.simulated()
    first = [{"name": "first", "image": "app:1"}]
    await kubectl.apply(pod("good", initContainers=first), namespace=space)
    await running(kubectl, space, "good")

    await kubectl.apply(pod("bad", initContainers=[{"name": "first", "image": "app:crash"}]), namespace=space)
    await eventually(lambda: _waits(kubectl, space, "bad", "CrashLoopBackOff"))
    assert await _is(kubectl, space, "pod/bad", "status.phase", "Pending")


async def test_a_pod_that_no_node_can_hold_stays_pending(kubectl: Kubectl, space: str) -> None:
    greedy = {"name": "main", "image": "app:1", "resources": {"requests": {"cpu": "9999"}}}
    await kubectl.apply(pod("huge", containers=[greedy]), namespace=space)

    async def said() -> bool:
        return "FailedScheduling" in await kubectl("events", "--for", "pod/huge", "-n", space)

    await eventually(said)
    assert await _is(kubectl, space, "pod/huge", "status.phase", "Pending")


# --- evictions and deletions -----------------------------------------------------------------------------------------


async def evict(kubectl: Kubectl, space: str, name: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": space}}
    path = f"/api/v1/namespaces/{space}/pods/{name}/eviction"
    await kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))


async def test_a_disruption_budget_blocks_an_eviction_until_there_are_pods_enough(kubectl: Kubectl, space: str) -> None:
    await kubectl.apply(workload("Deployment", "web", replicas=2), namespace=space)
    await rolled_out(kubectl, space, "deployment/web")
    await kubectl("create", "pdb", "web", "--selector=app=web", "--min-available=2", "-n", space)
    await eventually(lambda: _is(kubectl, space, "pdb/web", "status.currentHealthy", "2"))
    victim = min(await names(kubectl, space, "web"))

    with pytest.raises(KubectlFailed, match="disruption budget"):
        await evict(kubectl, space, victim)

    await kubectl("scale", "deployment/web", "--replicas=3", "-n", space)
    await eventually(lambda: _is(kubectl, space, "pdb/web", "status.disruptionsAllowed", "1"))
    await evict(kubectl, space, victim)
    await kubectl("wait", f"pod/{victim}", "--for=delete", ROLLOUT, "-n", space)


async def test_a_deleted_pod_that_ignores_it_stays_until_it_is_forced(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.simulated()
    await kubectl.apply(pod("stuck", wishes={"ignore-deletion": True}), namespace=space)
    await running(kubectl, space, "stuck")

    with pytest.raises(KubectlFailed, match="timed out"):
        await kubectl("delete", "pod/stuck", "--grace-period=1", "--timeout=3s", "-n", space)
    (item,) = await pods(kubectl, space, "stuck")
    assert item["metadata"]["deletionTimestamp"]

    await kubectl("delete", "pod/stuck", "--force", "--grace-period=0", "-n", space)
    assert await names(kubectl, space, "stuck") == set()


async def test_a_deleted_pod_takes_the_time_that_it_needs_to_stop(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.simulated()
    await kubectl.apply(pod("slow", wishes={"stop-seconds": 300}), namespace=space)
    await running(kubectl, space, "slow")
    await kubectl("delete", "pod/slow", "--grace-period=300", "--wait=false", "-n", space)
    (item,) = await pods(kubectl, space, "slow")
    assert item["status"]["phase"] == "Running"

    await kubectl("annotate", "pod/slow", f"{PREFIX}stop-seconds=0", "--overwrite", "-n", space)
    await kubectl("wait", "pod/slow", "--for=delete", ROLLOUT, "-n", space)


async def test_a_deleted_namespace_goes_with_all_that_was_in_it(kubectl: Kubectl, space: str) -> None:
    await kubectl.apply(pod("web", terminationGracePeriodSeconds=1), namespace=space)
    await running(kubectl, space, "web")

    await kubectl("delete", "namespace", space, ROLLOUT)

    assert await names(kubectl, space, "web") == set()


# --- logs ------------------------------------------------------------------------------------------------------------


async def test_logs_are_chosen_by_container_and_cut_by_tail(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.simulated()
    both = [{"name": "main", "image": "app:1"}, {"name": "side", "image": "side:1"}]
    await kubectl.apply(pod("web", wishes={"log": "{container} 1\n{container} 2"}, containers=both), namespace=space)
    await running(kubectl, space, "web")

    assert await kubectl("logs", "web", "-c", "side", "-n", space) == "side 1\nside 2\n"
    assert await kubectl("logs", "web", "-c", "main", "--tail=1", "-n", space) == "main 2\n"
    assert sorted((await kubectl("logs", "web", "--all-containers", "--tail=1", "-n", space)).split("\n")) == [
        "",
        "main 2",
        "side 2",
    ]
    stamped = await kubectl("logs", "web", "-c", "main", "--tail=1", "--timestamps", "-n", space)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z main 2\n", stamped)
    assert await kubectl("logs", "web", "-c", "main", "--limit-bytes=3", "-n", space) == "mai"
    assert await kubectl("logs", "web", "-c", "main", "--since-time=2099-01-01T00:00:00Z", "-n", space) == ""
    with pytest.raises(KubectlFailed, match="previous terminated container"):
        await kubectl("logs", "web", "-c", "main", "--previous", "-n", space)


async def test_the_log_of_a_container_that_is_not_started_is_refused_with_the_reason(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.simulated()
    await kubectl.apply(pod("web", "app:missing"), namespace=space)
    await eventually(lambda: _waits(kubectl, space, "web", "ImagePullBackOff"))
    with pytest.raises(KubectlFailed, match="waiting to start: trying and failing to pull image"):
        await kubectl("logs", "web", "-n", space)


async def test_a_followed_log_comes_line_by_line_and_ends_with_its_container(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.simulated()
    wishes = {"log-every": 0.05, "run-seconds": 600}
    await kubectl.apply(pod("web", wishes=wishes, restartPolicy="Never"), namespace=space)
    await running(kubectl, space, "web")
    async with kubectl.started("logs", "web", "--follow", "-n", space) as following, asyncio.timeout(60):
        assert following.stdout is not None
        lines = [await following.stdout.readline() for _ in range(3)]
        assert lines == [b"main started\n", b"tick 1\n", b"tick 2\n"]
        await kubectl("annotate", "pod/web", f"{PREFIX}run-seconds=0", "--overwrite", "-n", space)
        rest = (await following.stdout.read()).decode().splitlines()
        assert rest == [f"tick {number}" for number in range(3, 3 + len(rest))]
        assert await following.wait() == 0


# --- rights ----------------------------------------------------------------------------------------------------------


async def test_a_restricted_user_may_do_what_its_rules_say_and_no_more(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str, tmp_path: Path
) -> None:
    await kubectl.apply(workload("Deployment", "web"), namespace=space)
    rule = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]}
    user = Kubectl(await control_plane.restricted(space, [rule]), tmp_path)

    assert "web" in await user("get", "deployment/web")
    with pytest.raises(KubectlFailed, match=r'cannot delete resource "deployments" in API group "apps"'):
        await user("delete", "deployment/web")
    with pytest.raises(KubectlFailed, match='cannot get resource "deployments"'):
        await user("get", "deployment/web", "-n", "default")


# --- faults ----------------------------------------------------------------------------------------------------------


async def test_a_killed_api_server_comes_back_with_what_it_knew(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    await kubectl.apply(workload("Deployment", "web"), namespace=space)
    await rolled_out(kubectl, space, "deployment/web")
    before = await names(kubectl, space, "web")

    await asyncio.to_thread(control_plane.kill)
    assert not control_plane.alive
    with pytest.raises(KubectlFailed, match="refused"):
        await kubectl("get", "pods", "-n", space)

    await asyncio.to_thread(control_plane.restart)
    assert await names(kubectl, space, "web") == before
    await kubectl("scale", "deployment/web", "--replicas=3", "-n", space)
    await rolled_out(kubectl, space, "deployment/web")


async def test_a_paused_api_server_answers_when_it_goes_on(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    control_plane.pause()
    try:
        with pytest.raises(KubectlFailed):
            await kubectl("get", "pods", "-n", space, "--request-timeout=1s")
    finally:
        control_plane.resume()

    assert await names(kubectl, space, "web") == set()


async def test_pods_stand_still_without_their_nodes_and_go_on_with_them(
    control_plane: KubernetesCluster, kubectl: Kubectl, space: str
) -> None:
    await kubectl.apply(pod("before", wishes={"log-every": 0.05}), namespace=space)
    await running(kubectl, space, "before")

    await asyncio.to_thread(control_plane.kill_nodes)
    await kubectl.apply(pod("after"), namespace=space)
    await kubectl("wait", "pod/after", "--for=condition=PodScheduled", ROLLOUT, "-n", space)
    assert await _is(kubectl, space, "pod/after", "status.phase", "Pending")
    with pytest.raises(KubectlFailed, match="refused"):
        await kubectl("logs", "before", "-n", space)

    await asyncio.to_thread(control_plane.start_nodes)
    await running(kubectl, space, "after")
    await eventually(lambda: _ticks(kubectl, space, "before"))
    (item,) = await pods(kubectl, space, "before")
    assert [status["restartCount"] for status in _statuses(item)] == [0]


async def _ticks(kubectl: Kubectl, space: str, name: str) -> bool:
    return "tick" in await kubectl("logs", name, "-n", space)


# --- where it comes from ---------------------------------------------------------------------------------------------


async def test_a_cluster_that_is_named_is_used_and_not_broken(
    control_plane: KubernetesCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG_TEST", str(control_plane.kubeconfig))
    with any_cluster() as cluster:
        assert isinstance(cluster, ExternalCluster)
        assert await cluster.kubectl.items("nodes")
        with pytest.raises(pytest.skip.Exception):
            cluster.kill()
    assert control_plane.alive


def test_a_control_plane_that_was_not_built_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.Unavailable, match=r"python -m tests\.support\.control_plane"):
        build.binary()
    with pytest.raises(build.Unavailable, match="there is no Go"):
        build.build()
