"""The actions under RBAC, with just the rights that the table says, and what is said where one is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from consumer.adapters.k8s import kinds, preflight, rights
from consumer.adapters.k8s.rights import Right, Target
from consumer.adapters.k8s.sealing import KEY_NAME
from consumer.errors import PermanentError
from consumer.ports import Intention, JsonObject, Rights
from schemas.failure import Problem
from tests.support.control_plane import KubernetesCluster, Space
from tests.support.control_plane.kubectl import Object
from tests.support.control_plane.manifests import workload
from tests.support.eventually import eventually
from tests.support.k8s_real import steps_on
from tests.support.k8s_steps import FixedScope, Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]
_ROLES = Path(__file__).parents[2] / "deploy" / "kubernetes" / "roles.yaml"
_RBAC = "rbac.authorization.k8s.io"


def rules(some: Iterable[Right]) -> list[Object]:
    """RBAC rules that grant just those."""
    by: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for right in some:
        by[right.group, right.resource, right.name].add(right.verb)
    return [
        {"apiGroups": [group], "resources": [resource], "verbs": sorted(verbs)}
        | ({"resourceNames": [name]} if name else {})
        for (group, resource, name), verbs in by.items()
    ]


def rights_of(config: JsonObject, namespace: str) -> tuple[Target, list[Right]]:
    """What the table says of a config."""
    (wanted,) = preflight.read(config, FixedScope())
    kind = None if wanted.word is None else kinds.built_in(wanted.word)
    target = wanted.target(kind, namespace)
    return target, [right for right in rights.needed(target) if not right.optional]


class Restricted:
    """Service accounts of the test's namespace and what they may do."""

    def __init__(self, cluster: KubernetesCluster, space: Space, home: Path, stack: AsyncExitStack) -> None:
        self._cluster = cluster
        self._space = space
        self._home = home
        self._stack = stack

    async def steps(self, some: Iterable[Right], account: str) -> Steps:
        """Steps of an account that may do just that."""
        path = await self._cluster.restricted(self._space.name, rules(some), account)
        await self.cluster_wide([right for right in some if right.namespace is None], account)
        return await self._stack.enter_async_context(steps_on(path, self._space.name, self._home / account))

    async def cluster_wide(self, some: Iterable[Right], account: str) -> None:
        found = rules(some)
        if not found:
            return
        name = f"{self._space.name}-{account}"
        await self._cluster.kubectl.apply(
            {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": found},
            binding("ClusterRoleBinding", name, name, self._space.name, account),
            namespace=self._space.name,
        )
        self._stack.push_async_callback(
            self._cluster.kubectl,
            "delete",
            "clusterrole,clusterrolebinding",
            name,
            "--wait=false",
            "--ignore-not-found",
        )


def binding(kind: str, name: str, role: str, namespace: str, account: str) -> Object:
    """A binding of a ClusterRole to a service account."""
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": kind,
        "metadata": {"name": name},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }


@pytest.fixture
async def restricted(control_plane: KubernetesCluster, space: Space, tmp_path: Path) -> AsyncIterator[Restricted]:
    async with AsyncExitStack() as stack:
        yield Restricted(control_plane, space, tmp_path, stack)


WEB: JsonObject = {"resource_type": "deployment", "name": "web"}
_NEW: JsonObject = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new"}, "data": {"a": "1"}}
_JOB: JsonObject = {
    "metadata": {"name": "once"},
    "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "job:1"}]}}},
}
CASES: dict[str, JsonObject] = {
    "logs of a deployment": {"action": "logs", **WEB},
    "logs by a selector": {"action": "logs", "selector": "app=web"},
    "events of a deployment": {"action": "events", **WEB},
    "events of all": {"action": "events"},
    "get": {"action": "get", **WEB},
    "get of all": {"action": "get", "resource_type": "deployment"},
    "restart": {"action": "restart", **WEB},
    "restart by a selector": {"action": "restart", "resource_type": "deployment", "selector": "app=web"},
    "restart of pods": {"action": "restart", "resource_type": "pod", "selector": "app=web"},
    "scale": {"action": "scale", "name": "web", "replicas": 2},
    "wait": {"action": "wait", **WEB, "condition": "rollout"},
    "rollback": {"action": "rollback", "name": "web"},
    "create": {"action": "create", "manifest": _NEW},
    "apply": {"action": "apply", "manifest": _NEW},
    "delete": {"action": "delete", **WEB},
    "patch": {"action": "patch", **WEB, "data": {"spec": {"replicas": 2}}},
    "annotate": {"action": "annotate", **WEB, "annotation": "n", "value": "increment"},
    "label": {"action": "label", **WEB, "label": "tier", "value": "a"},
    "job": {"action": "job", "manifest": _JOB},
    "cordon": {"action": "cordon", "name": "node-2"},
    "drain": {"action": "drain", "name": "node-2", "pod_selector": "app=nobody"},
}


