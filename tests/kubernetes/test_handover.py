"""Jobs and drains whose agent stops: another one goes on with them, and nothing is done twice."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.settings import Settings
from schemas.events import Status
from tests.support import agents
from tests.support.control_plane import KubernetesCluster, Space
from tests.support.control_plane.kubectl import Object
from tests.support.control_plane.manifests import job, workload
from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker

pytestmark = [pytest.mark.long, pytest.mark.timeout(300), pytest.mark.usefixtures("played_pods")]


@pytest.fixture
def config(embedded_kafka: KafkaBroker, prefix: str, control_plane: KubernetesCluster) -> Settings:
    return agents.settings(embedded_kafka, prefix, kubeconfig=str(control_plane.kubeconfig), partitions=1)


def package(step: Object) -> dict[str, Any]:
    """A package of one step."""
    handler = {"name": "it", "type": "k8s", "config": step}
    return {"metadata": {"name": "one-step"}, "spec": {"handlers": [handler], "rollback": {"enabled": True}}}


async def test_a_job_runs_once_although_its_agent_stops_on_the_way(config: Settings, space: Space) -> None:
    manifest = job("long", wishes={"run-seconds": 600, "log": "begun"})
    manifest["metadata"]["namespace"] = space.name
    await agents.create_topics(config)
    async with agents.user(config) as topics:
        async with agents.running(config) as first:
            await topics.execute("e1", package({"action": "job", "manifest": manifest}))
            (pod,) = await eventually(lambda: space.pods("long"), timeout=90)
            await first.end()
        async with agents.running(config):
            await topics.event("e1", "step.started", 2)
            await space.wish(pod["metadata"]["name"], "run-seconds=0")
            state = await topics.over("e1")

    assert state.status is Status.COMPLETED, state.error
    assert len(await space.kubectl.items("jobs", "--namespace", space.name)) == 1
    assert [item["metadata"]["name"] for item in await space.pods("long")] == [pod["metadata"]["name"]]
    topics.assert_whole("e1")


async def test_a_drain_goes_on_with_another_agent_and_its_rollback_still_uncordons(
    config: Settings, space: Space
) -> None:
    await space.alone()
    await space.apply(workload("Deployment", "web", replicas=1))
    await space.rolled_out("deployment/web")
    await space("create", "pdb", "keep-one", "--selector=app=web", "--min-available=1")
    await eventually(lambda: space.has("pdb/keep-one", "status.currentHealthy", "1"))
    node = (await space.pods("web"))[0]["spec"]["nodeName"]

    async def is_cordoned() -> bool:
        return await space.kubectl("get", "node", node, "-o", "jsonpath={.spec.unschedulable}") == "true"

    await agents.create_topics(config)
    try:
        async with agents.user(config) as topics:
            async with agents.running(config) as first:
                await topics.execute("e1", package({"action": "drain", "name": node, "pod_selector": "app=web"}))
                await eventually(is_cordoned, timeout=90)
                await first.end()
            async with agents.running(config):
                await space("delete", "pdb", "keep-one")
                state = await topics.over("e1")
                assert state.status is Status.COMPLETED, state.error
                assert node not in {item["spec"]["nodeName"] for item in await space.pods("web")}

                await topics.rollback("e1")
                await topics.until("e1", lambda now: now.status is Status.ROLLED_BACK)
                assert not await is_cordoned()
    finally:
        await space.kubectl("uncordon", node)
