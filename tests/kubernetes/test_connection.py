"""How the adapter comes to a real API server and stays with it: kubeconfigs, plug-ins, tokens, restarts, pages."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
import yaml

from consumer.adapters.k8s.adapter import K8sAdapter
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.connect import Connector
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject
from tests.support.control_plane import KubernetesCluster, Space
from tests.support.control_plane.kubectl import write_privately
from tests.support.control_plane.manifests import workload
from tests.support.eventually import eventually
from tests.support.k8s_steps import Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]
ALL: JsonObject = {"action": "get", "resource_type": "configmap"}
_WATCH = re.compile(
    r'apiserver_longrunning_requests\{[^}]*resource="deployments",scope="(?:resource|namespace)"[^}]*WATCH'
)
_PLUGIN = """#!/bin/sh
echo run >> {runs}
if [ ! -s {token} ]; then echo "no session; log in first" >&2; exit 3; fi
printf '{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
printf '"status":{{"token":"%s"}}}}' "$(cat {token})"
"""


@asynccontextmanager
async def connected(connector: Connector, space: Space) -> AsyncIterator[Steps]:
    adapter = K8sAdapter(Cluster(connector))
    try:
        yield Steps(adapter, execution=space.name)
    finally:
        await adapter.aclose()


def parts(control_plane: KubernetesCluster, space: Space) -> dict[str, Any]:
    """The admin's kubeconfig with the test's namespace in its context."""
    document: dict[str, Any] = yaml.safe_load(control_plane.kubeconfig.read_text())
    document["contexts"][0]["context"]["namespace"] = space.name
    return document


def written(path: Path, document: dict[str, Any]) -> Path:
    write_privately(path, yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **document}))
    return path


async def account(space: Space) -> str:
    """A new service account that may list configmaps, and its token. The tokens of one before it are void."""
    await space("delete", "serviceaccount,rolebinding", "agent", "--ignore-not-found")
    await space("create", "serviceaccount", "agent")
    await space("create", "rolebinding", "agent", "--clusterrole=view", f"--serviceaccount={space.name}:agent")
    return (await space("create", "token", "agent", "--duration=1h")).strip()


async def works(steps: Steps) -> bool:
    """Whether the steps are let in; the API server learns of bindings and of deleted accounts in its own time."""
    try:
        await steps.run(ALL)
    except PermanentError as error:
        assert error.code in ("unauthorized", "forbidden")
        return False
    return True


async def test_a_kubeconfig_may_lie_in_several_files(
    control_plane: KubernetesCluster, space: Space, tmp_path: Path
) -> None:
    whole = parts(control_plane, space)
    name = whole["current-context"]
    other = {"name": name, "cluster": {"server": "https://127.0.0.1:1"}}
    paths = [
        written(tmp_path / "contexts", {"contexts": whole["contexts"], "current-context": name}),
        tmp_path / "missing",
        written(tmp_path / "clusters", {"clusters": whole["clusters"], "current-context": "nowhere"}),
        written(tmp_path / "users", {"users": whole["users"], "clusters": [other]}),
    ]
    async with connected(Connector(os.pathsep.join(map(str, paths))), space) as steps:
        assert await works(steps)


async def test_a_plug_in_gives_the_token_is_asked_again_when_it_is_refused_and_its_error_is_told(
    control_plane: KubernetesCluster, space: Space, tmp_path: Path
) -> None:
    script, token, runs = tmp_path / "plug-in", tmp_path / "token", tmp_path / "runs"
    script.write_text(_PLUGIN.format(token=token, runs=runs))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    token.touch(mode=0o600)
    document = parts(control_plane, space)
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "interactiveMode": "Never"}
    document["users"][0]["user"] = {"exec": plugin}

    async with connected(Connector(str(written(tmp_path / "config", document))), space) as steps:
        with pytest.raises(TemporaryError, match="no session; log in first") as caught:
            await steps.run(ALL)
        assert caught.value.code == "no_credentials"

        token.write_text(await account(space))
        await eventually(lambda: works(steps))
        before = runs.read_text()
        await steps.run(ALL)
        assert runs.read_text() == before

        token.write_text(await account(space))

        async def is_asked_again() -> bool:  # the API server believes the former token for some seconds more
            return await works(steps) and runs.read_text() != before

        await eventually(is_asked_again)


async def test_a_plug_in_gives_a_certificate_and_is_asked_again_once_it_has_expired(
    control_plane: KubernetesCluster, space: Space, tmp_path: Path
) -> None:
    script, answer, runs = tmp_path / "plug-in", tmp_path / "answer", tmp_path / "runs"
    script.write_text(f"#!/bin/sh\necho run >> {runs}\ncat {answer}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    document = parts(control_plane, space)
    admin = document["users"][0]["user"]
    certificate, key = (base64.b64decode(admin[f"client-{name}-data"]).decode() for name in ("certificate", "key"))
    version = "client.authentication.k8s.io/v1"
    document["users"][0]["user"] = {"exec": {"apiVersion": version, "command": "./plug-in", "interactiveMode": "Never"}}

    def gives(expires: datetime) -> None:
        status = {
            "clientCertificateData": certificate,
            "clientKeyData": key,
            "expirationTimestamp": f"{expires:%FT%TZ}",
        }
        write_privately(answer, json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status}))

    async with connected(Connector(str(written(tmp_path / "config", document))), space) as steps:
        gives(datetime.now(UTC) - timedelta(minutes=1))
        assert await works(steps)
        gives(datetime.now(UTC) + timedelta(hours=1))
        assert await works(steps)
        before = runs.read_text()
        assert before.count("run") > 1
        assert await works(steps)
        assert runs.read_text() == before


async def test_a_pods_token_that_is_replaced_is_read_again(
    control_plane: KubernetesCluster, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = parts(control_plane, space)["clusters"][0]["cluster"]
    server = urlsplit(cluster["server"])
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(server.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ca.crt").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    (tmp_path / "namespace").write_text(space.name)
    write_privately(tmp_path / "token", await account(space))

    async with connected(Connector(None, tmp_path), space) as steps:
        await eventually(lambda: works(steps))
        await account(space)
        await eventually(lambda: refused(steps))
        write_privately(tmp_path / "token", await account(space))
        await eventually(lambda: works(steps))


async def refused(steps: Steps) -> bool:
    """Whether the token is void."""
    return not await works(steps)


async def test_a_certificate_that_is_replaced_is_used_for_new_connections(
    control_plane: KubernetesCluster, space: Space, tmp_path: Path
) -> None:
    document = parts(control_plane, space)
    user = document["users"][0]["user"]
    good = [base64.b64decode(user[name]) for name in ("client-certificate-data", "client-key-data")]
    stranger = trustme.CA().issue_cert("client.invalid", common_name="admin", organization_name="system:masters")
    certificate, key = tmp_path / "client.crt", tmp_path / "client.key"
    certificate.write_bytes(stranger.cert_chain_pems[0].bytes())
    key.write_bytes(stranger.private_key_pem.bytes())
    document["users"][0]["user"] = {"client-certificate": str(certificate), "client-key": str(key)}

    async with connected(Connector(str(written(tmp_path / "config", document))), space) as steps:
        assert not await works(steps)
        certificate.write_bytes(good[0])
        key.write_bytes(good[1])
        assert await works(steps)


async def test_a_wait_goes_on_through_a_restart_of_the_api_server(
    control_plane: KubernetesCluster, space: Space, steps: Steps
) -> None:
    await space.apply(workload("Deployment", "web", replicas=1))
    await space.rolled_out("deployment/web")
    condition = "jsonpath={.metadata.annotations.go}=yes"
    waiting = asyncio.create_task(
        steps.run({"action": "wait", "resource_type": "deployment", "name": "web", "condition": condition})
    )

    async def watches() -> bool:  # controllers watch the whole cluster; only the step watches one object
        return _WATCH.search(await space.kubectl("get", "--raw", "/metrics")) is not None

    try:
        await eventually(watches)
        await asyncio.to_thread(control_plane.kill)
        await eventually(lambda: any("still waiting" in line for _, line in steps.lines))
        await asyncio.to_thread(control_plane.restart)
        await space("annotate", "deployment/web", "go=yes")
        assert "yes" in str((await waiting)["state"])
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_thousand_objects_come_in_pages(space: Space, steps: Steps) -> None:
    await space.apply(*({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{n}"}} for n in range(1000)))
    names = await steps.run({**ALL, "field": "items[*].metadata.name"})
    assert len(set(names["value"])) == 1000
