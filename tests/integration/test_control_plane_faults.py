"""The Kubernetes that other tests stand on: that its logs, rights and faults are as a real cluster's."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.support.control_plane import (
    Kubectl,
    KubectlFailed,
    KubernetesCluster,
    Space,
)
from tests.support.control_plane.manifests import pod, workload
from tests.support.control_plane.space import statuses
from tests.support.eventually import eventually

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]

# --- logs ------------------------------------------------------------------------------------------------------------


async def test_logs_are_chosen_by_container_and_cut_by_tail(space: Space) -> None:
    both = [{"name": "main", "image": "app:1"}, {"name": "side", "image": "side:1"}]
    await space.apply(pod("web", wishes={"log": "{container} 1\n{container} 2"}, containers=both))
    await space.wait("pod/web", "condition=Ready")

    assert await space("logs", "web", "-c", "side") == "side 1\nside 2\n"
    assert await space("logs", "web", "-c", "main", "--tail=1") == "main 2\n"
    assert sorted((await space("logs", "web", "--all-containers", "--tail=1")).split("\n")) == [
        "",
        "main 2",
        "side 2",
    ]
    stamped = await space("logs", "web", "-c", "main", "--tail=1", "--timestamps")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z main 2\n", stamped)
    assert await space("logs", "web", "-c", "main", "--limit-bytes=3") == "mai"
    assert await space("logs", "web", "-c", "main", "--since-time=2099-01-01T00:00:00Z") == ""
    with pytest.raises(KubectlFailed, match="previous terminated container"):
        await space("logs", "web", "-c", "main", "--previous")


async def test_the_log_of_a_container_that_is_not_started_is_refused_with_the_reason(space: Space) -> None:
    await space.apply(pod("web", "app:missing"))
    await eventually(lambda: space.waits("web", "ImagePullBackOff"))
    with pytest.raises(KubectlFailed, match="waiting to start: trying and failing to pull image"):
        await space("logs", "web")


async def test_a_log_of_many_lines_and_a_very_long_one_comes_whole(space: Space) -> None:
    await space.apply(pod("web", wishes={"log": "{container}", "log-repeat": 3000, "log-line-bytes": 5_000_000}))
    await space.wait("pod/web", "condition=Ready")

    lines = (await space("logs", "web")).splitlines()

    assert lines[:-1] == ["main"] * 3000
    assert len(lines[-1]) == 5_000_000


async def test_a_followed_log_comes_line_by_line_and_ends_with_its_container(space: Space) -> None:
    wishes = {"log-every": 0.05, "run-seconds": 600}
    await space.apply(pod("web", wishes=wishes, restartPolicy="Never"))
    await space.wait("pod/web", "condition=Ready")
    async with space.kubectl.started("logs", "web", "--follow", "-n", space.name) as following, asyncio.timeout(60):
        assert following.stdout is not None
        lines = [await following.stdout.readline() for _ in range(3)]
        assert lines == [b"main started\n", b"tick 1\n", b"tick 2\n"]
        await space.wish("web", "run-seconds=0")
        rest = (await following.stdout.read()).decode().splitlines()
        assert rest == [f"tick {number}" for number in range(3, 3 + len(rest))]
        assert await following.wait() == 0


# --- rights ----------------------------------------------------------------------------------------------------------


async def test_a_restricted_user_may_do_what_its_rules_say_and_no_more(
    control_plane: KubernetesCluster, space: Space, tmp_path: Path
) -> None:
    await space.apply(workload("Deployment", "web"))
    rule = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]}
    user = Kubectl(await control_plane.restricted(space.name, [rule]), tmp_path)

    assert "web" in await user("get", "deployment/web")
    with pytest.raises(KubectlFailed, match=r'cannot delete resource "deployments" in API group "apps"'):
        await user("delete", "deployment/web")
    with pytest.raises(KubectlFailed, match='cannot get resource "deployments"'):
        await user("get", "deployment/web", "-n", "default")


# --- faults ----------------------------------------------------------------------------------------------------------


async def test_a_killed_api_server_comes_back_with_what_it_knew(control_plane: KubernetesCluster, space: Space) -> None:
    await space.apply(workload("Deployment", "web"))
    await space.rolled_out("deployment/web")
    before = await space.names("web")

    await asyncio.to_thread(control_plane.kill)
    assert not control_plane.alive
    with pytest.raises(KubectlFailed, match="refused"):
        await space("get", "pods")

    await asyncio.to_thread(control_plane.restart)
    assert await space.names("web") == before
    await space("scale", "deployment/web", "--replicas=3")
    await space.rolled_out("deployment/web")


async def test_a_paused_api_server_answers_when_it_goes_on(control_plane: KubernetesCluster, space: Space) -> None:
    control_plane.pause()
    try:
        with pytest.raises(KubectlFailed):
            await space("get", "pods", "--request-timeout=1s")
    finally:
        control_plane.resume()

    assert await space.names("web") == set()


async def test_pods_stand_still_without_their_nodes_and_go_on_with_them(
    control_plane: KubernetesCluster, space: Space
) -> None:
    await space.apply(pod("before", wishes={"log-every": 0.05}))
    await space.wait("pod/before", "condition=Ready")

    await asyncio.to_thread(control_plane.kill_nodes)
    await space.apply(pod("after"))
    await space.wait("pod/after", "condition=PodScheduled")
    assert await space.field("pod/after", "status.phase") == "Pending"
    with pytest.raises(KubectlFailed, match="refused"):
        await space("logs", "before")

    await asyncio.to_thread(control_plane.start_nodes)
    await space.wait("pod/after", "condition=Ready")
    await eventually(lambda: _ticks(space, "before"))
    (item,) = await space.pods("before")
    assert [status["restartCount"] for status in statuses(item)] == [0]


async def _ticks(space: Space, name: str) -> bool:
    return "tick" in await space("logs", name)
