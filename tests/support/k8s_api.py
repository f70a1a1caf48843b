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
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trustme
import yaml
from aiohttp import web

from tests.support import k8s_patch
from tests.support import k8s_streams as streams
from tests.support.k8s_controllers import Controllers
from tests.support.k8s_discovery import discovery
from tests.support.k8s_kinds import (
    BY_KIND,
    BY_PATH,
    ApiError,
    Json,
    Object,
    Resource,
    Target,
    bad_request,
    not_found,
)
from tests.support.k8s_rules import unknown_fields
from tests.support.k8s_store import Store, now
from tests.support.k8s_streams import chosen

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
    query: str = ""
    """A parameter that the request must have."""

    def hits(self, request: web.Request) -> bool:
        fits = self.method == request.method and re.search(self.path, request.path) is not None
        return fits and self.times > 0 and (not self.query or self.query in request.query)


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
        self.authority: bytes | None = None
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

    async def end_watches(self) -> None:
        """Ends all watches, as a real server does from time to time."""
        self.store.era += 1
        async with self.store.changed:
            self.store.changed.notify_all()

    def kubeconfig(self, path: Path, namespace: str = "payments", token: str | None = None) -> Path:
        """Writes a kubeconfig for this server."""
        where = {"server": self.url}
        if self.authority is not None:
            where["certificate-authority-data"] = base64.b64encode(self.authority).decode()
        cluster = {"name": "tests", "cluster": where}
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
            if fault.hits(request):
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
            return web.json_response(self._delete(target, body or {}, bool(body.get("dryRun")) if body else dry_run))
        if request.method == "PATCH":
            return web.json_response(self._patch(target, query, request.content_type, body, dry_run))
        return web.json_response(self._put(target, body, dry_run))

    def _allow(self, verb: str, target: Target) -> None:
        resource = f"{target.resource.plural}/{target.sub}" if target.sub else target.resource.plural
        if (verb, resource) in self.forbidden:
            where = f' in the namespace "{target.namespace}"' if target.namespace else ""
            raise ApiError(
                403,
                "Forbidden",
                f'{target.resource.qualified} "{target.name}" is forbidden: User "{USER}" cannot {verb} resource '
                f'"{resource}" in API group "{target.resource.group}"{where}',
            )

    def _find(self, target: Target) -> Object:
        item = self.store.get(target.resource.kind, target.namespace, target.name)
        if item is None:
            raise not_found(target.resource, target.name)
        return item

    async def _read(self, request: web.Request, target: Target, query: dict[str, str]) -> web.StreamResponse:
        watching = query.get("watch") in ("true", "True", "1")
        self._allow("get" if target.name else "watch" if watching else "list", target)
        if target.sub == "log":
            return await streams.log(request, self.store, self.controllers, self._find(target), query, self.following)
        if target.sub == "scale":
            return web.json_response(_scale(self._find(target)))
        if target.name:
            return web.json_response(self._find(target))
        if watching:
            return await streams.watch(request, self.store, target, query)
        return web.json_response(self._list(target, query))

    def _list(self, target: Target, query: dict[str, str]) -> Object:
        found = [item for item in self.store.all(target.resource.kind, target.namespace) if chosen(item, query)]
        start = int(base64.b64decode(query["continue"])) if query.get("continue") else 0
        limit = int(query.get("limit") or 0) or len(found)
        metadata: Object = {"resourceVersion": str(self.store.version)}
        if start + limit < len(found):
            metadata["continue"] = base64.b64encode(str(start + limit).encode()).decode()
        # As the real one: the items of a list carry neither kind nor apiVersion.
        items = [{k: v for k, v in o.items() if k not in ("kind", "apiVersion")} for o in found[start : start + limit]]
        kind, version = f"{target.resource.kind}List", target.resource.api_version
        return {"kind": kind, "apiVersion": version, "metadata": metadata, "items": items}

    def _create(self, target: Target, query: dict[str, str], body: Object, dry_run: bool) -> Object:
        _strict(target.resource, query, body)
        if target.resource.namespaced and self.store.get("Namespace", "", target.namespace) is None:
            raise not_found(BY_KIND["Namespace"], target.namespace)
        return self.store.create(target.resource, target.namespace, body, dry_run=dry_run)

    def _delete(self, target: Target, options: Object, dry_run: bool) -> Object:
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

    def _patch(self, target: Target, query: dict[str, str], content_type: str, body: Json, dry_run: bool) -> Object:
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

    def _put(self, target: Target, body: Object, dry_run: bool) -> Object:
        item = self._find(target)
        if target.sub == "scale":
            version = body["metadata"].get("resourceVersion")
            if version and version != item["metadata"]["resourceVersion"]:
                raise ApiError(409, "Conflict", "the object has been modified")
            return self._scaled(target, item, body["spec"]["replicas"], dry_run)
        return self.store.update(target.resource, item, copy.deepcopy(body), dry_run=dry_run)

    def _scaled(self, target: Target, item: Object, replicas: int, dry_run: bool) -> Object:
        changed = copy.deepcopy(item)
        changed["spec"]["replicas"] = replicas
        return _scale(self.store.update(target.resource, item, changed, dry_run=dry_run))


@asynccontextmanager
async def k8s_api(*, tls: bool = False) -> AsyncIterator[K8sApi]:
    """A running server with its controllers; all of it ends with the block. With `tls` by its own authority."""
    api = K8sApi()
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    controllers = asyncio.create_task(api.controllers.run())
    try:
        context = None
        if tls:
            authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            api.authority = authority.cert_pem.bytes()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        host, port = runner.addresses[0][:2]
        api.url = f"{'https' if tls else 'http'}://{host}:{port}"
        yield api
    finally:
        controllers.cancel()
        await runner.cleanup()
        with suppress(asyncio.CancelledError):
            await controllers  # raises what broke them, so that a test does not just time out


def _target(path: str) -> Target | None:
    match = _PATH.match(path)
    if match is None:
        return None
    resource = BY_PATH.get((match["group"] or "", match["version"], match["plural"]))
    sub = match["sub"] or ""
    if resource is None or (sub and sub not in resource.subresources):
        return None
    return Target(resource, match["namespace"] or "", match["name"] or "", sub)


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
