"""The action rollback: back to an earlier revision, as `kubectl rollout undo` does it."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from consumer.adapters.k8s import diff, kinds, plans, rollout, targets
from consumer.adapters.k8s.actions.reads import selector_query
from consumer.adapters.k8s.client import Cluster, PatchType
from consumer.adapters.k8s.config import RollbackConfig
from consumer.adapters.k8s.records import changes_of, fields_record, keep
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext

_TRIES = 4


@dataclass(frozen=True, slots=True)
class _Way:
    """How an object goes back: to which revision, by which patch."""

    ref: kinds.Ref
    item: JsonObject
    from_revision: int
    to_revision: int
    patch: JsonValue
    patch_type: PatchType
    unchanged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """Output: `{resource, from_revision, to_revision, unchanged}`. It does not wait for the rollout.

    Repeatable: the target is captured by the first attempt, so that `previous` is never taken twice.
    """

    cluster: Cluster
    config: RollbackConfig
    repeatable: bool = True
    time_limit: float | None = None

    async def plan(self, step: StepContext) -> Plan:
        way = await self._way(step)
        if way.unchanged:
            return Plan(
                summary=f"{way.ref} is at revision {way.to_revision} already", changes=False, detail=_output(way)
            )
        after = await plans.settled(lambda: self.cluster.patch(way.ref, way.patch, way.patch_type, dry_run=True))
        detail = {**_output(way), **plans.detail([plans.Change(way.ref, diff.between(way.item, after))])}
        return Plan(
            summary=f"roll {way.ref} back from revision {way.from_revision} to {way.to_revision}",
            changes=True,
            detail=detail,
        )

    async def run(self, step: StepContext) -> JsonObject:
        record: JsonObject | None = step.captured
        for attempt in range(1, _TRIES + 1):
            way = await self._way(step)
            if way.unchanged:
                return _output(way)
            if record is None:
                record = await self._remember(way, step)
            try:
                await self.cluster.patch(way.ref, way.patch, way.patch_type)
                return _output(way)
            except PermanentError as error:  # the guard: the object's generation is not what was read
                if error.code != "invalid" or attempt == _TRIES:
                    raise
                now = await self.cluster.get(way.ref)
                if _generation(now) == _generation(way.item):
                    raise
                if rollout.mapping(now, "spec", "template") != rollout.mapping(way.item, "spec", "template"):
                    raise TemporaryError(f"{way.ref} was changed by someone else", code="conflict") from error
        raise TemporaryError("the object is changed all the time by someone else", code="conflict")

    async def _remember(self, way: _Way, step: StepContext) -> JsonObject:
        after = await self.cluster.patch(way.ref, way.patch, way.patch_type, dry_run=True)
        extra: JsonObject = {"to_revision": way.to_revision, "from_revision": way.from_revision}
        record = fields_record(way.ref, way.item, diff.between(way.item, after), whole=True, extra=extra)
        return await keep(self.cluster, step, record, f"{way.ref} is at revision {way.from_revision}", self.config)

    async def _way(self, step: StepContext) -> _Way:
        ref = await targets.reference(self.cluster, self.config)
        if ref.kind.name not in kinds.ROLLING:
            raise PermanentError(f"a {ref.kind.singular} has no revisions to go back to", code="not_supported")
        item = await self.cluster.get(ref)
        if step.captured is not None:
            return await self._again(ref, item, step.captured)
        targets.bound_pods(step, targets.pods_of(item), "the rollback")
        wanted = None if self.config.revision in ("previous", 0) else int(self.config.revision)
        if ref.kind == kinds.DEPLOYMENT:
            if rollout.mapping(item, "spec").get("paused") is True:
                raise PermanentError(f"{ref} is paused; resume it first (kubectl rollout resume)", code="paused")
            entry = rollout.choose(await self._history(kinds.REPLICASET, ref, item), wanted, str(ref))
            return _deployment_way(ref, item, entry)
        history = await self._history(kinds.CONTROLLER_REVISION, ref, item)
        return _revision_way(ref, item, rollout.choose(history, wanted, str(ref)), history)

    async def _history(self, kind: kinds.Kind, ref: kinds.Ref, item: JsonObject) -> list[JsonObject]:
        return rollout.owned(await self.cluster.items(kind, ref.namespace, selector_query(item)), item)

    async def _again(self, ref: kinds.Ref, item: JsonObject, record: JsonObject) -> _Way:
        """A later attempt: what the first one wanted is done by it, or is done now, field by field."""
        made = changes_of(record)
        # Seen from its end the change is an undo of its undo, with the same guards.
        forward = [_turned(change) for change in made]
        operations, others = diff.reverse(item, forward)
        if others or targets.uid_of(item) != record.get("uid"):
            raise PermanentError(f"{ref} was changed by someone else since the first attempt", code="conflict")
        start, end = rollout.integer(record, "from_revision"), rollout.integer(record, "to_revision")
        patch: JsonValue = list(operations)
        return _Way(ref, item, start, end, patch, "json", unchanged=not operations)


def _turned(change: diff.Change) -> diff.Change:
    turned: diff.Change = {"path": change["path"]}
    if "to" in change:
        turned["from"] = change["to"]
    if "from" in change:
        turned["to"] = change["from"]
    return turned


def _deployment_way(ref: kinds.Ref, item: JsonObject, replica_set: JsonObject) -> _Way:
    template = rollout.template_of(replica_set)
    start, end = rollout.revision_of(item), rollout.revision_of(replica_set)
    if not diff.of_values(rollout.mapping(item, "spec", "template"), template):
        return _Way(ref, item, start, end, None, "json", unchanged=True)
    annotations = rollout.annotations_back(item, replica_set)
    patch: list[JsonValue] = [
        {"op": "test", "path": "/metadata/generation", "value": _generation(item)},
        {"op": "replace", "path": "/spec/template", "value": template},
        # "add" replaces what is there, and works where there are no annotations at all.
        {"op": "add", "path": "/metadata/annotations", "value": annotations},
    ]
    return _Way(ref, item, start, end, patch, "json")


def _revision_way(ref: kinds.Ref, item: JsonObject, entry: JsonObject, history: list[JsonObject]) -> _Way:
    """A ControllerRevision's data is a strategic merge patch of the object (with `$patch: replace`)."""
    newest = max(rollout.revision_of(each) for each in history)
    data = dict(rollout.mapping(entry, "data"))
    template = {k: v for k, v in rollout.mapping(data, "spec", "template").items() if k != "$patch"}
    same = not diff.of_values(rollout.mapping(item, "spec", "template"), template)
    return _Way(ref, item, newest, rollout.revision_of(entry), data, "strategic", unchanged=same)


def _generation(item: JsonObject) -> int:
    return rollout.integer(item, "metadata", "generation")


def _output(way: _Way) -> JsonObject:
    return {
        "resource": str(way.ref),
        "from_revision": way.from_revision,
        "to_revision": way.to_revision,
        "unchanged": way.unchanged,
    }
