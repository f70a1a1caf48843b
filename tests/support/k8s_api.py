"""A stateful Kubernetes API server for tests: real HTTP on loopback, so faithful that kubectl works against it.

Not a control plane: `k8s_controllers` rolls deployments and readies pods, `k8s_rules` knows some validations. What the
adapter does to it is compared with what kubectl does to it (test_k8s_kubectl.py), which keeps both honest.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from aiohttp import web

from tests.support import k8s_patch
from tests.support.k8s_controllers import Controllers
from tests.support.k8s_discovery import discovery
from tests.support.k8s_kinds import (
    BY_KIND,
    BY_PATH,
    ApiError,
    Json,
    Object,
    Resource,
    bad_request,
    not_found,
)
from tests.support.k8s_rules import matches_fields, matches_labels, unknown_fields
from tests.support.k8s_store import Entry, Store, now

_PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?$"
)
_PATCHES = {
    "application/strategic-merge-patch+json": k8s_patch.strategic,
    "application/merge-patch+json": k8s_patch.merge,
    "application/json-patch+json": k8s_patch.json_patch,
}
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
USER = "wpk"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    content_type: str
    body: Json


@dataclass(slots=True)
class Fault:
    """What goes wrong with the next requests that match: an answer, or (status 0) a closed connection."""

    method: str
    path: str
    """A regular expression that is searched in the path."""
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    """True: only after the request was carried out, so that the client can't know it."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What a request is about."""

    resource: Resource
    namespace: str
    name: str
    sub: str


