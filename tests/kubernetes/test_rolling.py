"""Scale and wait on a real cluster, beyond what the oracle compares: races, and why a rollout does not end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject
from tests.support.control_plane import KubernetesCluster, Space
from tests.support.control_plane.manifests import Object, pod, workload
from tests.support.eventually import eventually
from tests.support.k8s_steps import FixedScope, Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]


# --- scale -----------------------------------------------------------------------------------------------------------


async def scale_while(steps: Steps, space: Space, config: JsonObject, *meanwhile: str) -> JsonObject:
    """Runs the step; a kubectl command comes between what it reads and what it writes."""
    context = steps.context()

    async def capture(record: JsonObject, summary: str) -> None:
        await context.capture(record, summary)
        await space(*meanwhile)

    action = steps.adapter.prepare({"action": "scale", "name": "web", **config}, FixedScope())
    return await action.run(replace(context, capture=capture))


@pytest.mark.parametrize("config", [{"scale_factor": 2}, {"replicas": 4, "current_replicas": 2}])
async def test_a_number_that_someone_else_sets_at_the_same_time_stays(
    steps: Steps, space: Space, config: JsonObject
) -> None:
    await space.apply(workload("Deployment", "web", replicas=2))

    with pytest.raises(PermanentError, match="was scaled from 2 to 3 by someone else") as caught:
        await scale_while(steps, space, config, "scale", "deployment/web", "--replicas=3")

    assert caught.value.code == "conflict"
    assert await space.field("deployment/web", "spec.replicas") == "3"


async def test_a_factor_is_applied_though_another_field_changes_at_the_same_time(steps: Steps, space: Space) -> None:
    await space.apply(workload("Deployment", "web", replicas=2))

    made = await scale_while(steps, space, {"scale_factor": 1.5}, "annotate", "deployment/web", "seen=yes")

    assert (made["from"], made["to"]) == (2, 3)
    assert await space.field("deployment/web", "spec.replicas") == "3"
    assert await space.field("deployment/web", "metadata.annotations.seen") == "yes"


async def test_a_factor_keeps_to_its_bounds(steps: Steps, space: Space) -> None:
    await space.apply(workload("StatefulSet", "db", replicas=2))
    config: JsonObject = {"action": "scale", "resource_type": "statefulset", "name": "db"}

    up = await steps.run({**config, "scale_factor": 10, "max_replicas": 3}, "up")
    down = await steps.run({**config, "scale_factor": 0.1, "min_replicas": 2}, "down")

    assert (up["to"], down["to"]) == (3, 2)
    assert await space.field("statefulset/db", "spec.replicas") == "2"


# --- why a rollout does not end --------------------------------------------------------------------------------------


def rollout_of(kind: str) -> JsonObject:
    return {"action": "wait", "resource_type": kind, "name": "web", "condition": "rollout", "timeout": "1s"}


async def test_a_rollout_that_a_quota_holds_up_names_it(steps: Steps, space: Space) -> None:
    await space("create", "quota", "none", "--hard=pods=0")
    await eventually(lambda: space.has("quota/none", "status.hard.pods", "0"))
    await space.apply(workload("Deployment", "web"))
    refused = "status.conditions[?(@.type=='ReplicaFailure')].status"
    await eventually(lambda: space.has("deployment/web", refused, "True"))

    with pytest.raises(
        TemporaryError, match="is not rolled out after 1s: 0 of 2 replicas updated; pods are refused"
    ) as at:
        await steps.run(rollout_of("deployment"))

    assert at.value.code == "timeout" and "exceeded quota: none" in str(at.value)


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
async def test_a_kind_without_such_a_condition_names_the_quota_by_its_events(
    steps: Steps, space: Space, kind: str
) -> None:
    await space("create", "quota", "none", "--hard=pods=0")
    await eventually(lambda: space.has("quota/none", "status.hard.pods", "0"))
    await space.apply(workload(kind, "web"))

    async def said() -> bool:
        return "FailedCreate" in await space("events", "--for", f"{kind.lower()}/web")

    await eventually(said)
    with pytest.raises(TemporaryError, match="exceeded quota: none"):
        await steps.run(rollout_of(kind.lower()))


@pytest.mark.parametrize(
    ("image", "reason", "words"),
    [
        ("app:missing", "ImagePullBackOff", "container main: ImagePullBackOff"),
        ("app:crash", "CrashLoopBackOff", "container main: CrashLoopBackOff, last ended with exit code 1"),
    ],
)
async def test_a_rollout_whose_containers_do_not_run_says_why(
    steps: Steps, space: Space, image: str, reason: str, words: str
) -> None:
    # A container that crashes is ready for a moment: without minReadySeconds that would be the rollout's end.
    await space.apply(workload("Deployment", "web", replicas=1, image=image, minReadySeconds=300))
    await eventually(lambda: space.waits("web", reason))

    async def said() -> bool:  # a container that crashes is now and then not waiting
        with pytest.raises(TemporaryError) as caught:
            await steps.run(rollout_of("deployment"))
        assert caught.value.code == "timeout"
        return words in str(caught.value)

    await eventually(said)


async def test_a_rollout_whose_pods_fit_on_no_node_says_so(steps: Steps, space: Space) -> None:
    greedy: Object = workload("Deployment", "web", replicas=1)
    greedy["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "9999"}}
    await space.apply(greedy)
    (name,) = await eventually(lambda: space.names("web"))
    await eventually(lambda: space.has(f"pod/{name}", "status.conditions[0].reason", "Unschedulable"))

    with pytest.raises(TemporaryError, match=r"no node for it: .*Insufficient cpu"):
        await steps.run(rollout_of("deployment"))


# --- waits -----------------------------------------------------------------------------------------------------------


async def test_a_wait_lasts_through_a_restart_of_the_api_server(
    steps: Steps, space: Space, control_plane: KubernetesCluster
) -> None:
    await space.apply(pod("web", wishes={"unready": True}))
    await eventually(lambda: space.has("pod/web", "status.phase", "Running"))
    waiting = asyncio.create_task(steps.run({"action": "wait", "resource_type": "pod", "name": "web"}))
    try:
        await asyncio.to_thread(control_plane.restart)
        assert not waiting.done()
        await space.wish("web", "unready-")
        async with asyncio.timeout(60):
            assert (await waiting)["condition"] == "ready"
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_pods_that_a_selector_finds_are_waited_for_until_the_last_one_is_gone(steps: Steps, space: Space) -> None:
    await space.apply(workload("Deployment", "web", replicas=2))
    await space.rolled_out("deployment/web")
    waiting = asyncio.create_task(
        steps.run({"action": "wait", "resource_type": "pod", "selector": "app=web", "condition": "deleted"})
    )
    try:
        await space("scale", "deployment/web", "--replicas=1")
        await eventually(lambda: space.has("deployment/web", "status.replicas", "1"))
        assert not waiting.done()
        await space("delete", "deployment/web")
        async with asyncio.timeout(60):
            assert (await waiting)["condition"] == "deleted"
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
