"""The manifests of deploy/kubernetes, taken by a real API server in a namespace that enforces the strictest pods."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from consumer.policy import load
from consumer.settings import Settings, variables
from tests.support.control_plane import KubectlFailed, KubernetesCluster, Space
from tests.support.control_plane.kubectl import Object
from tests.support.eventually import eventually

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]
_DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
_OF_THE_CLUSTER = {"ClusterRole"}


async def manifests(space: Space) -> list[Object]:
    """What `kubectl kustomize` makes of the folder, for that namespace instead of the page's."""
    made = [each for each in yaml.safe_load_all(await space.kubectl("kustomize", str(_DEPLOY))) if each]
    for each in made:
        if each["kind"] in _OF_THE_CLUSTER:
            continue
        assert each["metadata"]["namespace"] == "wpk", each["metadata"]
        each["metadata"]["namespace"] = space.name
        for subject in each.get("subjects", ()):
            assert subject["namespace"] == "wpk", subject
            subject["namespace"] = space.name
    return made


async def test_an_agents_pods_are_admitted_by_the_strictest_standard_and_roll_out(
    control_plane: KubernetesCluster, space: Space
) -> None:
    await control_plane.kubectl("label", "namespace", space.name, "pod-security.kubernetes.io/enforce=restricted")
    made = await manifests(space)
    await control_plane.kubectl.apply(*made, namespace=space.name)
    await space.rolled_out("deployment/wpk-agent")

    async def pods() -> bool:
        return len(await space.kubectl.items("pods", "-n", space.name)) == 2

    await eventually(pods, timeout=60)
    (budget,) = await space.kubectl.items("poddisruptionbudgets", "-n", space.name)
    assert budget["spec"]["selector"] == {"matchLabels": {"app.kubernetes.io/name": "wpk-agent"}}


async def test_the_account_may_do_what_the_bindings_say_and_no_more(
    control_plane: KubernetesCluster, space: Space
) -> None:
    await control_plane.kubectl.apply(*await manifests(space), namespace=space.name)
    account = f"--as=system:serviceaccount:{space.name}:wpk-agent"

    async def may(*what: str) -> bool:
        try:
            return (await space("auth", "can-i", *what, account)).strip() == "yes"
        except KubectlFailed as failed:
            assert failed.code == 1, failed
            return False

    assert await may("get", "secret/wpk-agent-undo-key") and await may("create", "secrets")
    for what in (("get", "secrets"), ("get", "pods"), ("patch", "deployments.apps"), ("list", "nodes")):
        assert not await may(*what), what


def test_the_settings_and_the_policy_are_those_that_the_agent_takes() -> None:
    (deployment,) = [
        each for each in yaml.safe_load_all((_DEPLOY / "agent.yaml").read_text()) if each["kind"] == "Deployment"
    ]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    named = {each["name"]: each["value"] for each in container["env"]}
    lines = (_DEPLOY / "settings.env").read_text().splitlines()
    named |= dict(line.split("=", 1) for line in lines)
    assert named.keys() <= variables().keys()
    grace = Settings.model_fields["shutdown_grace"].default
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > grace + 5
    assert not load.load(_DEPLOY / "policy.yaml").open
