"""Nodes that are always well: registered, with a status that says so, and a lease that is renewed."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.support.kubelet.api import STRATEGIC, Api, ApiError, Object, Trouble
from tests.support.kubelet.container import now

#: Seconds: a node whose lease is older than the controller manager's --node-monitor-grace-period counts as lost.
_RENEWAL = 5.0
_RETRY = 0.2
_HOST = "127.0.0.1"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_CAPACITY = {"cpu": "8", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """One node; `port` is where its kubelet serves logs."""

    api: Api
    name: str
    port: int

    async def run(self) -> None:
        """Registers the node, again where somebody deleted it, and reports for ever."""
        while True:
            try:
                await self._report()
            except Trouble as error:
                _log.info("node %s was not reported: %r", self.name, error)
                await asyncio.sleep(_RETRY)
            else:
                await asyncio.sleep(_RENEWAL)

    async def _report(self) -> None:
        await self._there_is("/api/v1/nodes", self._object())
        await self.api.call("PATCH", f"/api/v1/nodes/{self.name}/status", {"status": self._status()}, kind=STRATEGIC)
        spec = {
            "holderIdentity": self.name,
            "leaseDurationSeconds": 40,
            "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        await self._there_is(_LEASES, {"metadata": {"name": self.name}, "spec": spec})
        await self.api.call("PATCH", f"{_LEASES}/{self.name}", {"spec": spec}, kind=STRATEGIC)

    async def _there_is(self, path: str, item: Object) -> None:
        try:
            await self.api.call("GET", f"{path}/{self.name}")
        except ApiError as error:
            if error.status != 404:
                raise
            await self.api.call("POST", path, item)

    def _object(self) -> Object:
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": labels}}

    def _status(self) -> Object:
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "the kubelet is well",
        }
        # No Hostname: the API server would take that first, and ask the network's name servers for it.
        addresses = [{"type": "InternalIP", "address": _HOST}]
        return {
            "capacity": _CAPACITY,
            "allocatable": _CAPACITY,
            "conditions": [{**ready, "lastHeartbeatTime": now()}],
            "addresses": addresses,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
        }
