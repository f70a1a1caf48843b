"""A metrics API for a real API server: what metrics-server serves, with usages that a test sets."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trustme

from tests.support import http_server
from tests.support.control_plane import KubectlFailed, Space

ROOT = "/apis/metrics.k8s.io/v1beta1"
_GROUP = "v1beta1.metrics.k8s.io"


@dataclass
class MetricsApi:
    """The usages: of nodes by name, of the namespace's pods by name and container, as (cpu, memory)."""

    namespace: str
    nodes: dict[str, tuple[str, str]] = field(default_factory=dict)
    pods: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    """The label app of each pod."""

    async def answer(self, exchange: http_server.Exchange) -> None:
        """Answers every request to the API."""
        path = exchange.request.path.removeprefix(ROOT).strip("/").split("/")
        value = self._value(path, exchange.request.query.get("labelSelector", [""])[0])
        if value is None:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            await exchange.reply_json(status, 404)
        else:
            await exchange.reply_json(value)

    def _value(self, path: list[str], selector: str) -> object:
        match path:
            case [""]:
                return _RESOURCES
            case ["nodes"]:
                return _list("NodeMetricsList", [self._node(name) for name in self.nodes])
            case ["nodes", name]:
                return self._node(name) if name in self.nodes else None
            case ["namespaces", self.namespace, "pods"]:
                chosen = [name for name in self.pods if selector in ("", f"app={self.labels.get(name)}")]
                return _list("PodMetricsList", [self._pod(name) for name in chosen])
            case ["namespaces", self.namespace, "pods", name]:
                return self._pod(name) if name in self.pods else None
            case _:
                return None

    def _node(self, name: str) -> dict[str, Any]:
        return {**_head("NodeMetrics", {"name": name}), "usage": _usage(self.nodes[name])}

    def _pod(self, name: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": self.namespace, "labels": {"app": self.labels.get(name, "")}}
        containers = [{"name": each, "usage": _usage(usage)} for each, usage in self.pods[name].items()]
        return {**_head("PodMetrics", metadata), "containers": containers}


_RESOURCES = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": "metrics.k8s.io/v1beta1",
    "resources": [
        {"name": "nodes", "singularName": "", "namespaced": False, "kind": "NodeMetrics", "verbs": ["get", "list"]},
        {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["get", "list"]},
    ],
}


def _head(kind: str, metadata: dict[str, Any]) -> dict[str, Any]:
    time = {"timestamp": "2026-01-01T00:00:00Z", "window": "15s"}
    return {"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata, **time}


def _list(kind: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items}


def _usage(usage: tuple[str, str]) -> dict[str, str]:
    return dict(zip(("cpu", "memory"), usage, strict=True))


@asynccontextmanager
async def metrics_api(space: Space) -> AsyncIterator[MetricsApi]:
    """Has the API server hand on metrics.k8s.io to here, while the block lasts."""
    api = MetricsApi(space.name)
    async with http_server.serve(_tls()) as server:
        server.fallback = api.answer
        external = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": server.port}]}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "metrics"}, "spec": external}
        spec = {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "service": {"name": "metrics", "namespace": space.name, "port": server.port},
            "insecureSkipTLSVerify": True,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        }
        registration = {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": _GROUP},
            "spec": spec,
        }
        await space.apply(service)
        try:
            await space.kubectl("apply", "-f", "-", stdin=json.dumps(registration))
            await space.kubectl("wait", f"apiservice/{_GROUP}", "--for=condition=Available", "--timeout=60s")
            yield api
        finally:
            with contextlib.suppress(KubectlFailed):
                await space.kubectl("delete", "apiservice", _GROUP, "--ignore-not-found")


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context
