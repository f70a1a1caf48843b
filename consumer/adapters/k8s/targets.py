"""What a step works on: references and objects, found by the config, bounded by the package's limits."""

from __future__ import annotations

from collections.abc import Set

from consumer.adapters.k8s import kinds, rollout
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.config import DEFAULT_KINDS
from consumer.adapters.k8s.configs_base import ActionConfig, SelectingConfig
from consumer.errors import PermanentError
from consumer.ports import JsonObject, StepContext
from consumer.workflow import limits


async def kind_of(cluster: Cluster, config: ActionConfig) -> kinds.Kind:
    """The kind that the config names. Raises PermanentError where it names none."""
    word, _ = _parts(config)
    word = word or DEFAULT_KINDS.get(str(getattr(config, "action", "")))
    if word is None:
        raise PermanentError("resource_type is missing; name the kind: deployment, pod, job, …", code="invalid")
    return await cluster.kind(word)


async def namespace_of(cluster: Cluster, config: ActionConfig, kind: kinds.Kind | None = None) -> str | None:
    """The namespace that the step works in; None for kinds that live in none."""
    if kind is not None and not kind.namespaced:
        return None
    namespace = config.namespace or (await cluster.connection()).namespace
    return checked(namespace, "namespace")


async def reference(cluster: Cluster, config: ActionConfig) -> kinds.Ref:
    """The one object that the config names."""
    _, name = _parts(config)
    if name is None:
        raise PermanentError("no target: name is missing", code="invalid")
    kind = await kind_of(cluster, config)
    return kinds.Ref(kind, await namespace_of(cluster, config, kind), checked(name, "name"))


async def references(cluster: Cluster, config: SelectingConfig) -> list[tuple[kinds.Ref, JsonObject]]:
    """The objects that the config names or selects. Raises PermanentError `not_found` where there are none."""
    kind = await kind_of(cluster, config)
    if config.selector is None:
        ref = await reference(cluster, config)
        return [(ref, await cluster.get(ref))]
    namespace = await namespace_of(cluster, config, kind)
    found = await cluster.items(kind, namespace, {"labelSelector": config.selector})
    if not found:
        raise PermanentError(nothing_selected(kind, namespace, config.selector), code="not_found")
    return [(kinds.Ref(kind, namespace, name_of(item)), item) for item in found]


def nothing_selected(kind: kinds.Kind, namespace: str | None, selector: str) -> str:
    """The sentence for a selector that finds nothing."""
    where = f" in namespace {namespace}" if namespace else ""
    return f'no {kind.plural}{where} match the selector "{selector}"'


def bound_pods(step: StepContext, count: int, what: str) -> None:
    """Raises PermanentError where more pods would be touched than the package allows."""
    limit = step.limits.max_pods
    if limit is not None and count > limit:
        raise PermanentError(
            f"{what} touches {count} pods, but validation.resource_limits.max_pods is {limit}", code="limit"
        )


def bound_nodes(step: StepContext, count: int, what: str) -> None:
    """Raises PermanentError where more nodes would be touched than the package allows."""
    limit = step.limits.max_nodes
    if limit is not None and count > limit:
        raise PermanentError(
            f"{what} touches {count} nodes, but validation.resource_limits.max_nodes is {limit}", code="limit"
        )


def bound_namespaces(step: StepContext, found: Set[str], what: str) -> None:
    """Raises PermanentError where one step touches more namespaces than the package allows."""
    if (message := limits.too_many(found, step.limits)) is not None:
        raise PermanentError(f"{what}: {message}", code="limit")


def bound_replicas(step: StepContext, count: int, what: str) -> None:
    """Raises PermanentError where more replicas are wanted than the package allows."""
    limit = step.limits.max_replicas
    if limit is not None and count > limit:
        raise PermanentError(
            f"{what} would have {count} replicas, but validation.resource_limits.max_replicas is {limit}", code="limit"
        )


def checked(name: str, what: str) -> str:
    """The name, safe in a path (what Kubernetes demands of every name). Raises PermanentError."""
    if name in (".", "..") or "/" in name or "%" in name:
        raise PermanentError(f'"{name[:80]}" is no {what}', code="invalid")
    return name


def pods_of(item: JsonObject) -> int:
    """How many pods a workload is to have."""
    if rollout.text(item, "kind") == "DaemonSet":
        return rollout.integer(item, "status", "desiredNumberScheduled")
    return rollout.integer(item, "spec", "replicas", default=1)


def name_of(item: JsonObject) -> str:
    """The object's name."""
    metadata = item.get("metadata")
    return str(metadata.get("name")) if isinstance(metadata, dict) else ""


def uid_of(item: JsonObject) -> str:
    """The object's uid: what tells it from a later object of the same name."""
    metadata = item.get("metadata")
    return str(metadata.get("uid")) if isinstance(metadata, dict) else ""


def _parts(config: ActionConfig) -> tuple[str | None, str | None]:
    """The kind's word and the name; `deployment/api` holds both. Raises PermanentError where two kinds disagree."""
    word, name = config.resource_type, config.name
    if name is None or "/" not in name:
        return word, name
    first, _, rest = name.partition("/")
    if word is not None and word != first and kinds.built_in(word) != kinds.built_in(first):
        raise PermanentError(f'"{name}" is no {word}; give the kind once', code="invalid")
    return first, rest
