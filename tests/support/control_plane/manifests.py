"""Manifests of workloads for the tests' Kubernetes. `wishes` are annotations of tests.support.kubelet.behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.kubelet.behaviour import PREFIX

Object = dict[str, Any]
Wishes = Mapping[str, str | float | bool]


def template(app: str, image: str, wishes: Wishes | None = None, **spec: object) -> Object:
    """A pod's template with one container `main`; `spec` replaces or adds fields of the pod's spec."""
    texts = {PREFIX + name: _text(value) for name, value in (wishes or {}).items()}
    containers = [{"name": "main", "image": image}]
    return {"metadata": {"labels": {"app": app}, "annotations": texts}, "spec": {"containers": containers, **spec}}


def pod(name: str, image: str = "app:1", wishes: Wishes | None = None, **spec: object) -> Object:
    """A pod of its own, with the label app=NAME."""
    made = template(name, image, wishes, **spec)
    return {"apiVersion": "v1", "kind": "Pod", **made, "metadata": {**made["metadata"], "name": name}}


def workload(
    kind: str, name: str, *, image: str = "app:1", replicas: int = 2, wishes: Wishes | None = None, **spec: object
) -> Object:
    """A Deployment, StatefulSet or DaemonSet of pods with the label app=NAME; `spec` adds fields of its own spec."""
    own: Object = {} if kind == "DaemonSet" else {"replicas": replicas}
    if kind == "StatefulSet":
        own["serviceName"] = name
    own |= {"selector": {"matchLabels": {"app": name}}, "template": template(name, image, wishes), **spec}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": own}


def job(name: str, *, image: str = "app:1", wishes: Wishes | None = None, **spec: object) -> Object:
    """A job whose pods are not restarted in place."""
    own = {"template": template(name, image, wishes, restartPolicy="Never"), **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": own}


def _text(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
