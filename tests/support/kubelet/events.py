"""The events that a kubelet tells of its pods; the same one again raises its count."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass

from tests.support.kubelet.api import STRATEGIC, Api, Object, Trouble
from tests.support.kubelet.container import now

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Event:
    uid: str
    kind: str
    reason: str
    message: str
    container: str


class Events:
    """Takes events at once and tells the server of them in `run`. One that can't be told is dropped, as by kubelets."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._queue: asyncio.Queue[tuple[_Event, Object]] = asyncio.Queue()
        self._told: dict[_Event, tuple[str, int]] = {}

    def record(self, pod: Object, kind: str, reason: str, message: str, container: str = "") -> None:
        """`kind` is Normal or Warning."""
        self._queue.put_nowait((_Event(pod["metadata"]["uid"], kind, reason, message, container), pod))

    async def run(self) -> None:
        while True:
            event, pod = await self._queue.get()
            try:
                await self._tell(event, pod)
            except Trouble as error:
                _log.info("event %s was not told: %r", event.reason, error)

    async def _tell(self, event: _Event, pod: Object) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/events"
        name, count = self._told.get(event, (f"{metadata['name']}.{secrets.token_hex(8)}", 0))
        if count:
            await self._api.call(
                "PATCH", f"{path}/{name}", {"count": count + 1, "lastTimestamp": now()}, kind=STRATEGIC
            )
        else:
            await self._api.call("POST", path, _body(event, pod, name))
        self._told[event] = (name, count + 1)


def _body(event: _Event, pod: Object, name: str) -> Object:
    metadata = pod["metadata"]
    involved = {
        "kind": "Pod",
        "apiVersion": "v1",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "fieldPath": f"spec.containers{{{event.container}}}" if event.container else "",
    }
    return {
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "involvedObject": involved,
        "type": event.kind,
        "reason": event.reason,
        "message": event.message,
        "count": 1,
        "firstTimestamp": now(),
        "lastTimestamp": now(),
        "source": {"component": "kubelet", "host": pod["spec"].get("nodeName", "")},
    }
