"""What the tests' API server streams: watches and logs."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress

from aiohttp import web

from tests.support.k8s_controllers import Controllers
from tests.support.k8s_kinds import ApiError, Object, Target, bad_request
from tests.support.k8s_rules import matches_fields, matches_labels
from tests.support.k8s_store import Entry, Store


async def watch(request: web.Request, store: Store, target: Target, query: dict[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    initial = query.get("sendInitialEvents") == "true"
    version = store.version if initial else int(query.get("resourceVersion") or store.version)
    if version < store.compacted:
        message = f"too old resource version: {version} ({store.compacted})"
        await _send(response, {"type": "ERROR", "object": ApiError(410, "Expired", message).status})
        return response
    for item in store.all(target.resource.kind, target.namespace) if initial else []:
        if chosen(item, query):
            await _send(response, {"type": "ADDED", "object": item})
    if initial:
        await _send(response, {"type": "BOOKMARK", "object": _bookmark(store, target, end=True)})
    end = time.monotonic() + float(query.get("timeoutSeconds") or 300)
    era = store.era
    while (
        time.monotonic() < end
        and store.era == era
        and request.transport is not None
        and not request.transport.is_closing()
    ):
        for entry in store.since(version):
            version = entry.version
            event = _event(entry, target, query)
            if event is not None:
                await _send(response, event)
        await _wait(store, version, min(1.0, end - time.monotonic()))
    return response


async def _wait(store: Store, version: int, seconds: float) -> None:
    """Until something has changed since the version, or the time is over."""
    era = store.era
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)), store.changed:
            await store.changed.wait_for(lambda: store.version > version or store.era != era)


def _bookmark(store: Store, target: Target, *, end: bool) -> Object:
    annotations = {"k8s.io/initial-events-end": "true"} if end else {}
    metadata = {"resourceVersion": str(store.version), "annotations": annotations}
    return {"kind": target.resource.kind, "apiVersion": target.resource.api_version, "metadata": metadata}


async def log(
    request: web.Request,
    store: Store,
    controllers: Controllers,
    pod: Object,
    query: dict[str, str],
    following: asyncio.Event,
) -> web.StreamResponse:
    lines, key = _log_lines(controllers, pod, query)
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    sent = max(0, len(lines) - int(query.get("tailLines") or len(lines)))
    while True:
        for number, line in enumerate(lines[sent:], sent):
            stamp = f"2026-01-01T00:00:00.{number:09d}Z " if query.get("timestamps") == "true" else ""
            await response.write(f"{stamp}{line}\n".encode())
        sent = len(lines)
        closing = request.transport is None or request.transport.is_closing()
        if query.get("follow") != "true" or closing or _is_over(store.get("Pod", key[0], key[1])):
            return response
        following.set()
        await _wait(store, store.version, 0.1)  # new lines come without a version


def _is_over(pod: Object | None) -> bool:
    """Whether nothing more will be written."""
    return pod is None or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _log_lines(controllers: Controllers, pod: Object, query: dict[str, str]) -> tuple[list[str], tuple[str, str, str]]:
    name, names = pod["metadata"]["name"], [c["name"] for c in pod["spec"]["containers"]]
    container = query.get("container") or (names[0] if len(names) == 1 else "")
    if not container:
        raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]")
    if container not in names:
        raise bad_request(f"container {container} is not valid for pod {name}")
    key = (pod["metadata"]["namespace"], name, container)
    if query.get("previous") == "true":
        if key not in controllers.previous_logs:
            raise bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
        return controllers.previous_logs[key], key
    if not pod.get("status", {}).get("containerStatuses"):
        raise bad_request(f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating')
    return controllers.logs[key], key


def _event(entry: Entry, target: Target, query: dict[str, str]) -> Object | None:
    """The watch event of a change; an object that no longer matches is deleted, for the watcher."""
    if entry.resource != target.resource:
        return None
    if target.namespace and entry.object["metadata"].get("namespace") != target.namespace:
        return None
    matches, matched = chosen(entry.object, query), entry.before is not None and chosen(entry.before, query)
    if not matches and not (matched and entry.type == "MODIFIED"):
        return None
    kind = entry.type if matches and (matched or entry.type != "MODIFIED") else "ADDED" if matches else "DELETED"
    return {"type": kind, "object": entry.object}


async def _send(response: web.StreamResponse, event: Object) -> None:
    await response.write(json.dumps(event).encode() + b"\n")


def chosen(item: Object, query: dict[str, str]) -> bool:
    return matches_labels(item, query.get("labelSelector", "")) and matches_fields(item, query.get("fieldSelector", ""))
