"""Logs and events of a real cluster, beyond what the oracle compares: followed, cut off, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from consumer.ports import JsonObject
from tests.support.control_plane import KubernetesCluster, Space
from tests.support.control_plane.manifests import pod, workload
from tests.support.eventually import eventually
from tests.support.k8s_steps import Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]


@asynccontextmanager
async def following(steps: Steps, name: str) -> AsyncIterator[asyncio.Task[JsonObject]]:
    """A step that follows a pod's log while the block lasts."""
    config: JsonObject = {"action": "logs", "resource_type": "pod", "name": name, "follow": True}
    task = asyncio.create_task(steps.run(config))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_log_that_is_followed_goes_on_after_the_api_server_was_away_with_no_line_twice_and_none_lost(
    steps: Steps, space: Space, control_plane: KubernetesCluster
) -> None:
    await space.apply(pod("ticker", wishes={"log-every": 0.05, "log": "begin"}))
    await space.wait("pod/ticker", "condition=Ready")

    async with following(steps, "ticker") as task:
        await eventually(lambda: len(steps.output) > 5 or task.done())
        await asyncio.to_thread(control_plane.restart)
        seen = len(steps.output)
        await eventually(lambda: len(steps.output) > seen + 5 or task.done(), timeout=60)
        assert not task.done()

    ticks = [int(line.removeprefix("tick ")) for line in steps.output if line != "begin"]
    assert ticks == list(range(1, len(ticks) + 1))
    assert any("was cut off, it is taken up again" in line for stream, line in steps.lines if stream == "agent")


async def test_following_ends_well_when_its_time_is_over(steps: Steps, space: Space) -> None:
    await space.apply(pod("web", wishes={"log": "serving"}))
    await space.wait("pod/web", "condition=Ready")

    made = await steps.run({"action": "logs", "resource_type": "pod", "name": "web", "follow": True, "duration": "3s"})

    assert made == {"pods": ["web"], "lines": len(steps.output), "skipped": []}
    assert ("agent", "followed for 3s") in steps.lines


async def test_following_ends_when_the_container_does(steps: Steps, space: Space) -> None:
    await space.apply(pod("once", wishes={"log": "at work", "run-seconds": 600}, restartPolicy="Never"))
    await space.wait("pod/once", "condition=Ready")

    async with following(steps, "once") as task:
        await eventually(lambda: steps.output == ["at work"])
        assert not task.done()
        await space.wish("once", "run-seconds=0")
        async with asyncio.timeout(30):
            assert (await task)["lines"] == 1


async def test_events_of_a_workload_are_those_that_kubectl_lists_for_what_it_owns(steps: Steps, space: Space) -> None:
    await space.apply(workload("Deployment", "web", replicas=1, image="app:missing"))
    await eventually(lambda: space.waits("web", "ImagePullBackOff"))
    (name,) = await space.names("web")
    of_pod = (await space.kubectl.json("events", "--for", f"pod/{name}", "-n", space.name))["items"]
    theirs = {item["reason"] for item in of_pod}

    made = await steps.run({"action": "events", "resource_type": "deployment", "name": "web"})

    events = made["events"]
    assert isinstance(events, list)
    found = {(entry["object"], entry["reason"]) for entry in events if isinstance(entry, dict)}
    assert theirs and {(f"pod/{name}", reason) for reason in theirs} <= found
    assert ("deployment/web", "ScalingReplicaSet") in found
    warnings = made["warnings"]
    assert isinstance(warnings, dict) and "Failed" in warnings
