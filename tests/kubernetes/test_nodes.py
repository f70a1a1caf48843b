"""Cordon, uncordon and drain on a real control plane, with kubectl beside them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from consumer.engine.strays import Strays
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject
from schemas.wpk import ResourceLimits
from tests.support.control_plane import KubectlFailed, KubernetesCluster, Space
from tests.support.control_plane.kubectl import Object
from tests.support.control_plane.manifests import pod, workload
from tests.support.eventually import eventually
from tests.support.k8s_steps import FixedScope, Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]


@dataclass(frozen=True)
class Nodes:
    """The cluster's nodes; a test works on the first, and takes no notice of the pods of others."""

    space: Space
    names: list[str]

    @property
    def first(self) -> str:
        return self.names[0]

    async def spec(self, name: str) -> Object:
        item = await self.space.kubectl.json("get", "node", name)
        spec: Object = item["spec"]
        return spec

    async def is_cordoned(self, name: str) -> bool:
        return bool((await self.spec(name)).get("unschedulable"))

    async def fill_first(self, *manifests: Object) -> None:
        """Has the pods of workloads, or bare ones, on the first node only."""
        await self.space.kubectl("cordon", *self.names[1:])
        await self.space.apply(*manifests)
        for item in manifests:
            what = f"{item['kind'].lower()}/{item['metadata']['name']}"
            await (self.space.wait(what, "condition=Ready") if item["kind"] == "Pod" else self.space.rolled_out(what))
        await self.space.kubectl("uncordon", *self.names[1:])

    async def pods(self, app: str) -> set[str]:
        """The app's pods on the first node, as namespace/name."""
        found = await self.space.pods(app)
        return {f"{self.space.name}/{p['metadata']['name']}" for p in found if p["spec"].get("nodeName") == self.first}


@pytest.fixture
async def nodes(space: Space) -> AsyncIterator[Nodes]:
    """All nodes, schedulable before and after the test, without the pods of the tests before."""
    await space.alone()
    names = sorted(item["metadata"]["name"] for item in await space.kubectl.items("nodes"))
    yield Nodes(space, names)
    await space.kubectl("uncordon", *names)


def drain(node: str, *apps: str, **more: object) -> JsonObject:
    """The config of a drain that sees only the pods of the apps."""
    config: JsonObject = {"action": "drain", "name": node, "pod_selector": f"app in ({','.join(apps)})"}
    return config | more


# --- cordon and uncordon ---------------------------------------------------------------------------------------------


async def test_cordon_and_uncordon_leave_a_node_as_kubectl_does(steps: Steps, nodes: Nodes) -> None:
    ours, theirs = nodes.names[:2]

    await nodes.space.kubectl("cordon", theirs)
    made = await steps.run({"action": "cordon", "name": ours})

    assert made == {"resource": f"node {ours}", "unschedulable": True, "changed": [ours], "already": []}
    assert await nodes.is_cordoned(ours) and await nodes.is_cordoned(theirs)

    await nodes.space.kubectl("uncordon", theirs)
    assert (await steps.run({"action": "uncordon", "name": ours}, "uncordon"))["changed"] == [ours]

    async def alike() -> bool:  # a controller takes its taint away in its own time
        return await nodes.spec(ours) == await nodes.spec(theirs)

    assert not await nodes.is_cordoned(ours)
    await eventually(alike)


@pytest.mark.parametrize("action", ["cordon", "uncordon"])
async def test_a_node_that_is_so_already_is_left_alone_and_nothing_is_there_to_undo(
    steps: Steps, nodes: Nodes, action: str
) -> None:
    await nodes.space.kubectl(action, nodes.first)
    before = await nodes.space.kubectl.json("get", "node", nodes.first)

    plan = await steps.plan({"action": action, "name": nodes.first})
    made = await steps.run({"action": action, "name": nodes.first})

    assert not plan.changes and "already" in plan.summary
    assert made["already"] == [nodes.first] and made["changed"] == []
    assert steps.records == {}
    after = await nodes.space.kubectl.json("get", "node", nodes.first)
    assert after["spec"] == before["spec"]


