"""The manifests of deploy/, taken by a real API server in a namespace that enforces the strictest pods."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from consumer.policy import load
from consumer.settings import Settings, variables
from tests.support import cache, crds, kustomize
from tests.support.control_plane import KubectlFailed, KubernetesCluster, Space
from tests.support.control_plane.kubectl import Object
from tests.support.eventually import eventually
from tests.support.require import require

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods"), pytest.mark.timeout(400)]
_DEPLOY = kustomize.DEPLOY
#: Of the page, and of the packages in the example.
_NAMESPACES = {"wpk", "shop"}
_OF_THE_CLUSTER = {"ClusterRole"}


def manifests(space: Space, folder: str = "kubernetes") -> list[Object]:
    """What `kubectl kustomize` makes of the folder, for that namespace instead of the page's."""
    made = kustomize.built(_DEPLOY / folder)
    for each in made:
        if each["kind"] in _OF_THE_CLUSTER:
            continue
        assert each["metadata"]["namespace"] in _NAMESPACES, each["metadata"]
        each["metadata"]["namespace"] = space.name
        for subject in each.get("subjects", ()):
            assert subject["namespace"] == "wpk", subject
            subject["namespace"] = space.name
    return made


@pytest.fixture
async def definitions(control_plane: KubernetesCluster) -> AsyncIterator[None]:
    """The API server knows the custom resources of the Prometheus Operator and of KEDA."""
    try:
        files = await asyncio.to_thread(crds.files)
    except cache.Unavailable as error:
        require(False, f"there are no definitions of custom resources: {error}")
        raise
    named = [argument for file in files for argument in ("-f", str(file))]
    await control_plane.kubectl("apply", "--server-side", *named)
    try:
        await control_plane.kubectl("wait", *named, "--for=condition=Established", "--timeout=60s")
        yield
    finally:
        await control_plane.kubectl("delete", *named, "--timeout=60s")


async def dry_run(space: Space, objects: list[Object]) -> str:
    """What the API server would make of them; a field that it does not know is an error. Raises KubectlFailed."""
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    how = ("--server-side", "--dry-run=server", "--validate=strict")
    return await space.kubectl("apply", *how, "-f", "-", stdin=document)


async def test_the_example_is_what_the_api_server_and_the_operators_definitions_take(
    space: Space, definitions: None
) -> None:
    made = manifests(space, "example")
    told = (await dry_run(space, made)).splitlines()
    assert len(told) == len(made)
    for kind in (
        "scaledobject.keda.sh",
        "triggerauthentication.keda.sh",
        "servicemonitor.monitoring",
        "prometheusrule.",
    ):
        assert [line for line in told if line.startswith(kind)], kind


async def test_the_definitions_refuse_what_is_wrong(space: Space, definitions: None) -> None:
    made = {each["kind"]: each for each in manifests(space, "example")}
    wrong = [
        ("ScaledObject", {"maxReplicasCount": 12}, "unknown field"),
        ("ScaledObject", {"triggers": [{"metadata": {}}]}, 'missing required field "type"'),
        ("ServiceMonitor", {"endpoints": [{"port": "metrics", "interval": "often"}]}, "should match"),
    ]
    for kind, change, why in wrong:
        with pytest.raises(KubectlFailed, match=why):
            await dry_run(space, [made[kind] | {"spec": made[kind]["spec"] | change}])


async def test_the_page_rolls_out_as_it_says(
    control_plane: KubernetesCluster, definitions: None, tmp_path: Path
) -> None:
    """With what Strimzi would have put there: the Secrets of the agents' user and of the authority."""
    kubectl = control_plane.kubectl
    page = (_DEPLOY.parent / "docs" / "deploy.md").read_text()
    (commands,) = re.findall(r"^```sh\n(kubectl create namespace wpk\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").symlink_to(kubectl.binary)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "KUBECONFIG": str(control_plane.kubeconfig),
    }
    await kubectl("create", "namespace", "kafka")
    try:
        await kubectl("-n", "kafka", "create", "secret", "generic", "wpk-agent", "--from-literal=password=s3cret")
        await kubectl(
            "-n", "kafka", "create", "secret", "generic", "kafka-cluster-ca-cert", "--from-literal=ca.crt=pem"
        )
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=_DEPLOY.parent,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert 'deployment "wpk-agent" successfully rolled out' in done.stdout
        secret = (await kubectl.json("-n", "wpk", "get", "secret", "wpk-agent-kafka"))["data"]
        assert base64.b64decode(secret["password"]) == b"s3cret" and base64.b64decode(secret["ca.crt"]) == b"pem"
    finally:
        await kubectl("delete", "namespace", "kafka", "wpk", "shop", "--ignore-not-found", "--wait=false")
        named = kustomize.built(_DEPLOY / "kubernetes")
        roles = [f"clusterrole/{each['metadata']['name']}" for each in named if each["kind"] == "ClusterRole"]
        await kubectl("delete", "--ignore-not-found", *roles)


async def test_an_application_with_a_sidecar_is_admitted_by_the_strictest_standard(
    control_plane: KubernetesCluster, space: Space, tmp_path: Path
) -> None:
    await control_plane.kubectl("label", "namespace", space.name, "pod-security.kubernetes.io/enforce=restricted")
    await control_plane.kubectl.apply(*kustomize.sidecar(tmp_path, namespace=space.name), namespace=space.name)

    async def pods() -> bool:
        return len(await space.pods("app")) == 1

    await eventually(pods, timeout=60)


async def test_an_agents_pods_are_admitted_by_the_strictest_standard_and_roll_out(
    control_plane: KubernetesCluster, space: Space
) -> None:
    await control_plane.kubectl("label", "namespace", space.name, "pod-security.kubernetes.io/enforce=restricted")
    made = manifests(space)
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
    await control_plane.kubectl.apply(*manifests(space), namespace=space.name)
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
        each
        for each in yaml.safe_load_all((_DEPLOY / "kubernetes" / "agent.yaml").read_text())
        if each["kind"] == "Deployment"
    ]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    named = {each["name"]: each["value"] for each in container["env"]}
    lines = (_DEPLOY / "kubernetes" / "settings.env").read_text().splitlines()
    named |= dict(line.split("=", 1) for line in lines)
    assert named.keys() <= variables().keys()
    grace = Settings.model_fields["shutdown_grace"].default
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > grace + 5
    assert not load.load(_DEPLOY / "kubernetes" / "policy.yaml").open
