"""The kinds that the tests' API server serves, and its answers that are no success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = Any
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind that the server serves."""

    kind: str
    plural: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As messages name it: `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


_SCALE = ("scale", "status")
RESOURCES = (
    Resource("Namespace", "namespaces", namespaced=False, short=("ns",)),
    Resource("Node", "nodes", namespaced=False, short=("no",)),
    Resource("Pod", "pods", short=("po",), subresources=("log", "status")),
    Resource("Secret", "secrets"),
    Resource("ConfigMap", "configmaps", short=("cm",)),
    Resource("Service", "services", short=("svc",)),
    Resource("Event", "events", short=("ev",)),
    Resource("Deployment", "deployments", "apps", short=("deploy",), subresources=_SCALE),
    Resource("StatefulSet", "statefulsets", "apps", short=("sts",), subresources=_SCALE),
    Resource("DaemonSet", "daemonsets", "apps", short=("ds",), subresources=("status",)),
    Resource("ReplicaSet", "replicasets", "apps", short=("rs",), subresources=_SCALE),
    Resource("ControllerRevision", "controllerrevisions", "apps"),
    Resource("Job", "jobs", "batch", subresources=("status",)),
    Resource("Widget", "widgets", "example.com", short=("wd",)),
)
BY_PATH = {(r.group, r.version, r.plural): r for r in RESOURCES}
BY_KIND = {r.kind: r for r in RESOURCES}


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about."""

    resource: Resource
    namespace: str
    name: str
    sub: str


class ApiError(Exception):
    """An answer that is no success: a Status object."""

    def __init__(self, code: int, reason: str, message: str, **details: Json) -> None:
        super().__init__(message)
        self.code = code
        self.status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": code,
        }


def not_found(resource: Resource, name: str) -> ApiError:
    details = {"name": name, "kind": resource.plural, "group": resource.group}
    return ApiError(404, "NotFound", f'{resource.qualified} "{name}" not found', **details)


def invalid(resource: Resource, name: str, where: str, why: str) -> ApiError:
    causes = [{"reason": "FieldValueInvalid", "message": why, "field": where}]
    message = f'{resource.kind}.{resource.group} "{name}" is invalid: {where}: {why}'
    return ApiError(422, "Invalid", message, name=name, kind=resource.kind, group=resource.group, causes=causes)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)
