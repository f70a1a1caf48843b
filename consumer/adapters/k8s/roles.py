"""The ClusterRoles of deploy/kubernetes, made from the table of rights: least rights by what packages are to do.

`python -m consumer.adapters.k8s.roles > deploy/kubernetes/roles.yaml`
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from consumer.adapters.k8s import kinds, rights
from consumer.adapters.k8s.rights import Right, Target
from consumer.adapters.k8s.sealing import KEY_NAME

_ROLLING = (kinds.DEPLOYMENT, kinds.STATEFULSET, kinds.DAEMONSET)
_WORKLOADS = (*_ROLLING, kinds.JOB)
_NODES = ("cordon", "uncordon", "drain")
_CONFIGMAP = kinds.Kind("ConfigMap", "configmaps")
_SERVICE = kinds.Kind("Service", "services")
_PLAIN = (*_WORKLOADS, kinds.CRON_JOB, _CONFIGMAP, _SERVICE)
#: An action and the kinds it may be used on; None: the config names none.
Steps = tuple[str, tuple[kinds.Kind | None, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A ClusterRole: what it is for, and what steps it lets the agent take."""

    name: str
    purpose: str
    steps: tuple[Steps, ...]
    everywhere: bool = False
    """Whether it is of use only when bound for the whole cluster."""


ROLES = (
    Role(
        name="wpk-agent-observe",
        purpose="logs, events, get, wait and metrics on workloads: nothing is changed.",
        steps=(
            ("logs", (None, kinds.POD, *_WORKLOADS)),
            ("events", (None, kinds.POD, *_WORKLOADS)),
            ("get", (kinds.POD, kinds.REPLICASET, *_PLAIN)),
            ("wait", (kinds.POD, *_WORKLOADS)),
            ("metrics", (kinds.POD, *_WORKLOADS)),
        ),
    ),
    Role(
        name="wpk-agent-operate",
        purpose="restart, scale and rollback of workloads. RBAC knows no restart: it is a patch, as every change is.",
        steps=(
            ("restart", (kinds.POD, *_ROLLING)),
            ("scale", (kinds.DEPLOYMENT, kinds.STATEFULSET)),
            ("rollback", _ROLLING),
        ),
    ),
    Role(
        name="wpk-agent-change",
        purpose=(
            "create, apply, delete, patch, annotate and label of workloads, configmaps and services, and jobs. Who may "
            "make pods may use every service account and secret of their namespace."
        ),
        steps=(
            *((action, _PLAIN) for action in ("create", "apply", "delete")),
            *((action, (kinds.POD, *_PLAIN)) for action in ("patch", "annotate", "label")),
            ("job", (kinds.JOB,)),
        ),
    ),
    Role(
        name="wpk-agent-secrets",
        purpose="get, create, apply, patch and delete of secrets.",
        steps=tuple((action, (kinds.SECRET,)) for action in ("get", "create", "apply", "patch", "delete")),
    ),
    Role(
        name="wpk-agent-nodes",
        purpose="cordon, uncordon and drain. Pods of all namespaces are seen and evicted.",
        steps=tuple(
            (action, (kinds.NODE,)) for action in ("cordon", "uncordon", "drain", "get", "wait", "events", "metrics")
        ),
        everywhere=True,
    ),
)


#: What sealing needs (see `sealing`): a name can't be held to when something is created.
_UNDO_KEY: dict[str, Any] = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {
        "name": "wpk-agent-undo-key",
        "annotations": {"wpk-agent/purpose": "the key that seals the old values of secrets, for their undo."},
    },
    "rules": [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [KEY_NAME], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    ],
}


def rights_of(role: Role) -> set[Right]:
    """All that the role's steps need, with what they may do without, and what undoes them."""
    return {right for action, some in role.steps for kind in some for right in _of(action, kind)}


def _of(action: str, kind: kinds.Kind | None) -> Iterator[Right]:
    for selected in (False, True):
        for template in (False, True):
            target = Target(
                action=action, kind=kind, name="" if selected else "x", selected=selected, template=template
            )
            for right in (*rights.needed(target), *rights.needed_to_undo(target)):
                yield Right(right.verb, right.resource, right.group)


def rules(role: Role) -> list[dict[str, list[str]]]:
    """Its rules: resources of one group with the same verbs are one."""
    verbs: dict[tuple[str, str], set[str]] = defaultdict(set)
    for right in rights_of(role):
        verbs[right.group, right.resource].add(right.verb)
    together: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (group, resource), some in sorted(verbs.items()):
        together[group, tuple(sorted(some))].append(resource)
    return [
        {"apiGroups": [group], "resources": resources, "verbs": list(some)}
        for (group, some), resources in sorted(together.items())
    ]


def manifest(roles: Sequence[Role] = ROLES) -> str:
    """The file deploy/kubernetes/roles.yaml."""
    parts = [
        "# Made by: python -m consumer.adapters.k8s.roles > deploy/kubernetes/roles.yaml\n"
        "# What the agent needs for the k8s steps of packages. Bind those that your packages need, and no more:\n"
        "# by a RoleBinding in each namespace that steps may work in (see bindings.yaml and docs/kubernetes.md).\n"
    ]
    documents: list[tuple[str, dict[str, Any]]] = []
    for role in roles:
        bound = "ClusterRoleBinding" if role.everywhere else "RoleBinding"
        document = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": role.name, "annotations": {"wpk-agent/purpose": role.purpose}},
            "rules": rules(role),
        }
        documents.append((bound, document))
    documents.append(("RoleBinding in the agent's own namespace", _UNDO_KEY))
    for bound, document in documents:
        body = yaml.safe_dump(document, sort_keys=False, width=110, default_flow_style=None)
        parts.append(f"# Bind it by a {bound}.\n{body}")
    return "---\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(manifest())
