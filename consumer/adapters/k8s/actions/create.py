"""The action create: an object from its manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace

from consumer.adapters.k8s import diff, kinds, manifests, plans, rollout, targets
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.config import CreateConfig
from consumer.adapters.k8s.records import CREATED_BY, annotation, create_record, keep, with_annotation
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
        made = await plans.settled(lambda: self.cluster.create(ref, manifest, dry_run=True))
        if self._prefix:  # the API server may have put the name into labels, too
            generated = f"{self._prefix}(this step)"
            made, ref = plans.renamed(made, ref.name, generated), replace(ref, name=generated)
        changes = plans.timeless(diff.of_values({}, plans.undrawn(made, manifest)), step)
        return Plan(summary=f"create {ref}", changes=True, detail=plans.detail([plans.Change(ref, changes, "create")]))

    @property
    def _prefix(self) -> str:
        """The manifest's generateName; empty where it has a name."""
        metadata = rollout.mapping(self.config.manifest, "metadata")
        return "" if metadata.get("name") or self.config.name else rollout.text(metadata, "generateName")

    async def run(self, step: StepContext) -> JsonObject:
        ref, manifest = await self.prepared(step)
        record = create_record(ref, step.idempotency_key)
        await keep(self.cluster, step, record, f"{ref} before its creation", self.config)
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
        ref, manifest = await manifests.placed(self.cluster, self.config.manifest, self.config, step)
        return ref, with_annotation(manifest, CREATED_BY, step.idempotency_key)


def _output(ref: kinds.Ref, item: JsonObject, *, already: bool) -> JsonObject:
    return {
        "resource": str(ref),
        "name": ref.name,
        "namespace": ref.namespace,
        "uid": targets.uid_of(item),
        "already": already,
    }