@pytest.mark.parametrize("name", CASES)
async def test_an_action_and_its_undo_need_no_more_than_the_table_says(
    space: Space, restricted: Restricted, name: str
) -> None:
    config = CASES[name]
    await space.apply(workload("Deployment", "web", replicas=1))
    await space("label", "deployment/web", "app=web")
    await space.rolled_out("deployment/web")
    if name == "rollback":
        await space("set", "image", "deployment/web", "main=app:2")
        await space.rolled_out("deployment/web")
    target, needed = rights_of(config, space.name)
    steps = await restricted.steps(needed, "acting")
    await eventually(lambda: granted(steps, config))
    try:
        await steps.plan(config)
        await steps.run(config)
        if steps.records:
            undoing = await restricted.steps([*needed, *rights.needed_to_undo(target)], "undoing")
            await eventually(lambda: granted(undoing, config, undone=True))
            undoing.records = steps.records
            await undoing.undo()
    finally:
        if target.kind == kinds.NODE:
            await space.kubectl("uncordon", "node-2")


async def asked(steps: Steps, *configs: JsonObject, undone: bool = False) -> list[Problem]:
    """What the look before the first step says."""
    assert isinstance(steps.adapter, Rights)
    intentions = [
        Intention(path=f"spec.handlers[{n}].config", config=each, scope=FixedScope(), undone=undone, goes_on=False)
        for n, each in enumerate(configs)
    ]
    return list(await steps.adapter.preflight(intentions, steps.requested_by))


async def granted(steps: Steps, *configs: JsonObject, undone: bool = False) -> bool:
    """Whether the API server knows of the role; it learns of it in its own time."""
    return not await asked(steps, *configs, undone=undone)


async def test_each_right_that_is_missing_is_told_by_name_before_the_first_step(
    control_plane: KubernetesCluster, space: Space, restricted: Restricted
) -> None:
    names = ("logs of a deployment", "restart", "scale", "delete")
    configs = [CASES[name] for name in names]
    every = {right: n for n, each in reversed(list(enumerate(configs))) for right in rights_of(each, space.name)[1]}
    steps = await restricted.steps(every, "acting")
    await eventually(lambda: granted(steps, *configs))
    account = f"system:serviceaccount:{space.name}:acting"

    for missing, step in every.items():
        rest = [right for right in every if replace(right, name="") != replace(missing, name="")]
        await control_plane.kubectl.allow(space.name, "acting", rules(rest))

        async def tells(missing: Right = missing, step: int = step) -> bool:
            told = {(problem.path, problem.message.partition(";")[0]) for problem in await asked(steps, *configs)}
            which = f" (name {missing.name})" if missing.name else ""
            return told == {(f"spec.handlers[{step}].config", f"{account} may not {missing}{which}")}

        await eventually(tells)


async def test_a_right_for_one_name_is_enough_for_that_name(space: Space, restricted: Restricted) -> None:
    config: JsonObject = {"action": "restart", **WEB}
    _, needed = rights_of(config, space.name)
    assert {right.name for right in needed} == {"web"}
    steps = await restricted.steps(needed, "acting")
    await eventually(lambda: granted(steps, config))
    (problem, *_) = await asked(steps, {**config, "name": "other"})
    assert "(name other)" in problem.message


@pytest.mark.parametrize(
    ("role", "names", "beyond"),
    [
        ("wpk-agent-observe", ["logs of a deployment", "events of a deployment", "get", "wait"], ["restart", "cordon"]),
        ("wpk-agent-operate", ["restart", "scale", "rollback", "restart of pods"], ["create", "job", "cordon"]),
        ("wpk-agent-change", ["apply", "patch", "annotate", "label", "job", "delete"], ["scale", "cordon"]),
        ("wpk-agent-nodes", ["cordon", "drain"], ["get", "restart of pods"]),
    ],
)
async def test_the_roles_of_the_deployment_are_enough_for_what_they_say_and_for_nothing_else(
    control_plane: KubernetesCluster,
    space: Space,
    restricted: Restricted,
    tmp_path: Path,
    role: str,
    names: list[str],
    beyond: list[str],
) -> None:
    documents = [each for each in yaml.safe_load_all(_ROLES.read_text()) if each]
    await control_plane.kubectl.apply(*documents, namespace=space.name)
    await space.apply(workload("Deployment", "web", replicas=1))
    await space.rolled_out("deployment/web")
    await space("set", "image", "deployment/web", "main=app:2")
    await space.rolled_out("deployment/web")
    path = await control_plane.restricted(space.name, [], "agent")
    everywhere = role == "wpk-agent-nodes"
    kind = "ClusterRoleBinding" if everywhere else "RoleBinding"
    await control_plane.kubectl.apply(binding(kind, space.name, role, space.name, "agent"), namespace=space.name)
    try:
        async with steps_on(path, space.name, tmp_path / "agent") as steps:
            for name in names:
                await eventually(lambda name=name: granted(steps, CASES[name], undone=True))
                await steps.run(CASES[name], name.replace(" ", "-"))
            for name in beyond:
                assert not await granted(steps, CASES[name]), name
    finally:
        await control_plane.kubectl("uncordon", "node-2")
        if everywhere:
            await control_plane.kubectl("delete", "clusterrolebinding", space.name)


