"""The examples of docs/kubernetes.md, run on a real control plane in the page's order, each undone where it can be."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.control_plane import KubernetesCluster, Space
from tests.support.control_plane.kubectl import Object
from tests.support.control_plane.manifests import job, workload
from tests.support.k8s_page import Section, sections
from tests.support.k8s_steps import Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]
_DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"


async def furnish(space: Space) -> None:
    """What the examples work on."""
    spec = {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": job("report")["spec"]}}
    cron: Object = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "report"}, "spec": spec}
    old: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "old"}}
    await space.apply(workload("Deployment", "api", replicas=1), cron, old)
    await space.rolled_out("deployment/api")
    await space("set", "image", "deployment/api", "main=app:2")
    await space.rolled_out("deployment/api")


# `metrics` needs a metrics server: its example is run by tests/kubernetes/test_metrics.py.
@pytest.mark.parametrize("section", [s for s in sections() if s.action != "metrics"], ids=lambda s: s.action)
async def test_an_example_of_the_page_runs_and_is_undone(space: Space, steps: Steps, section: Section) -> None:
    await furnish(space)
    try:
        if section.action == "uncordon":
            await space.kubectl("cordon", "node-2")
        plan = await steps.plan(section.example)
        await steps.run(section.example)
        assert plan.changes == (not section.undo.startswith("nothing"))
        assert bool(steps.records) == plan.changes
        if steps.records:
            undone = await steps.undo()
            assert undone["not_restored"] == []
    finally:
        await space.kubectl("uncordon", "node-2")


async def test_the_example_of_bindings_is_taken_by_the_server(control_plane: KubernetesCluster, space: Space) -> None:
    await control_plane.kubectl.apply(*yaml.safe_load_all((_DEPLOY / "roles.yaml").read_text()), namespace=space.name)
    documents = [each for each in yaml.safe_load_all((_DEPLOY / "bindings.yaml").read_text()) if each]
    for each in documents:
        each["metadata"]["namespace"] = space.name
    await control_plane.kubectl.apply(*documents, namespace=space.name)
    roles = {each["roleRef"]["name"] for each in documents if "roleRef" in each}
    known = {item["metadata"]["name"] for item in await control_plane.kubectl.items("clusterroles")}
    assert roles <= known