class K8sApi:
    """The server. `store` holds the objects, `controllers` move them; `forbidden` and `faults` are the knobs."""

    def __init__(self) -> None:
        self.store = Store()
        self.controllers = Controllers(self.store)
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.forbidden: set[tuple[str, str]] = set()
        """(verb, resource), as in `("patch", "deployments/scale")`."""
        self.token = "token-of-the-tests"
        self.following = asyncio.Event()
        """Set once a log is followed."""
        self.url = ""
        for name in ("default", "payments"):
            self.create("Namespace", "", {"metadata": {"name": name}})

    # --- for tests -------------------------------------------------------------------------------------------

    def create(self, kind: str, namespace: str, manifest: Object) -> Object:
        """Puts an object there."""
        return self.store.create(BY_KIND[kind], namespace, manifest)

    def get(self, kind: str, name: str, namespace: str = "payments") -> Object:
        """An object as it is; fails where there is none."""
        item = self.store.get(kind, namespace, name)
        assert item is not None, f"there is no {kind} {namespace}/{name}"
        return item

    def sent(self, method: str, path: str = "") -> list[Seen]:
        """The requests of a method whose path holds a text."""
        return [seen for seen in self.requests if seen.method == method and path in seen.path]

    def kubeconfig(self, path: Path, namespace: str = "payments", token: str | None = None) -> Path:
        """Writes a kubeconfig for this server."""
        cluster = {"name": "tests", "cluster": {"server": self.url}}
        user = {"name": USER, "user": {"token": token or self.token}}
        context = {"name": "tests", "context": {"cluster": "tests", "user": USER, "namespace": namespace}}
        document = {"apiVersion": "v1", "kind": "Config", "current-context": "tests"}
        path.write_text(yaml.safe_dump({**document, "clusters": [cluster], "users": [user], "contexts": [context]}))
        return path

    # --- requests --------------------------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        body = json.loads(data) if data else None
        query = dict(request.query)
        self.requests.append(Seen(request.method, request.path, query, request.content_type, body))
        fault = self._fault(request)
        try:
            if fault is not None and not fault.after:
                return self._failed(request, fault)
            # kubectl sends no token over plain HTTP, so a missing one passes and a wrong one does not.
            if request.headers.get("Authorization", f"Bearer {self.token}") != f"Bearer {self.token}":
                raise ApiError(401, "Unauthorized", "Unauthorized")
            answer = await self._answer(request, query, body)
        except ApiError as error:
            return web.json_response(error.status, status=error.code)
        except k8s_patch.PatchError as error:
            reason = "Invalid" if error.status == 422 else "BadRequest"
            return web.json_response(ApiError(error.status, reason, str(error)).status, status=error.status)
        return answer if fault is None else self._failed(request, fault)

    def _fault(self, request: web.Request) -> Fault | None:
        for fault in self.faults:
            if fault.method == request.method and re.search(fault.path, request.path) and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _failed(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if fault.status == 0:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        status = ApiError(fault.status, "InternalError", "made to fail").status
        return web.json_response(status, status=fault.status, headers=fault.headers)

    async def _answer(self, request: web.Request, query: dict[str, str], body: Json) -> web.StreamResponse:
        path = request.path.rstrip("/")
        found = discovery(path)
        if found is not None:
            return web.json_response(found)
        target = _target(path)
        if target is None:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        if request.method == "GET":
            return await self._read(request, target, query)
        self._allow(_VERBS[request.method], target)
        dry_run = query.get("dryRun") == "All"
        if request.method == "POST":
            return web.json_response(self._create(target, query, body, dry_run), status=201)
        if request.method == "DELETE":
            return web.json_response(self._delete(target, body or {}, dry_run or bool((body or {}).get("dryRun"))))
        if request.method == "PATCH":
            return web.json_response(self._patch(target, query, request.content_type, body, dry_run))
        return web.json_response(self._put(target, body, dry_run))

    def _allow(self, verb: str, target: _Target) -> None:
        resource = f"{target.resource.plural}/{target.sub}" if target.sub else target.resource.plural
        if (verb, resource) in self.forbidden:
            where = f' in the namespace "{target.namespace}"' if target.namespace else ""
            raise ApiError(
                403,
                "Forbidden",
                f'{target.resource.qualified} "{target.name}" is forbidden: User "{USER}" cannot {verb} resource '
                f'"{resource}" in API group "{target.resource.group}"{where}',
            )

    def _find(self, target: _Target) -> Object:
        item = self.store.get(target.resource.kind, target.namespace, target.name)
        if item is None:
            raise not_found(target.resource, target.name)
        return item

    async def _read(self, request: web.Request, target: _Target, query: dict[str, str]) -> web.StreamResponse:
        watching = query.get("watch") in ("true", "True", "1")
        self._allow("get" if target.name else "watch" if watching else "list", target)
        if target.sub == "log":
            return await self._log(request, self._find(target), query)
        if target.sub == "scale":
            return web.json_response(_scale(self._find(target)))
        if target.name:
            return web.json_response(self._find(target))
        if watching:
            return await self._watch(request, target, query)
        return web.json_response(self._list(target, query))

    def _list(self, target: _Target, query: dict[str, str]) -> Object:
        found = [item for item in self.store.all(target.resource.kind, target.namespace) if _chosen(item, query)]
        start = int(base64.b64decode(query["continue"])) if query.get("continue") else 0
        limit = int(query.get("limit") or 0) or len(found)
        metadata: Object = {"resourceVersion": str(self.store.version)}
        if start + limit < len(found):
            metadata["continue"] = base64.b64encode(str(start + limit).encode()).decode()
        # As the real one: the items of a list carry neither kind nor apiVersion.
        items = [{k: v for k, v in o.items() if k not in ("kind", "apiVersion")} for o in found[start : start + limit]]
        kind, version = f"{target.resource.kind}List", target.resource.api_version
        return {"kind": kind, "apiVersion": version, "metadata": metadata, "items": items}

    def _create(self, target: _Target, query: dict[str, str], body: Object, dry_run: bool) -> Object:
        _strict(target.resource, query, body)
        if target.resource.namespaced and self.store.get("Namespace", "", target.namespace) is None:
            raise not_found(BY_KIND["Namespace"], target.namespace)
        return self.store.create(target.resource, target.namespace, body, dry_run=dry_run)

    def _delete(self, target: _Target, options: Object, dry_run: bool) -> Object:
        item = self._find(target)
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted and wanted != item["metadata"]["uid"]:
            message = (
                f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {item['metadata']['uid']}"
            )
            raise ApiError(409, "Conflict", message)
        if not dry_run:
            if target.resource.kind == "Pod" and options.get("gracePeriodSeconds") != 0:
                self.store.touch(item, metadata={"deletionTimestamp": now(), "deletionGracePeriodSeconds": 30})
            else:
                self.store.remove(item)
        if target.resource.kind == "Pod":
            return copy.deepcopy(item)
        details = {"name": target.name, "kind": target.resource.plural, "uid": item["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _patch(self, target: _Target, query: dict[str, str], content_type: str, body: Json, dry_run: bool) -> Object:
        item = self._find(target)
        apply = _PATCHES.get(content_type)
        if apply is None or (target.resource.group == "example.com" and apply is k8s_patch.strategic):
            message = "the body of the request was in an unknown format - accepted media types include: …"
            raise ApiError(415, "UnsupportedMediaType", message)
        if target.sub == "scale":
            wanted = apply(_scale(item), body)["spec"]["replicas"]
            return self._scaled(target, item, wanted, dry_run)
        changed = apply(copy.deepcopy(item), body)
        _strict(target.resource, query, changed)
        return self.store.update(target.resource, item, changed, dry_run=dry_run)

    def _put(self, target: _Target, body: Object, dry_run: bool) -> Object:
        item = self._find(target)
        if target.sub == "scale":
            version = body["metadata"].get("resourceVersion")
            if version and version != item["metadata"]["resourceVersion"]:
                raise ApiError(409, "Conflict", "the object has been modified")
            return self._scaled(target, item, body["spec"]["replicas"], dry_run)
        return self.store.update(target.resource, item, copy.deepcopy(body), dry_run=dry_run)

    def _scaled(self, target: _Target, item: Object, replicas: int, dry_run: bool) -> Object:
        changed = copy.deepcopy(item)
        changed["spec"]["replicas"] = replicas
        return _scale(self.store.update(target.resource, item, changed, dry_run=dry_run))

    # --- streams ---------------------------------------------------------------------------------------------

    async def _watch(self, request: web.Request, target: _Target, query: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        initial = query.get("sendInitialEvents") == "true"
        version = self.store.version if initial else int(query.get("resourceVersion") or self.store.version)
        if version < self.store.compacted:
            message = f"too old resource version: {version} ({self.store.compacted})"
            await _send(response, {"type": "ERROR", "object": ApiError(410, "Expired", message).status})
            return response
        for item in self.store.all(target.resource.kind, target.namespace) if initial else []:
            if _chosen(item, query):
                await _send(response, {"type": "ADDED", "object": item})
        if initial:
            await _send(response, {"type": "BOOKMARK", "object": self._bookmark(target, end=True)})
        end = time.monotonic() + float(query.get("timeoutSeconds") or 300)
        while time.monotonic() < end and request.transport is not None and not request.transport.is_closing():
            for entry in self.store.since(version):
                version = entry.version
                event = _event(entry, target, query)
                if event is not None:
                    await _send(response, event)
            await self._wait(version, min(1.0, end - time.monotonic()))
        return response

    async def _wait(self, version: int, seconds: float) -> None:
        """Until something has changed since the version, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)), self.store.changed:
                await self.store.changed.wait_for(lambda: self.store.version > version)

    def _bookmark(self, target: _Target, *, end: bool) -> Object:
        annotations = {"k8s.io/initial-events-end": "true"} if end else {}
        metadata = {"resourceVersion": str(self.store.version), "annotations": annotations}
        return {"kind": target.resource.kind, "apiVersion": target.resource.api_version, "metadata": metadata}

    async def _log(self, request: web.Request, pod: Object, query: dict[str, str]) -> web.StreamResponse:
        lines, key = self._log_lines(pod, query)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        sent = max(0, len(lines) - int(query.get("tailLines") or len(lines)))
        while True:
            for line in lines[sent:]:
                await response.write(line.encode() + b"\n")
            sent = len(lines)
            closing = request.transport is None or request.transport.is_closing()
            if query.get("follow") != "true" or self.store.get("Pod", key[0], key[1]) is None or closing:
                return response
            self.following.set()
            await self._wait(self.store.version, 0.1)  # new lines come without a version

    def _log_lines(self, pod: Object, query: dict[str, str]) -> tuple[list[str], tuple[str, str, str]]:
        name, names = pod["metadata"]["name"], [c["name"] for c in pod["spec"]["containers"]]
        container = query.get("container") or (names[0] if len(names) == 1 else "")
        if not container:
            raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]")
        if container not in names:
            raise bad_request(f"container {container} is not valid for pod {name}")
        key = (pod["metadata"]["namespace"], name, container)
        if query.get("previous") == "true":
            if key not in self.controllers.previous_logs:
                raise bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
            return self.controllers.previous_logs[key], key
        if not pod.get("status", {}).get("containerStatuses"):
            raise bad_request(f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating')
        return self.controllers.logs[key], key


@asynccontextmanager
async def k8s_api() -> AsyncIterator[K8sApi]:
    """A running server with its controllers; all of it ends with the block."""
    api = K8sApi()
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    controllers = asyncio.create_task(api.controllers.run())
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        api.url = f"http://{host}:{port}"
        yield api
    finally:
        controllers.cancel()
        await runner.cleanup()
        with suppress(asyncio.CancelledError):
            await controllers  # raises what broke them, so that a test does not just time out


def _target(path: str) -> _Target | None:
    match = _PATH.match(path)
    if match is None:
        return None
    resource = BY_PATH.get((match["group"] or "", match["version"], match["plural"]))
    sub = match["sub"] or ""
    if resource is None or (sub and sub not in resource.subresources):
        return None
    return _Target(resource, match["namespace"] or "", match["name"] or "", sub)


def _chosen(item: Object, query: dict[str, str]) -> bool:
    return matches_labels(item, query.get("labelSelector", "")) and matches_fields(item, query.get("fieldSelector", ""))


def _event(entry: Entry, target: _Target, query: dict[str, str]) -> Object | None:
    """The watch event of a change; an object that no longer matches is deleted, for the watcher."""
    if entry.resource != target.resource:
        return None
    if target.namespace and entry.object["metadata"].get("namespace") != target.namespace:
        return None
    matches, matched = _chosen(entry.object, query), entry.before is not None and _chosen(entry.before, query)
    if not matches and not (matched and entry.type == "MODIFIED"):
        return None
    kind = entry.type if matches and (matched or entry.type != "MODIFIED") else "ADDED" if matches else "DELETED"
    return {"type": kind, "object": entry.object}


async def _send(response: web.StreamResponse, event: Object) -> None:
    await response.write(json.dumps(event).encode() + b"\n")


def _strict(resource: Resource, query: dict[str, str], body: Object) -> None:
    unknown = unknown_fields(resource, body)
    if unknown and query.get("fieldValidation") == "Strict":
        listed = ", ".join(f'unknown field "{name}"' for name in unknown)
        raise bad_request(
            f"{resource.kind} in version {resource.version!r} cannot be handled: strict decoding error: {listed}"
        )


def _scale(item: Object) -> Object:
    labels = item["spec"].get("selector", {}).get("matchLabels", {})
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: item["metadata"][name] for name in names if name in item["metadata"]},
        "spec": {"replicas": item["spec"].get("replicas", 1)},
        "status": {
            "replicas": item.get("status", {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in labels.items()),
        },
    }