async def test_the_key_of_old_secrets_is_asked_for_before_the_first_step(
    control_plane: KubernetesCluster, space: Space, restricted: Restricted
) -> None:
    change: JsonObject = {"action": "patch", "resource_type": "secret", "name": "login", "data": {"password": "bmV3"}}
    secret: JsonObject = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}}
    _, needed = rights_of(change, space.name)
    applying = rights_of({"action": "apply", "manifest": secret}, space.name)[1]
    own = [*needed, *applying]
    steps = await restricted.steps([right for right in own if right.verb != "create"], "acting")
    await eventually(lambda: granted(steps, {**change, "undo": False}))

    (problem,) = await asked(steps, change)
    assert (problem.path, problem.severity) == ("spec.handlers[0].config", "error")
    assert f"let the agent get and create secrets in namespace {space.name}" in problem.message
    marked: JsonObject = {"action": "label", "resource_type": "secret", "name": "login", "labels": {"a": "b"}}
    assert [problem.severity for problem in await asked(steps, marked)] == ["error"]
    assert await asked(steps, {"action": "get", "resource_type": "secret", "name": "login"}) == []
    *_, perhaps = await asked(steps, {"action": "apply", "manifest": secret})
    assert (perhaps.severity, KEY_NAME in perhaps.message) == ("warning", True)

    key = [
        Right("get", "secrets", namespace=space.name, name=KEY_NAME),
        Right("create", "secrets", namespace=space.name),
    ]
    await control_plane.kubectl.allow(space.name, "acting", rules([*own, *key]))
    await eventually(lambda: granted(steps, change))


# --- impersonation --------------------------------------------------------------------------------------------------


async def test_steps_act_with_the_rights_of_who_asked_and_not_with_the_agents(
    control_plane: KubernetesCluster, space: Space, tmp_path: Path
) -> None:
    await space.apply(workload("Deployment", "web", replicas=1))
    await space("create", "role", "reader", "--verb=get,list", "--resource=deployments,deployments/scale")
    await space("create", "rolebinding", "alice", "--role=reader", "--user=alice")
    await space("create", "rolebinding", "bob", "--clusterrole=cluster-admin", "--user=bob")
    scale = CASES["scale"]
    async with steps_on(control_plane.kubeconfig, space.name, tmp_path, k8s_impersonate=True) as steps:
        with pytest.raises(PermanentError, match="give requested_by") as caught:
            await steps.run({"action": "get", **WEB})
        assert caught.value.code == "no_requester"

        steps.requested_by = "alice"
        await eventually(lambda: granted(steps, CASES["get"]))
        await steps.run(CASES["get"])
        with pytest.raises(PermanentError, match='User "alice" cannot patch') as caught:
            await steps.run(scale)
        assert caught.value.code == "forbidden"
        (problem,) = await asked(steps, scale)
        assert "alice may not patch deployments.apps/scale" in problem.message

        steps.requested_by = "bob"
        await eventually(lambda: granted(steps, scale))
        assert (await steps.run(scale, "bobs"))["to"] == 2
        steps.requested_by = "alice"
        with pytest.raises(PermanentError, match='User "alice" cannot patch'):
            await steps.undo("bobs")

        steps.requested_by = "system:masters"
        with pytest.raises(PermanentError, match="nobody is impersonated"):
            await steps.run(scale)


async def test_an_agent_that_may_not_impersonate_says_which_right_it_needs(
    control_plane: KubernetesCluster, space: Space, tmp_path: Path
) -> None:
    path = await control_plane.restricted(space.name, [], "agent")
    async with steps_on(path, space.name, tmp_path / "agent", k8s_impersonate=True) as steps:
        steps.requested_by = "alice"
        (problem,) = await asked(steps, CASES["scale"])
        assert problem.path == "requested_by" and problem.severity == "error"
        assert "grant the agent the verb impersonate on users" in problem.message


async def test_the_key_of_old_secrets_stays_the_agents_own_where_steps_act_as_others(
    control_plane: KubernetesCluster, space: Space, tmp_path: Path
) -> None:
    await space("create", "secret", "generic", "login", "--from-literal=password=old")
    await space("create", "role", "login", "--verb=get,patch", "--resource=secrets", "--resource-name=login")
    await space("create", "rolebinding", "carol", "--role=login", "--user=carol")
    change: JsonObject = {"action": "patch", "resource_type": "secret", "name": "login", "data": {"password": "bmV3"}}
    async with steps_on(control_plane.kubeconfig, space.name, tmp_path, k8s_impersonate=True) as steps:
        steps.requested_by = "carol"
        await eventually(lambda: granted(steps, change))
        await steps.run(change)
        assert await space.field("secret/login", "data.password") == "bmV3"
        with pytest.raises(PermanentError, match='User "carol" cannot get'):
            await steps.run({"action": "get", "resource_type": "secret", "name": "wpk-agent-undo-key"}, "look")
        await steps.undo()
        assert await space.field("secret/login", "data.password") == "b2xk"
