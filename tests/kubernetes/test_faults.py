"""What a loaded API server answers now and then, before a real one: a door answers in its place, or lets others in."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from consumer.adapters.k8s import client
from consumer.errors import TemporaryError
from tests.support.control_plane import KubernetesCluster, Space
from tests.support.control_plane.kubectl import write_privately
from tests.support.control_plane.manifests import workload
from tests.support.held_api import HeldApi, held_api
from tests.support.k8s_real import steps_on
from tests.support.k8s_steps import Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]
Door = tuple[Steps, HeldApi]


@asynccontextmanager
async def before(control_plane: KubernetesCluster, home: Path, namespace: str) -> AsyncIterator[Door]:
    """Steps that come to the API server through a door."""
    document: dict[str, Any] = yaml.safe_load(control_plane.kubeconfig.read_text())
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    pems = {
        "ca": cluster["certificate-authority-data"],
        "crt": user["client-certificate-data"],
        "key": user["client-key-data"],
    }
    for name, data in pems.items():
        write_privately(home / name, base64.b64decode(data).decode())
    context = ssl.create_default_context(cafile=str(home / "ca"))
    context.load_cert_chain(home / "crt", home / "key")
    async with held_api(cluster["server"], context) as door:
        kubeconfig = door.kubeconfig(control_plane.kubeconfig, home / "door")
        async with steps_on(kubeconfig, namespace, home) as steps:
            yield steps, door


@pytest.fixture
async def through(control_plane: KubernetesCluster, space: Space, tmp_path: Path) -> AsyncIterator[Door]:
    await space.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "it"}, "data": {"a": "1"}})
    async with before(control_plane, tmp_path, space.name) as made:
        yield made


def status(code: int, reason: str, **headers: str) -> web.Response:
    """The API server's refusal."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
    return web.json_response({**body, "message": f"{reason}, says the test"}, status=code, headers=headers)


def once(
    wanted: Callable[[web.Request], bool], does: Callable[[web.Request], Awaitable[web.StreamResponse | None]]
) -> tuple[Callable[[web.Request], Awaitable[web.StreamResponse | None]], list[str]]:
    """Does it at the first request that is wanted, and passes the others on; all of them are listed."""
    seen: list[str] = []

    async def instead(request: web.Request) -> web.StreamResponse | None:
        if not wanted(request):
            return None
        seen.append(str(request.rel_url))
        return await does(request) if len(seen) == 1 else None

    return instead, seen


def changes(request: web.Request) -> bool:
    return request.method == "PATCH" and "dryRun" not in request.query


async def value(space: Space, path: str, what: str = "configmap/it") -> str:
    return await space("get", what, "-o", f"jsonpath={path}")


async def test_a_throttled_change_waits_as_long_as_the_server_asks_and_is_made_once(
    space: Space, through: Door
) -> None:
    steps, door = through

    async def throttled(request: web.Request) -> web.Response:
        return status(429, "TooManyRequests", **{"Retry-After": "2"})

    door.instead, seen = once(changes, throttled)
    began = time.monotonic()
    await steps.run({"action": "label", "name": "configmap/it", "labels": {"tier": "gold"}})
    assert time.monotonic() - began >= 2
    assert len(seen) == 2
    assert await value(space, "{.metadata.labels.tier}") == "gold"


async def test_a_server_error_ends_a_change_and_not_a_read(space: Space, through: Door) -> None:
    steps, door = through

    async def broken(request: web.Request) -> web.Response:
        return status(503, "ServiceUnavailable")

    door.instead, seen = once(lambda request: request.method == "GET" and request.path.endswith("/it"), broken)
    assert (await steps.run({"action": "get", "name": "configmap/it", "field": "data.a"}))["value"] == "1"
    assert len(seen) == 2

    door.instead, seen = once(changes, broken)
    config = {"action": "patch", "name": "configmap/it", "data": {"a": "2"}}
    with pytest.raises(TemporaryError, match="ServiceUnavailable, says the test"):
        await steps.run({**config})
    assert len(seen) == 1
    assert await value(space, "{.data.a}") == "1"
    await steps.again({**config})
    assert await value(space, "{.data.a}") == "2"


async def test_a_watch_whose_version_is_gone_begins_with_a_new_list(space: Space, through: Door) -> None:
    steps, door = through

    async def gone(request: web.Request) -> web.StreamResponse:
        await space("label", "configmap/it", "ready=yes")  # nobody tells the watch of it
        expired = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
        return web.Response(text=json.dumps({"type": "ERROR", "object": expired}) + "\n")

    door.instead, seen = once(lambda request: "watch" in request.query, gone)
    await steps.run({"action": "wait", "name": "configmap/it", "condition": "jsonpath={.metadata.labels.ready}=yes"})
    assert len(seen) == 1


async def test_a_list_whose_next_page_is_gone_is_read_again_as_a_whole(
    space: Space, through: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, door = through
    monkeypatch.setattr(client, "_PAGE", 2)
    await space.apply(
        *(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{n}", "labels": {"of": "it"}}}
            for n in range(5)
        )
    )

    async def expired(request: web.Request) -> web.Response:
        return status(410, "Expired")

    door.instead, seen = once(lambda request: "continue" in request.query, expired)
    found = await steps.run({"action": "get", "resource_type": "configmap", "selector": "of=it"})
    assert found["count"] == 5
    assert len(seen) == 1


async def test_a_conflict_is_tried_again_with_what_there_is_then(space: Space, through: Door) -> None:
    steps, door = through
    await space.apply(workload("Deployment", "web", replicas=1))

    async def another(request: web.Request) -> None:
        await space("annotate", "deployment/web", "configmap/it", "count=7", "--overwrite")

    door.instead, seen = once(changes, another)  # so that the server itself answers 409
    assert (await steps.run({"action": "scale", "name": "web", "scale_factor": 2}, "scale"))["to"] == 2
    assert len(seen) >= 2  # a status that is written at the same time may be one more
    assert await value(space, "{.spec.replicas}", "deployment/web") == "2"
