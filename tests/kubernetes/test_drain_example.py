"""The example drain-node by an agent on a real control plane: a node out of service, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.events import Status
from tests.support import agents
from tests.support.control_plane import KubernetesCluster, Space
from tests.support.control_plane.manifests import workload
from tests.support.kafka import KafkaBroker

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]

_EXAMPLE = Path(__file__).parents[2] / "examples" / "drain-node.wpk.yaml"


def example() -> dict[str, Any]:
    """The package, for the pods of this test only: others may be left of another one."""
    package: dict[str, Any] = yaml.safe_load(_EXAMPLE.read_text())
    drain = next(handler for handler in package["spec"]["handlers"] if handler["name"] == "drain")
    drain["config"]["pod_selector"] = "app=web"
    return package


async def test_a_node_is_emptied_and_its_rollback_gives_it_back(
    embedded_kafka: KafkaBroker, control_plane: KubernetesCluster, space: Space, prefix: str
) -> None:
    await space.alone()
    await space.apply(workload("Deployment", "web", replicas=3))
    await space.rolled_out("deployment/web")
    node = (await space.pods("web"))[0]["spec"]["nodeName"]
    config = agents.settings(embedded_kafka, prefix, kubeconfig=str(control_plane.kubeconfig), partitions=1)
    await agents.create_topics(config)
    try:
        async with agents.running(config), agents.user(config) as topics:
            await topics.execute("e1", example(), parameters={"node": node})
            state = await topics.over("e1")
            assert state.status is Status.COMPLETED, state.error
            assert isinstance(state.outputs["evicted"], int) and state.outputs["evicted"] >= 1
            assert state.steps["what-is-used"].status.value == "failed", "there is no metrics server, and it goes on"
            assert await space.kubectl("get", "node", node, "-o", "jsonpath={.spec.unschedulable}") == "true"
            assert node not in {item["spec"]["nodeName"] for item in await space.pods("web")}

            await topics.rollback("e1")
            state = await topics.until("e1", lambda now: now.status is Status.ROLLED_BACK)
            assert await space.kubectl("get", "node", node, "-o", "jsonpath={.spec.unschedulable}") == ""
            topics.assert_whole("e1")
    finally:
        await space.kubectl("uncordon", node)
