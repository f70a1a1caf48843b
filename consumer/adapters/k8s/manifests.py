"""From a manifest to the object it means: its kind, its name and its namespace."""

from __future__ import annotations

import hashlib

from consumer.adapters.k8s import kinds, rollout, targets
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.configs_base import ActionConfig
from consumer.errors import PermanentError
from consumer.ports import JsonObject, StepContext


async def placed(
    cluster: Cluster, manifest: JsonObject, config: ActionConfig, step: StepContext
) -> tuple[kinds.Ref, JsonObject]:
    """The reference, and the manifest with its name and namespace in place. Raises PermanentError.

    `generateName` gets a suffix that is the same for every attempt of the step instead of a random one.
    """
    kind = await _kind(cluster, manifest, config)
    metadata = dict(rollout.mapping(manifest, "metadata"))
    name = metadata.get("name") or config.name
    prefix = metadata.pop("generateName", None)
    if not name and isinstance(prefix, str):
        name = prefix + suffix(step)
    if not isinstance(name, str):
        raise PermanentError("manifest.metadata.name is missing", code="invalid")
    namespace = metadata.get("namespace")
    if namespace and kind.namespaced and config.namespace and namespace != config.namespace:
        raise PermanentError(
            f'{kind.singular} {name}: namespace is "{config.namespace}", but the manifest says "{namespace}"',
            code="invalid",
        )
    where = await targets.namespace_of(cluster, config, kind)
    if kind.namespaced:
        where = targets.checked(str(namespace), "namespace") if namespace else where
        metadata["namespace"] = where
    metadata["name"] = name
    ref = kinds.Ref(kind, where, targets.checked(name, "name"))
    full: JsonObject = {**manifest, "apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata}
    targets.bound_replicas(step, rollout.integer(full, "spec", "replicas"), str(ref))
    if kind == kinds.JOB:
        parallel = rollout.integer(full, "spec", "parallelism", default=1)
        wanted = rollout.integer(full, "spec", "completions", default=parallel)
        targets.bound_pods(step, min(parallel, wanted), str(ref))
    return ref, full


def suffix(step: StepContext) -> str:
    """What `generateName` gets."""
    return hashlib.sha256(step.idempotency_key.encode()).hexdigest()[:10]


async def _kind(cluster: Cluster, manifest: JsonObject, config: ActionConfig) -> kinds.Kind:
    word, version = manifest.get("kind"), manifest.get("apiVersion")
    if isinstance(word, str) and isinstance(version, str):
        group, _, _version = version.rpartition("/")
        kind = kinds.of_manifest(version, word)
        return kind or await cluster.kind(f"{word}.{group}" if group else word)
    if isinstance(word, str):
        return await cluster.kind(word)
    return await targets.kind_of(cluster, config)
