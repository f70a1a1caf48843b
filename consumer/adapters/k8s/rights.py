"""Which rights each action needs in the cluster, in the words of RBAC: verb, API group, resource, namespace. Pure.

The table says what the actions really send: deploy/kubernetes is compared with it, and the tests run the actions on a
real API server with just these rights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from consumer.adapters.k8s import kinds

#: What the metrics API calls pods and nodes.
POD_METRICS = kinds.Kind("PodMetrics", "pods", "metrics.k8s.io", "v1beta1")
NODE_METRICS = kinds.Kind("NodeMetrics", "nodes", "metrics.k8s.io", "v1beta1", namespaced=False)
_READS = frozenset({"get", "list", "watch"})


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """Leave to do one thing."""

    verb: str
    resource: str
    """The plural, with the subresource: `deployments/scale`."""
    group: str = ""
    """Of the API; empty for the core group."""
    namespace: str | None = None
    """None: in all namespaces, or for a kind that lives in none."""
    name: str = ""
    """Of the one object; empty: of all."""
    optional: bool = False
    """Whether the action also works without, if less well."""

    @property
    def subresource(self) -> str:
        return self.resource.partition("/")[2]

    @property
    def declared(self) -> str:
        """As a package's `required_permissions` name it: `deployments/patch`, `pods/log`."""
        return self.resource if self.subresource else f"{self.resource}/{self.verb}"

    def __str__(self) -> str:
        plural, _, subresource = self.resource.partition("/")
        what = f"{plural}.{self.group}" if self.group else plural
        what += f"/{subresource}" if subresource else ""
        return f"{self.verb} {what}" + (f" in namespace {self.namespace}" if self.namespace else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What of a step's config tells which rights it needs."""

    action: str
    kind: kinds.Kind | None
    """None: the config names none, and the action looks for one (logs, events)."""
    namespace: str | None = None
    name: str = ""
    """Empty: not known, or none."""
    selected: bool = False
    """Whether a selector finds the objects."""
    template: bool = False
    """A job that is made from a CronJob."""


def needed(target: Target) -> list[Right]:
    """The rights that the step needs to be planned and run, without those that it may do without."""
    return list(dict.fromkeys(_ACTIONS[target.action](target)))


def needed_to_undo(target: Target) -> list[Right]:
    """The rights that undo needs beyond those of the action itself."""
    own = set(needed(target))
    return [right for right in dict.fromkeys(_undo(target)) if right not in own]


def undeclared(rights: Iterable[Right], declared: Iterable[str]) -> list[str]:
    """What `required_permissions` lack of the rights, in their own form.

    They are written `RESOURCE/VERB` or `RESOURCE/SUBRESOURCE`, also `RESOURCE.GROUP/…` and `*`. To read a resource is
    taken to be implied by anything that is declared of it, as packages write `pods/log` or `deployments/patch` alone.
    """
    entries = [entry.lower().split("/") for entry in declared]
    missing = (right.declared for right in rights if not any(_covers(entry, right) for entry in entries))
    return list(dict.fromkeys(missing))


def _covers(entry: list[str], right: Right) -> bool:
    plural = right.resource.partition("/")[0]
    resource, *rest = entry
    if resource not in ("*", plural, f"{plural}.{right.group}"):
        return False
    if not rest or rest == ["*"] or (right.verb in _READS and not right.subresource):
        return True
    if right.subresource:
        return rest[0] == right.subresource and rest[1:] in ([], ["*"], [right.verb])
    return rest == [right.verb]


# --- the table ----------------------------------------------------------------------------------------------------


def _on(
    target: Target, verbs: str, kind: kinds.Kind | None = None, subresource: str = "", *, named: bool = False
) -> list[Right]:
    """Rights on the target's kind, or on another kind beside it. `named`: on the target's own object, where one is."""
    kind = kind or target.kind
    if kind is None:
        return []
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    namespace = target.namespace if kind.namespaced else None
    name = target.name if named else ""
    return [Right(verb, resource, kind.group, namespace, name) for verb in verbs.split()]


def _find(target: Target) -> list[Right]:
    """The object by its name, or the objects by a selector."""
    return _on(target, "list") if target.selected else _on(target, "get", named=True)


def _watch(target: Target, kind: kinds.Kind | None = None, *, named: bool = False) -> list[Right]:
    """Without the right to watch the adapter looks from time to time."""
    watching = [replace(right, optional=True) for right in _on(target, "watch", kind, named=named)]
    return _on(target, "list", kind, named=named) + watching


def _logs(target: Target) -> list[Right]:
    rights = _on(target, "get", kinds.POD, "log")
    if target.selected:
        return _on(target, "list", kinds.POD) + rights
    if target.kind is None:  # a pod of that name is looked for first, then workloads
        return _on(target, "get", kinds.POD, named=True) + rights
    if target.kind == kinds.POD:
        return _find(target) + rights
    return _find(target) + _on(target, "list", kinds.POD) + rights


def _events(target: Target) -> list[Right]:
    rights = _on(target, "list", kinds.EVENT)
    if target.kind is None or not (target.name or target.selected):
        return rights if target.kind is None or target.kind.namespaced else [replace(rights[0], namespace=None)]
    if not target.kind.namespaced:
        return [replace(rights[0], namespace=None), *_find(target)]
    rights += _find(target)
    if target.kind.name in kinds.WORKLOADS:
        rights += _on(target, "list", kinds.POD)
    return rights + (_on(target, "list", kinds.REPLICASET) if target.kind == kinds.DEPLOYMENT else [])


def _get(target: Target) -> list[Right]:
    return _on(target, "get", named=True) if target.name else _on(target, "list")


def _restart(target: Target) -> list[Right]:
    return _find(target) + _on(target, "delete" if target.kind == kinds.POD else "patch", named=True)


def _listed(target: Target) -> list[Right]:
    """What a selector finds, where the action then reads each object by its name."""
    return _on(target, "list") if target.selected else []


def _scale(target: Target) -> list[Right]:
    return _listed(target) + _on(target, "get patch", subresource="scale", named=True)


def _wait(target: Target) -> list[Right]:
    return _watch(target, named=True)


def _rollback(target: Target) -> list[Right]:
    history = kinds.REPLICASET if target.kind == kinds.DEPLOYMENT else kinds.CONTROLLER_REVISION
    return _listed(target) + _on(target, "get patch", named=True) + _on(target, "list", history)


def _create(target: Target) -> list[Right]:
    # A repeated attempt looks whether the object that is there already is its own.
    return _on(target, "create") + _on(target, "get", named=True)


def _apply(target: Target) -> list[Right]:
    return _on(target, "get patch", named=True) + _on(target, "create")


def _delete(target: Target) -> list[Right]:
    own = _on(target, "get delete", named=True)
    return _find(target) + own + _watch(target, named=True)


def _change(target: Target) -> list[Right]:
    return _listed(target) + _on(target, "get patch", named=True)


def _job(target: Target) -> list[Right]:
    rights = _on(target, "create get", kinds.JOB)
    rights += [replace(right, optional=True) for right in _on(target, "patch", kinds.JOB)]  # for `cleanup` only
    rights += _watch(target, kinds.JOB) + _watch(target, kinds.POD) + _on(target, "get", kinds.POD, "log")
    return rights + (_on(target, "get", kinds.CRON_JOB) if target.template else [])


def _cordon(target: Target) -> list[Right]:
    return _find(target) + _on(target, "patch", named=True)


def _drain(target: Target) -> list[Right]:
    everywhere = replace(target, namespace=None)
    rights = _cordon(target) + _watch(everywhere, kinds.POD)
    return rights + _on(everywhere, "create", kinds.POD, "eviction") + _on(everywhere, "get", kinds.DAEMONSET)


def _metrics(target: Target) -> list[Right]:
    if target.kind in (kinds.POD, kinds.NODE, None):
        source = POD_METRICS if target.kind != kinds.NODE else NODE_METRICS
        return _on(target, "get" if target.name else "list", source, named=True)
    return _find(target) + _on(target, "list", POD_METRICS)


def _undo(target: Target) -> list[Right]:
    name = target.kind.name if target.kind is not None else ""
    if target.action in ("create", "job"):
        return _on(target, "get delete", named=target.action == "create")
    if target.action == "delete" or (target.action == "restart" and name == "Pod"):
        return _on(target, "get", named=True) + ([] if name in _NOT_MADE_AGAIN else _on(target, "create"))
    if target.action == "apply":
        return _on(target, "get patch delete", named=True)
    if target.action == "scale":
        return _scale(target)
    return _on(target, "get patch", named=True) if target.action in _CHANGING else []


#: As in `undo`.
_NOT_MADE_AGAIN = frozenset(
    {"Pod", "Job", "Namespace", "CustomResourceDefinition", "PersistentVolume", "PersistentVolumeClaim"}
)
_CHANGING = frozenset({"restart", "rollback", "patch", "annotate", "label", "cordon", "uncordon", "drain"})
_ACTIONS: dict[str, Callable[[Target], list[Right]]] = {
    "logs": _logs,
    "events": _events,
    "get": _get,
    "restart": _restart,
    "scale": _scale,
    "wait": _wait,
    "rollback": _rollback,
    "create": _create,
    "apply": _apply,
    "delete": _delete,
    "patch": _change,
    "annotate": _change,
    "label": _change,
    "job": _job,
    "cordon": _cordon,
    "uncordon": _cordon,
    "drain": _drain,
    "metrics": _metrics,
}
