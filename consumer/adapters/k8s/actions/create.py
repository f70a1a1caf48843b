"""The action create: an object from its manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pydantic import JsonValue

from consumer.adapters.k8s import diff, kinds, rollout, targets
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.config import CreateConfig
from consumer.adapters.k8s.undo import CREATED_BY, annotation, create_record, remember, with_annotation
from consumer.errors import PermanentError
from consumer.ports import JsonObject, Plan, StepContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Output: `{resource, name, namespace, uid, already}`.

    The object carries the step's idempotency key as an annotation: a repeated attempt finds its own (`already`), and
    undo deletes only its own. `generateName` gets a suffix made of that key instead of a random one.
    """

    cluster: Cluster
    config: CreateConfig
    repeatable: bool = True
    time_limit: float | None = None

    async def plan(self, step: StepContext) -> Plan:
        ref, manifest = await self.prepared(step)
        made = await self.cluster.create(ref, manifest, dry_run=True)
        made = with_annotation(made, CREATED_BY, "(this step)")  # a plan is the same whenever it is made
        changes: list[JsonValue] = [{"path": str(ref), "from": None, "to": diff.masked(diff.desired(made))}]
        return Plan(summary=f"create {ref}", changes=True, detail={"resource": str(ref), "changes": changes})

    async def run(self, step: StepContext) -> JsonObject:
        ref, manifest = await self.prepared(step)
        await remember(step, create_record(ref, step.idempotency_key), f"{ref} before its creation")
        try:
            return _output(ref, await self.cluster.create(ref, manifest), already=False)
        except PermanentError as error:
            if error.code != "already_exists":
                raise
            there = await self.cluster.find(ref)
            if there is None or annotation(there, CREATED_BY) != step.idempotency_key:
                raise
            return _output(ref, there, already=True)

    async def prepared(self, step: StepContext) -> tuple[kinds.Ref, JsonObject]:
        """The reference and the manifest with its name, namespace and mark in place."""
        manifest = self.config.manifest
        kind = await self._kind(manifest)
        metadata = dict(rollout.mapping(manifest, "metadata"))
        name = metadata.get("name") or self.config.name
        prefix = metadata.pop("generateName", None)
        if not name and isinstance(prefix, str):
            name = prefix + hashlib.sha256(step.idempotency_key.encode()).hexdigest()[:10]
        if not isinstance(name, str):
            raise PermanentError("manifest.metadata.name is missing", code="invalid")
        namespace = metadata.get("namespace")
        if namespace and self.config.namespace and namespace != self.config.namespace:
            raise PermanentError(
                f'namespace is "{self.config.namespace}", but the manifest says "{namespace}"', code="invalid"
            )
        where = await targets.namespace_of(self.cluster, self.config, kind)
        if kind.namespaced:
            where = targets.checked(str(namespace), "namespace") if namespace else where
            metadata["namespace"] = where
        metadata["name"] = name
        ref = kinds.Ref(kind, where, targets.checked(name, "name"))
        full: JsonObject = {**manifest, "apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata}
        targets.bound_replicas(step, rollout.integer(full, "spec", "replicas"), str(ref))
        return ref, with_annotation(full, CREATED_BY, step.idempotency_key)

    async def _kind(self, manifest: JsonObject) -> kinds.Kind:
        word, version = manifest.get("kind"), manifest.get("apiVersion")
        if isinstance(word, str) and isinstance(version, str):
            group, _, _version = version.rpartition("/")
            kind = kinds.of_manifest(version, word)
            return kind or await self.cluster.kind(f"{word}.{group}" if group else word)
        if isinstance(word, str):
            return await self.cluster.kind(word)
        return await targets.kind_of(self.cluster, self.config)


def _output(ref: kinds.Ref, item: JsonObject, *, already: bool) -> JsonObject:
    return {
        "resource": str(ref),
        "name": ref.name,
        "namespace": ref.namespace,
        "uid": targets.uid_of(item),
        "already": already,
    }
