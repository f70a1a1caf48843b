"""The only place that talks to the API server: plain JSON over HTTP, with timeouts, retries and mapped errors.

Rules (each for a trap of the library): a request timeout always, as it has none; the raw response always, with the
status checked here; content types as kubectl sends them. GET and LIST are repeated on 429, 5xx and lost connections;
a change only where it certainly was not carried out (429, 401, a connection that never came about).
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from pydantic import JsonValue

from consumer.adapters.k8s import bodies, errors, kinds
from consumer.adapters.k8s.connect import Connection, Connector
from consumer.errors import PermanentError, StepError, TemporaryError
from consumer.ports import JsonObject

if TYPE_CHECKING:  # aiohttp is imported lazily, with the library
    from aiohttp import ClientResponse

PatchType = Literal["strategic", "merge", "json", "apply"]
CONTENT_TYPES: dict[PatchType, str] = {
    "strategic": "application/strategic-merge-patch+json",
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
#: Recorded by the API server as the owner of the fields that we set.
FIELD_MANAGER = "wpk-agent"
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 60.0
_ATTEMPTS = 5
_MAX_PAUSE = 15.0
#: Objects of one answer to a list, as kubectl's `--chunk-size` and client-go's pager.
_PAGE = 500

Query = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API server."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    request: errors.Request
    query: tuple[tuple[str, str], ...] = ()
    body: JsonValue = None
    content_type: str = "application/json"
    read_seconds: float = _READ_SECONDS
    """How long the server may be silent."""


class _BrokenAnswer(TemporaryError):
    """The connection was lost while an answer was read."""


@dataclass(slots=True)
class _Link:
    """What all views of a cluster share."""

    connector: Connector
    connection: Connection | None = None
    retired: list[Connection] = field(default_factory=list)
    """Those of former certificates: what runs on them may go on to its end."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    kinds: dict[str, kinds.Kind] = field(default_factory=dict)
    """Those found by discovery, by the word they were asked for."""