async def test_undo_takes_back_only_what_the_step_cordoned(steps: Steps, nodes: Nodes) -> None:
    ours, theirs = nodes.names[:2]
    await nodes.space.kubectl("label", "node", ours, theirs, f"pool={nodes.space.name}", "--overwrite")
    await nodes.space.kubectl("cordon", theirs)
    config: JsonObject = {"action": "cordon", "selector": f"pool={nodes.space.name}"}

    plan = await steps.plan(config)
    assert plan.changes and plan.summary == f"cordon node {ours}"
    assert not await nodes.is_cordoned(ours)
    assert (await steps.run(config))["changed"] == [ours]

    undone = await steps.undo()

    assert undone["not_restored"] == []
    assert not await nodes.is_cordoned(ours) and await nodes.is_cordoned(theirs)


@pytest.mark.parametrize("policy", ["stop", "skip"])
async def test_the_undo_of_a_cordon_whose_node_was_replaced_says_so(steps: Steps, nodes: Nodes, policy: str) -> None:
    await steps.run({"action": "cordon", "name": nodes.first, "on_foreign_change": policy})
    steps.records["step"] = {**steps.records["step"], "uid": "of-the-node-before"}

    if policy == "stop":
        with pytest.raises(PermanentError, match="another object of that name"):
            await steps.undo()
    else:
        assert "another object of that name" in str((await steps.undo())["not_restored"])
    assert await nodes.is_cordoned(nodes.first)


async def test_uncordon_is_undone_by_cordoning_again(steps: Steps, nodes: Nodes) -> None:
    await nodes.space.kubectl("cordon", nodes.first)
    await steps.run({"action": "uncordon", "name": nodes.first})
    assert not await nodes.is_cordoned(nodes.first)

    await steps.undo()

    assert await nodes.is_cordoned(nodes.first)


async def test_a_selector_of_more_nodes_than_the_package_allows_touches_none(steps: Steps, nodes: Nodes) -> None:
    steps.limits = ResourceLimits(max_nodes=1)
    with pytest.raises(PermanentError, match="max_nodes is 1"):
        await steps.run({"action": "cordon", "selector": "kubernetes.io/os=linux"})
    assert not any([await nodes.is_cordoned(name) for name in nodes.names])


async def test_a_node_that_is_not_there_is_named(steps: Steps, nodes: Nodes) -> None:
    with pytest.raises(PermanentError, match="node absent not found") as caught:
        await steps.run({"action": "cordon", "name": "absent"})
    assert caught.value.code == "not_found"


# --- drain -----------------------------------------------------------------------------------------------------------


async def test_a_drain_moves_pods_away_and_undo_uncordons(steps: Steps, nodes: Nodes) -> None:
    await nodes.fill_first(workload("Deployment", "web", replicas=2))
    before = await nodes.pods("web")
    assert len(before) == 2
    other = nodes.names[1]

    made = await steps.run(drain(nodes.first, "web"))

    assert made["cordoned"] == [nodes.first]
    assert made["evicted"] == sorted(before) and made["count"] == 2
    assert await nodes.pods("web") == set()
    assert await nodes.is_cordoned(nodes.first)

    again = await steps.again(drain(nodes.first, "web"))
    assert again["evicted"] == []

    await steps.undo()
    assert not await nodes.is_cordoned(nodes.first) and not await nodes.is_cordoned(other)


async def test_a_node_that_was_cordoned_before_the_drain_stays_so(steps: Steps, nodes: Nodes) -> None:
    await nodes.space.kubectl("cordon", nodes.first)
    made = await steps.run(drain(nodes.first, "nothing"))
    assert made["cordoned"] == [] and steps.records == {}


async def test_a_disruption_budget_lets_pods_go_one_at_a_time_and_is_named_while_it_refuses(
    steps: Steps, nodes: Nodes
) -> None:
    await nodes.fill_first(workload("Deployment", "web", replicas=2))
    await nodes.space("create", "pdb", "keep-two", "--selector=app=web", "--min-available=2")
    await eventually(lambda: nodes.space.has("pdb/keep-two", "status.currentHealthy", "2"))

    plan = await steps.plan(drain(nodes.first, "web"))
    blocked = plan.detail["blocked"]
    assert isinstance(blocked, list) and len(blocked) == 2
    assert "keep-two" in str(blocked) and plan.summary.endswith("evict 2 pods; refused now: 2")
    assert len(await nodes.pods("web")) == 2

    draining = asyncio.create_task(steps.run(drain(nodes.first, "web")))
    try:
        await eventually(lambda: sum("disruption budget keep-two needs 2" in line for _, line in steps.lines) >= 2)
        assert len(await nodes.pods("web")) == 2
        await nodes.space("scale", "deployment/web", "--replicas=3")
        made = await draining
    finally:
        draining.cancel()

    assert made["count"] == 2
    assert await nodes.pods("web") == set()


