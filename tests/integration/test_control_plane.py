"""The Kubernetes that other tests stand on: that its workloads, evictions and deletions are as a real cluster's."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.control_plane import KubectlFailed, Space
from tests.support.control_plane.manifests import job, pod, workload
from tests.support.control_plane.space import PATIENCE, statuses
from tests.support.eventually import eventually

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]


# --- workloads -------------------------------------------------------------------------------------------------------


async def test_a_restart_replaces_all_pods_of_a_deployment(space: Space) -> None:
    await space.apply(workload("Deployment", "web", replicas=3))
    await space.rolled_out("deployment/web")
    before = await space.names("web")
    assert len(before) == 3

    await space("rollout", "restart", "deployment/web")
    await space.rolled_out("deployment/web")

    await eventually(lambda: _replaced(space, "web", before))


async def _replaced(space: Space, app: str, before: set[str]) -> bool:
    after = await space.names(app)
    return len(after) == len(before) and not after & before


async def test_a_rollout_of_an_image_that_is_missing_stands_still_until_it_is_undone(space: Space) -> None:
    await space.apply(workload("Deployment", "web"))
    await space.rolled_out("deployment/web")
    before = await space.names("web")

    await space("set", "image", "deployment/web", "main=app:missing")
    await eventually(lambda: space.waits("web", "ImagePullBackOff"))
    assert before < await space.names("web")

    await space("rollout", "undo", "deployment/web")
    await space.rolled_out("deployment/web")
    await eventually(lambda: _are(space, "web", before))


async def _are(space: Space, app: str, names: set[str]) -> bool:
    return await space.names(app) == names


async def test_a_deployment_of_pods_that_never_get_ready_exceeds_its_deadline(space: Space) -> None:
    unready = workload("Deployment", "web", wishes={"unready": True}, progressDeadlineSeconds=2)
    await space.apply(unready)
    with pytest.raises(KubectlFailed, match="exceeded its progress deadline"):
        await space.rolled_out("deployment/web")

    for name in await space.names("web"):
        await space.wish(f"{name}", "unready-")
    await space.wait("deployment/web", "condition=Available")


async def test_a_stateful_set_starts_its_pods_one_after_the_other(space: Space) -> None:
    await space.apply(workload("StatefulSet", "db", replicas=3))
    await space.rolled_out("statefulset/db")

    made = {item["metadata"]["name"]: item["status"] for item in await space.pods("db")}
    assert sorted(made) == ["db-0", "db-1", "db-2"]
    assert made["db-0"]["startTime"] <= made["db-1"]["startTime"] <= made["db-2"]["startTime"]


async def test_a_stateful_set_waits_with_the_next_pod_until_the_one_before_is_ready(space: Space) -> None:
    await space.apply(workload("StatefulSet", "db", wishes={"unready": True}))
    await eventually(lambda: space.has("pod/db-0", "status.phase", "Running"))
    assert await space.names("db") == {"db-0"}

    await space.wish("db-0", "unready-")
    await eventually(lambda: space.has("pod/db-1", "status.phase", "Running"))


async def test_a_daemon_set_has_a_pod_on_each_node(space: Space) -> None:
    await space.apply(workload("DaemonSet", "agent"))
    await space.rolled_out("daemonset/agent")

    nodes = {item["metadata"]["name"] for item in await space.kubectl.items("nodes")}
    assert sorted(item["spec"]["nodeName"] for item in await space.pods("agent")) == sorted(nodes)


async def test_a_job_completes_where_its_pod_does(space: Space) -> None:
    await space.apply(job("once", wishes={"log": "done"}))
    await space.wait("job/once", "condition=Complete")

    assert await space("logs", "job/once") == "done\n"


async def test_a_job_fails_after_its_retries_where_its_pods_fail(space: Space) -> None:
    await space.apply(job("broken", wishes={"exit-code": 3}, backoffLimit=0))
    await space.wait("job/broken", "condition=Failed")

    (failed,) = await space.pods("broken")
    assert failed["status"]["phase"] == "Failed"
    assert failed["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3


async def test_a_container_that_crashes_is_started_again_and_its_last_log_can_be_read(space: Space) -> None:
    await space.apply(pod("bad", "app:crash", {"log": "run {restart}"}))

    async def restarted() -> bool:
        (item,) = await space.pods("bad")
        return any(status["restartCount"] >= 1 for status in statuses(item))

    await eventually(restarted)
    assert re.fullmatch(r"run \d+\n", await space("logs", "bad", "--previous"))
    await eventually(lambda: space.waits("bad", "CrashLoopBackOff"))
    assert "Back-off restarting" in await space("events", "--for", "pod/bad")


async def test_a_pod_takes_the_time_that_it_needs_to_start_and_then_to_get_ready(space: Space) -> None:
    await space.apply(pod("slow", wishes={"start-seconds": 600, "ready-seconds": 600}))
    await eventually(lambda: space.waits("slow", "ContainerCreating"))
    assert await space.field("pod/slow", "status.phase") == "Pending"

    await space.wish("slow", "start-seconds=0")
    await eventually(lambda: space.has("pod/slow", "status.phase", "Running"))
    assert await space.field("pod/slow", "status.containerStatuses[0].ready") == "false"

    await space.wish("slow", "ready-seconds=0")
    await space.wait("pod/slow", "condition=Ready")


async def test_containers_wait_for_the_good_end_of_init_containers(space: Space) -> None:
    first = [{"name": "first", "image": "app:1"}]
    await space.apply(pod("good", initContainers=first))
    await space.wait("pod/good", "condition=Ready")

    await space.apply(pod("bad", initContainers=[{"name": "first", "image": "app:crash"}]))
    await eventually(lambda: space.waits("bad", "CrashLoopBackOff"))
    assert await space.field("pod/bad", "status.phase") == "Pending"


async def test_a_pod_that_no_node_can_hold_stays_pending(space: Space) -> None:
    greedy = {"name": "main", "image": "app:1", "resources": {"requests": {"cpu": "9999"}}}
    await space.apply(pod("huge", containers=[greedy]))

    async def said() -> bool:
        return "FailedScheduling" in await space("events", "--for", "pod/huge")

    await eventually(said)
    assert await space.field("pod/huge", "status.phase") == "Pending"


# --- evictions and deletions -----------------------------------------------------------------------------------------


async def evict(space: Space, name: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": space.name}}
    path = f"/api/v1/namespaces/{space.name}/pods/{name}/eviction"
    await space("create", "--raw", path, "-f", "-", stdin=json.dumps(body))


async def test_a_disruption_budget_blocks_an_eviction_until_there_are_pods_enough(space: Space) -> None:
    await space.apply(workload("Deployment", "web", replicas=2))
    await space.rolled_out("deployment/web")
    await space("create", "pdb", "web", "--selector=app=web", "--min-available=2")
    await eventually(lambda: space.has("pdb/web", "status.currentHealthy", "2"))
    victim = min(await space.names("web"))

    with pytest.raises(KubectlFailed, match="disruption budget"):
        await evict(space, victim)

    await space("scale", "deployment/web", "--replicas=3")
    await eventually(lambda: space.has("pdb/web", "status.disruptionsAllowed", "1"))
    await evict(space, victim)
    await space.wait(f"pod/{victim}", "delete")


async def test_a_drain_moves_pods_to_other_nodes(space: Space) -> None:
    await space.apply(workload("Deployment", "web", replicas=2))
    await space.rolled_out("deployment/web")
    node = (await space.pods("web"))[0]["spec"]["nodeName"]
    try:
        await space("drain", node, "--pod-selector=app=web", PATIENCE)
        await space.rolled_out("deployment/web")
        assert node not in {item["spec"]["nodeName"] for item in await space.pods("web")}
    finally:
        await space("uncordon", node)


async def test_a_deleted_pod_that_ignores_it_stays_until_it_is_forced(space: Space) -> None:
    await space.apply(pod("stuck", wishes={"ignore-deletion": True}))
    await space.wait("pod/stuck", "condition=Ready")

    with pytest.raises(KubectlFailed, match="timed out"):
        await space("delete", "pod/stuck", "--grace-period=1", "--timeout=3s")
    (item,) = await space.pods("stuck")
    assert item["metadata"]["deletionTimestamp"]

    await space("delete", "pod/stuck", "--force", "--grace-period=0")
    assert await space.names("stuck") == set()


async def test_a_deleted_pod_takes_the_time_that_it_needs_to_stop(space: Space) -> None:
    await space.apply(pod("slow", wishes={"stop-seconds": 300}))
    await space.wait("pod/slow", "condition=Ready")
    await space("delete", "pod/slow", "--grace-period=300", "--wait=false")
    (item,) = await space.pods("slow")
    assert item["status"]["phase"] == "Running"

    await space.wish("slow", "stop-seconds=0")
    await space.wait("pod/slow", "delete")


async def test_a_deleted_namespace_goes_with_all_that_was_in_it(space: Space) -> None:
    await space.apply(pod("web", terminationGracePeriodSeconds=1))
    await space.wait("pod/web", "condition=Ready")

    await space.kubectl("delete", "namespace", space.name, PATIENCE)

    assert await space.names("web") == set()