class Cluster:
    """One cluster, connected on first use. Shared by all steps; safe for concurrent use in one event loop."""

    def __init__(self, connector: Connector) -> None:
        self._link = _Link(connector)
        self._user: str | None = None

    def acting_as(self, user: str) -> Cluster:
        """The same cluster and connection, with every request made as another user (Impersonate-User)."""
        view = copy.copy(self)
        view._user = user
        return view

    def as_itself(self) -> Cluster:
        """The same with the agent's own rights, for what is the agent's own."""
        view = copy.copy(self)
        view._user = None
        return view

    async def aclose(self) -> None:
        """Closes the connections."""
        link = self._link
        connections = [*link.retired, *([link.connection] if link.connection is not None else [])]
        link.connection, link.retired = None, []
        for connection in connections:
            await connection.api.close()

    async def connection(self) -> Connection:
        """The open connection. Raises PermanentError `no_cluster`."""
        async with self._link.lock:
            link = self._link
            if link.connection is None:
                link.connection = await link.connector.connect()
            elif link.connection.expired:
                await self._replaced(link.connection)
            return link.connection

    async def _renewed(self, former: Connection) -> Connection:
        """The connection with credentials read anew; by the first of those whom the former ones failed."""
        link = self._link
        async with link.lock:
            if link.connection is former:
                await self._replaced(former)
            return link.connection or former

    async def _replaced(self, former: Connection) -> None:
        link = self._link
        link.connection = await link.connector.connect(former)
        if link.connection.api is not former.api:
            link.retired.append(former)

    # --- objects ---------------------------------------------------------------------------------------------

    async def get(self, ref: kinds.Ref, subresource: str = "") -> JsonObject:
        """The object, or its subresource (`scale`). Raises StepError (`not_found`, …)."""
        return await self.json(Call("GET", _path(ref, subresource), _request("get", ref, subresource)))

    async def find(self, ref: kinds.Ref, subresource: str = "") -> JsonObject | None:
        """The object, or None where there is none."""
        try:
            return await self.get(ref, subresource)
        except PermanentError as error:
            if error.code == "not_found":
                return None
            raise

    async def listing(self, kind: kinds.Kind, namespace: str | None, query: Query | None = None) -> JsonObject:
        """The list object with its `items`; they carry `kind` and `apiVersion` as single objects do.

        It is read in pages of one state of the cluster. Where that state is forgotten on the way (410) the whole is
        read once more without pages, as client-go's pager does it.
        """
        try:
            return await self._paged(kind, namespace, {"limit": _PAGE, **(query or {})})
        except TemporaryError as error:
            if error.code != "expired":
                raise
            return await self._paged(kind, namespace, query or {})

    async def _paged(self, kind: kinds.Kind, namespace: str | None, query: Query) -> JsonObject:
        items: list[JsonValue] = []
        token = ""
        while True:
            more = {"continue": token} if token else {}
            pairs = _pairs({**query, **more})
            answer = await self.json(Call("GET", kind.collection(namespace), _list_request(kind, namespace), pairs))
            found = _objects(answer.get("items"))
            items.extend({"apiVersion": kind.api_version, "kind": kind.name, **item} for item in found)
            metadata = answer.get("metadata")
            token = str(metadata.get("continue") or "") if isinstance(metadata, dict) else ""
            if not token:
                return {**answer, "items": items}

    async def items(self, kind: kinds.Kind, namespace: str | None, query: Query | None = None) -> list[JsonObject]:
        """The objects of a list."""
        found = (await self.listing(kind, namespace, query))["items"]
        assert isinstance(found, list)
        return [item for item in found if isinstance(item, dict)]

    async def patch(
        self,
        ref: kinds.Ref,
        body: JsonValue,
        patch_type: PatchType = "strategic",
        *,
        subresource: str = "",
        dry_run: bool = False,
        force: bool | None = None,
    ) -> JsonObject:
        """Patches the object; gives it as it is then (with `dry_run`: as it would be). `force` is for "apply"."""
        forced = () if force is None else (("force", str(force).lower()),)
        call = Call(
            "PATCH",
            _path(ref, subresource),
            _request("patch", ref, subresource),
            (*_changing(dry_run), *forced),
            body,
            CONTENT_TYPES[patch_type],
        )
        return await self.json(call)

    async def create(self, ref: kinds.Ref, manifest: JsonObject, *, dry_run: bool = False) -> JsonObject:
        """Creates the object. Raises PermanentError `already_exists`."""
        path = ref.kind.collection(ref.namespace)
        return await self.json(Call("POST", path, _request("create", ref), _changing(dry_run), manifest))

    async def delete(self, ref: kinds.Ref, options: JsonObject, *, dry_run: bool = False) -> JsonObject:
        """Begins the object's deletion. Raises StepError (`not_found`; `conflict` where the uid is another)."""
        body: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        if dry_run:  # in the body: where there is one the API server does not look at the query, and would delete
            body["dryRun"] = ["All"]
        return await self.json(Call("DELETE", ref.path, _request("delete", ref), (), body))

    async def evict(self, ref: kinds.Ref, options: JsonObject, *, dry_run: bool = False) -> None:
        """Asks for a pod's eviction (policy/v1). Raises StepError (`not_found`; `disruption_budget` where one refuses).

        `conflict`: the pod's uid is not that of the options' preconditions.
        """
        body: JsonObject = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": ref.name, "namespace": ref.namespace},
            "deleteOptions": {"apiVersion": "v1", "kind": "DeleteOptions", **options},
        }
        query = (("dryRun", "All"),) if dry_run else ()
        try:
            await self.json(Call("POST", _path(ref, "eviction"), _request("create", ref, "eviction"), query, body))
        except TemporaryError as error:
            if "more than one PodDisruptionBudget" not in str(error):
                raise
            raise PermanentError(str(error), code="not_supported") from error  # a 500, though it stays so

    async def watch(
        self, kind: kinds.Kind, namespace: str | None, query: Query, seconds: int
    ) -> AsyncGenerator[JsonObject, None]:
        """The events of one watch, until the server ends it; at most about `seconds` long. Never repeated here."""
        pairs = _pairs({**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": seconds})
        request = replace(_list_request(kind, namespace), verb="watch")
        call = Call("GET", kind.collection(namespace), request, pairs, read_seconds=seconds + 30.0)
        async with self.open(call) as response:
            async for line in bodies.lines(response):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event

    async def kind(self, word: str) -> kinds.Kind:
        """The kind that a user calls `word`, built in or found by discovery. Raises PermanentError."""
        known = kinds.built_in(word) or self._link.kinds.get(word)
        if known is None:
            known = self._link.kinds[word] = await discover(self, word)
        return known

    # --- requests --------------------------------------------------------------------------------------------

    async def json(self, call: Call) -> JsonObject:
        """The answer's JSON object. Raises StepError for all that goes wrong."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self.open(call) as response:
                    body = bodies.parse(await bodies.read(response))
                break
            except _BrokenAnswer:
                if not call.request.reads or attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(_pause(attempt))
        if not isinstance(body, dict):
            raise TemporaryError(f"{call.request.subject}: the API server's answer is no object", code="server_error")
        return body

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[ClientResponse]:
        """The answer to `call` once its status says success. Raises StepError, also for a stream that breaks."""
        connection = await self.connection()
        import aiohttp  # noqa: PLC0415 - comes with the library, which is imported lazily

        response = await self._send(connection, call)
        try:
            yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = errors.unreachable(call.request, connection.host, error, sent=True)
            raise _BrokenAnswer(str(failure), code=failure.code) from error
        finally:
            response.close()  # cancels what was not read; a response that was read is back in the pool already

    async def _send(self, connection: Connection, call: Call) -> ClientResponse:
        """Sends until there is a success or an error that is final here."""
        import aiohttp  # noqa: PLC0415 - comes with the library, which is imported lazily

        renewed = False
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self._once(connection, call)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                sent = not isinstance(error, aiohttp.ClientConnectorError)
                failure: StepError = errors.unreachable(call.request, connection.host, error, sent=sent)
                if attempt >= _ATTEMPTS or (sent and not call.request.reads):
                    raise failure from error
                await asyncio.sleep(_pause(attempt))
                continue
            if response.status < 300:
                return response
            failure = await bodies.failure(response, call.request)
            if response.status == 401 and not renewed:
                renewed = True
                connection = await self._renewed(connection)
                continue
            throttled = response.status == 429 and failure.code != "disruption_budget"  # a budget needs its time
            may_repeat = throttled or (call.request.reads and response.status >= 500)
            if not may_repeat or attempt >= _ATTEMPTS:
                raise failure
            await asyncio.sleep(_pause(attempt, getattr(failure, "delay", None)))

    async def _once(self, connection: Connection, call: Call) -> ClientResponse:
        import aiohttp  # noqa: PLC0415 - comes with the library, which is imported lazily

        acting = {} if self._user is None else {"Impersonate-User": self._user}
        response: ClientResponse = await connection.api.call_api(
            call.path,
            call.method,
            query_params=list(call.query),
            header_params={"Accept": "application/json", "Content-Type": call.content_type, **acting},
            body=call.body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=aiohttp.ClientTimeout(
                connect=_CONNECT_SECONDS, sock_connect=_CONNECT_SECONDS, sock_read=call.read_seconds
            ),
        )
        return response


async def discover(cluster: Cluster, word: str) -> kinds.Kind:
    """Finds a kind by plural, singular, kind or short name, also with its group (`certificates.cert-manager.io`).

    A group whose server does not answer hides no other one, as with kubectl.
    """
    name, _, group_wanted = word.lower().partition(".")
    request = errors.Request("get", "api discovery", f'resource type "{word}"')
    versions = [("", "v1")]
    for group in _objects((await cluster.json(Call("GET", "/apis", request))).get("groups")):
        preferred = group.get("preferredVersion")
        if isinstance(preferred, dict):
            versions.append((str(group["name"]), str(preferred["version"])))
    silent: TemporaryError | None = None
    for group_name, version in versions:
        if group_wanted and group_name != group_wanted:
            continue
        path = f"/apis/{group_name}/{version}" if group_name else f"/api/{version}"
        try:
            resources = _objects((await cluster.json(Call("GET", path, request))).get("resources"))
        except TemporaryError as error:
            silent = error
            continue
        for resource in resources:
            if _is_called(resource, name):
                namespaced = bool(resource.get("namespaced"))
                return kinds.Kind(str(resource["kind"]), str(resource["name"]), group_name, version, namespaced)
    if silent is not None:
        raise silent
    raise PermanentError(f'the cluster serves no resource type "{word}"', code="unknown_kind")


def _is_called(resource: JsonObject, name: str) -> bool:
    short = resource.get("shortNames")
    words = {resource.get("name"), resource.get("singularName"), str(resource.get("kind")).lower()}
    words |= set(short) if isinstance(short, list) else set()
    return name in words and "/" not in str(resource.get("name"))


def _pause(attempt: int, at_least: float | None = None) -> float:
    """Full jitter up to 0.2 s, 0.4 s, 0.8 s, …; at least what the server asks for, within reason."""
    return min(max(random.uniform(0.05, 0.2 * 2 ** (attempt - 1)), at_least or 0.0), _MAX_PAUSE)  # noqa: S311 - a pause


def _path(ref: kinds.Ref, subresource: str) -> str:
    return f"{ref.path}/{subresource}" if subresource else ref.path


def _request(verb: str, ref: kinds.Ref, subresource: str = "") -> errors.Request:
    resource = f"{ref.kind.plural}/{subresource}" if subresource else ref.kind.plural
    where = f" in namespace {ref.namespace}" if ref.namespace else ""
    return errors.Request(verb, resource + where, str(ref), ref.kind == kinds.SECRET)


def _list_request(kind: kinds.Kind, namespace: str | None) -> errors.Request:
    where = f" in namespace {namespace}" if namespace else ""
    return errors.Request("list", kind.plural + where, kind.plural + where, kind == kinds.SECRET)


def _pairs(query: Query | None) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in (query or {}).items())


def _changing(dry_run: bool) -> tuple[tuple[str, str], ...]:
    """A field that the kind does not have is an error, as with `kubectl create`: it would be dropped silently."""
    strict = (("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict"))
    return (*strict, ("dryRun", "All")) if dry_run else strict


def _objects(value: JsonValue) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