async def test_a_drain_whose_time_is_over_names_the_pod_and_the_budget_and_goes_on_when_tried_again(
    steps: Steps, nodes: Nodes
) -> None:
    await nodes.fill_first(workload("Deployment", "web", replicas=1))
    await nodes.space("create", "pdb", "keep-one", "--selector=app=web", "--min-available=1")
    await eventually(lambda: nodes.space.has("pdb/keep-one", "status.currentHealthy", "1"))
    (name,) = await nodes.pods("web")

    await steps.plan(drain(nodes.first, "web"))  # so that the client library is there
    limit = 8.0  # the step runner's: the drain gives up a moment before, as it alone can say why
    action = steps.adapter.prepare(drain(nodes.first, "web"), FixedScope())
    with pytest.raises(TemporaryError) as caught:
        await Strays().run(action.run(replace(steps.context(), timeout=limit)), limit, name="drain")

    assert caught.value.code == "timeout"
    assert name in str(caught.value) and "disruption budget keep-one" in str(caught.value)
    assert await nodes.is_cordoned(nodes.first)

    await nodes.space("delete", "pdb", "keep-one")
    assert (await steps.again(drain(nodes.first, "web")))["evicted"] == [name]


async def test_several_nodes_are_cordoned_first_and_then_drained_one_after_the_other(
    steps: Steps, nodes: Nodes
) -> None:
    pair = nodes.names[:2]
    await nodes.space.kubectl("label", "node", *pair, f"pool={nodes.space.name}", "--overwrite")
    await nodes.space.apply(workload("DaemonSet", "agent"), workload("Deployment", "web", replicas=4))
    await nodes.space.rolled_out("deployment/web")
    config: JsonObject = {**drain("", "web", "agent", ignore_daemonsets=True), "selector": f"pool={nodes.space.name}"}
    del config["name"]

    made = await steps.run(config)
    await nodes.space.rolled_out("deployment/web")

    assert made["cordoned"] == pair and len(made["left"]) == 2
    assert {item["spec"]["nodeName"] for item in await nodes.space.pods("web")} == {nodes.names[2]}
    said = [line for _, line in steps.lines if "is drained" in line]
    assert [line.partition(" is drained")[0] for line in said] == [f"node {name}" for name in pair]

    undone = await steps.undo()
    assert undone["not_restored"] == []
    assert not any([await nodes.is_cordoned(name) for name in pair])


async def test_a_drain_goes_on_after_a_restart_of_the_api_server(
    steps: Steps, nodes: Nodes, control_plane: KubernetesCluster
) -> None:
    await nodes.fill_first(workload("Deployment", "web", replicas=2))
    await nodes.space("create", "pdb", "keep-two", "--selector=app=web", "--min-available=2")
    await eventually(lambda: nodes.space.has("pdb/keep-two", "status.currentHealthy", "2"))

    draining = asyncio.create_task(steps.run(drain(nodes.first, "web")))
    try:
        await eventually(lambda: any("disruption budget" in line for _, line in steps.lines))
        await asyncio.to_thread(control_plane.restart)
        await nodes.space("delete", "pdb", "keep-two")
        made = await draining
    finally:
        draining.cancel()

    assert made["count"] == 2 and await nodes.pods("web") == set()


