"""The action delete, and the deletion of objects by name and uid that others use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from consumer.adapters.k8s import kinds, plans, records, sealing, targets
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.config import DeleteConfig
from consumer.adapters.k8s.records import delete_record, keep
from consumer.adapters.k8s.watching import until_gone
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext

_PROPAGATION = {"background": "Background", "foreground": "Foreground", "orphan": "Orphan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Output: `{resource, deleted: [names], count}`. Waits until the objects are gone unless `wait` is false.

    Repeatable: a later attempt deletes only the very objects (by uid) that the first one found.
    """

    cluster: Cluster
    config: DeleteConfig
    repeatable: bool = True
    time_limit: float | None = None

    async def plan(self, step: StepContext) -> Plan:
        found = await self._found(step)
        options = options_of(self.config.grace_period, self.config.propagation)
        for ref, item in found:
            await self.cluster.delete(ref, with_uid(options, targets.uid_of(item)), dry_run=True)
        if records.holds_secret(delete_record(found)) and self.config.undo:
            await sealing.ready(self.cluster, dry_run=True)
        names = [str(ref) for ref, _ in found]
        changes: list[JsonValue] = [{"path": name, "from": "exists"} for name in names]
        gone = plans.detail([plans.Change(ref, (), "delete") for ref, _ in found])
        summary = f"delete {', '.join(names) or 'nothing'}"
        return Plan(summary=summary, changes=bool(found), detail={**gone, "changes": changes})

    async def run(self, step: StepContext) -> JsonObject:
        record = await records.captured(self.cluster, step)
        if record is None:
            found = await self._found(step)
            record = delete_record(found, keep_objects=self.config.undo)
            if found:
                names = ", ".join(str(ref) for ref, _ in found[:10])
                record = await keep(self.cluster, step, record, f"{names} before the deletion", self.config)
        objects = recorded(record)
        deleted = await delete_all(self.cluster, objects, options_of(self.config.grace_period, self.config.propagation))
        if self.config.wait:
            for ref, uid in objects:
                await until_gone(self.cluster, ref, uid)
        return {"resource": ", ".join(deleted), "deleted": list[JsonValue](deleted), "count": len(deleted)}

    async def _found(self, step: StepContext) -> list[tuple[kinds.Ref, JsonObject]]:
        try:
            found = await targets.references(self.cluster, self.config)
        except PermanentError as error:
            if error.code == "not_found" and self.config.ignore_not_found:
                return []
            raise
        kind = found[0][0].kind
        if kind == kinds.POD:
            targets.bound_pods(step, len(found), "the deletion")
        elif kind.name in kinds.ROLLING or kind == kinds.REPLICASET:
            targets.bound_pods(step, sum(targets.pods_of(item) for _, item in found), "the deletion")
        return found


def options_of(grace_period: float | None, propagation: str | None = None) -> JsonObject:
    """The DeleteOptions. A part of a second is rounded up: 0 would mean to kill without notice."""
    options: JsonObject = {}
    if grace_period is not None:
        options["gracePeriodSeconds"] = int(-(-grace_period // 1))
    if propagation is not None:
        options["propagationPolicy"] = _PROPAGATION[propagation]
    return options


def with_uid(options: JsonObject, uid: str) -> JsonObject:
    """The options for just this object, not a later one of the same name."""
    return {**options, "preconditions": {"uid": uid}}


def recorded(record: JsonObject) -> list[tuple[kinds.Ref, str]]:
    """The objects of a delete record, with their uids."""
    objects = record.get("objects")
    return [
        (kinds.Ref.of_record(ref), str(entry.get("uid")))
        for entry in (objects if isinstance(objects, list) else [])
        if isinstance(entry, dict) and isinstance(ref := entry.get("ref"), dict)
    ]


async def delete_all(cluster: Cluster, objects: Sequence[tuple[kinds.Ref, str]], options: JsonObject) -> list[str]:
    """Deletes just these objects; one that is gone already is well. Gives their names."""
    for ref, uid in objects:
        try:
            await cluster.delete(ref, with_uid(options, uid))
        except (PermanentError, TemporaryError) as error:
            if error.code not in ("not_found", "conflict"):
                raise
            now = await cluster.find(ref)
            if now is not None and targets.uid_of(now) == uid:
                raise
    return [str(ref) for ref, _ in objects]
