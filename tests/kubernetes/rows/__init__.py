"""What the oracle's rows are made of: small objects, with `NAME` for the row's own name."""

from __future__ import annotations

import copy
from typing import Any

from tests.support.control_plane.manifests import Object, workload
from tests.support.oracle import NAME

ROLLING = ("deployment", "statefulset", "daemonset")
KINDS = {"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}
ANNOTATIONS, LABELS = {"team": "core"}, {"tier": "gold"}


def empty(kind: str, **spec: Any) -> Object:
    """A workload without pods: what is asked of it is seen in its spec."""
    made = workload(KINDS[kind], NAME, replicas=0)
    made["spec"] |= spec
    if kind == "daemonset":
        made["spec"]["template"]["spec"]["nodeSelector"] = {"there-is": "none"}
    return made


def config_map(**data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data or {"color": "blue"}}


def marked(item: Object) -> Object:
    """The object with a label and an annotation."""
    made = copy.deepcopy(item)
    made["metadata"] |= {"annotations": ANNOTATIONS, "labels": LABELS}
    return made


def picked(item: Object) -> tuple[Object, Object]:
    """Two of the object, which the selector `pick=NAME` finds."""
    twins = (copy.deepcopy(item), copy.deepcopy(item))
    for twin, name in zip(twins, (NAME, f"{NAME}-2"), strict=True):
        twin["metadata"] |= {"name": name, "labels": {"pick": NAME}}
    return twins


def replica_set(replicas: int = 0) -> Object:
    made = workload("Deployment", NAME, replicas=replicas)
    return made | {"kind": "ReplicaSet"}


GROUP = "oracle.wpk-agent.test"
WIDGET: Object = {"apiVersion": f"{GROUP}/v1", "kind": "Widget", "metadata": {"name": NAME}, "spec": {"replicas": 1}}
_SCHEMA = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
WIDGETS: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"widgets.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets", "singular": "widget", "shortNames": ["wdg"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": _SCHEMA, "status": _SCHEMA}}},
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
                },
            }
        ],
    },
}
#: Waits until a controller has seen the newest change of an object, so that its revision is in the history.
SEEN = "wait {kind}/NAME --for=jsonpath={{.status.observedGeneration}}={generation} --timeout=60s"


def history(kind: str, images: int = 2) -> tuple[str, ...]:
    """The commands that give an object of `app:1` so many further revisions, `app:2` and so on."""
    done = [SEEN.format(kind=kind, generation=1)]
    for number in range(2, images + 2):
        done += [f"set image {kind}/NAME main=app:{number}", SEEN.format(kind=kind, generation=number)]
    return tuple(done)