async def test_it_waits_until_a_pod_has_ended(steps: Steps, nodes: Nodes) -> None:
    slow = workload("Deployment", "slow", replicas=1, wishes={"stop-seconds": 600})
    slow["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 600
    await nodes.fill_first(slow)
    (name,) = await nodes.pods("slow")

    draining = asyncio.create_task(steps.run(drain(nodes.first, "slow")))
    try:
        await eventually(lambda: any("is evicted" in line for _, line in steps.lines))
        assert await nodes.pods("slow") == {name}
        await nodes.space.wish(name.partition("/")[2], "stop-seconds=0")
        await draining
    finally:
        draining.cancel()
    assert await nodes.pods("slow") == set()


@pytest.mark.parametrize(
    ("kind", "word", "flag", "field"),
    [
        ("bare", "pods without a controller", "--force", "force"),
        ("emptydir", "emptyDir", "--delete-emptydir-data", "delete_emptydir_data"),
        ("daemonset", "pods of DaemonSets", "--ignore-daemonsets", "ignore_daemonsets"),
    ],
)
async def test_what_kubectl_refuses_is_refused_and_nothing_is_touched(
    steps: Steps, nodes: Nodes, kind: str, word: str, flag: str, field: str
) -> None:
    volumes = [{"name": "data", "emptyDir": {}}]
    manifest = {
        "bare": pod("app"),
        "emptydir": workload("Deployment", "app", replicas=1),
        "daemonset": workload("DaemonSet", "app"),
    }[kind]
    if kind == "emptydir":
        manifest["spec"]["template"]["spec"]["volumes"] = volumes
    await nodes.fill_first(manifest)
    before = await nodes.pods("app")
    kubectl = ("drain", nodes.first, "--pod-selector=app=app", "--dry-run=server")

    with pytest.raises(KubectlFailed, match=re.escape(flag)):
        await nodes.space.kubectl(*kubectl)
    with pytest.raises(PermanentError, match=word) as caught:
        await steps.run(drain(nodes.first, "app"))
    assert caught.value.code == "refused" and f"{field}: true" in str(caught.value)
    assert not await nodes.is_cordoned(nodes.first) and await nodes.pods("app") == before

    theirs = set(re.findall(r"evicting pod (\S+)", await nodes.space.kubectl(*kubectl, flag)))
    config = drain(nodes.first, "app", **{field: True})
    plan = await steps.plan(config)
    assert {entry["pod"] for entry in plan.detail["evict"]} == theirs
    assert await nodes.pods("app") == before

    made = await steps.run(config)
    assert set(made["evicted"]) == theirs
    left = {entry["pod"] for entry in made["left"]}
    assert left == before - theirs


async def test_more_pods_or_namespaces_than_the_package_allows_are_not_evicted(steps: Steps, nodes: Nodes) -> None:
    await nodes.fill_first(workload("Deployment", "web", replicas=2))
    for limits, why in (({"max_pods": 1}, "max_pods is 1"), ({"max_namespaces": 0}, "max_namespaces is 0")):
        steps.limits = ResourceLimits(**limits)
        with pytest.raises(PermanentError, match=why):
            await steps.run(drain(nodes.first, "web"))
    assert len(await nodes.pods("web")) == 2 and not await nodes.is_cordoned(nodes.first)


async def test_a_pod_under_two_budgets_ends_the_drain_with_the_reason(steps: Steps, nodes: Nodes) -> None:
    await nodes.fill_first(workload("Deployment", "web", replicas=1))
    for name in ("one", "two"):
        await nodes.space("create", "pdb", name, "--selector=app=web", "--max-unavailable=1")
    with pytest.raises(PermanentError, match="more than one PodDisruptionBudget"):
        await steps.run(drain(nodes.first, "web", timeout="60s"))


async def test_a_drain_goes_through_while_the_namespace_of_its_pods_is_deleted(steps: Steps, nodes: Nodes) -> None:
    slow = workload("Deployment", "slow", replicas=1, wishes={"stop-seconds": 600})
    slow["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 600
    await nodes.fill_first(slow)
    (name,) = await nodes.pods("slow")
    await nodes.space.kubectl("delete", "namespace", nodes.space.name, "--wait=false")
    await eventually(lambda: nodes.space.field("pod/" + name.partition("/")[2], "metadata.deletionTimestamp"))

    draining = asyncio.create_task(steps.run(drain(nodes.first, "slow")))
    try:
        await eventually(lambda: nodes.is_cordoned(nodes.first))
        await nodes.space.wish(name.partition("/")[2], "stop-seconds=0")
        await draining
    finally:
        draining.cancel()
    assert await nodes.pods("slow") == set()


async def test_an_eviction_of_an_earlier_pod_leaves_a_later_one_of_its_name_alone(steps: Steps, nodes: Nodes) -> None:
    """A StatefulSet's pod comes back under its old name, on another node: the drain is over, and it stays."""
    await nodes.fill_first(workload("StatefulSet", "db", replicas=1))
    before = (await nodes.space.pods("db"))[0]["metadata"]["uid"]

    made = await steps.run(drain(nodes.first, "db"))
    await nodes.space.rolled_out("statefulset/db")

    assert made["evicted"] == [f"{nodes.space.name}/db-0"]
    after = (await nodes.space.pods("db"))[0]
    assert after["metadata"]["uid"] != before and "deletionTimestamp" not in after["metadata"]
    assert after["spec"]["nodeName"] != nodes.first
