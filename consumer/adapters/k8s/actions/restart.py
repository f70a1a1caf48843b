"""The action restart: a rolling restart, as `kubectl rollout restart` does it; pods are deleted to be replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from pydantic import JsonValue

from consumer.adapters.k8s import diff, kinds, plans, rollout, targets
from consumer.adapters.k8s.actions.delete import delete_all, options_of, recorded, with_uid
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.config import RestartConfig
from consumer.adapters.k8s.records import delete_record, fields_record, keep, many_record
from consumer.errors import PermanentError
from consumer.ports import JsonObject, Plan, StepContext

_ANNOTATIONS = ("spec", "template", "metadata", "annotations")
Found = list[tuple[kinds.Ref, JsonObject]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Output: `{resource, restarted_at, already}`; with a selector `{restarted: [one of those each]}`.

    The pod template carries the step's idempotency key beside kubectl's time stamp: an attempt that finds its key
    there does nothing more (`already`). It does not wait for the rollout. For pods: `{restarted: [names]}`.
    """

    cluster: Cluster
    config: RestartConfig
    repeatable: bool = True
    time_limit: float | None = None

    async def plan(self, step: StepContext) -> Plan:
        found = await targets.references(self.cluster, self.config)
        _check(found, step)
        subject = ", ".join(str(ref) for ref, _ in found)
        if found[0][0].kind == kinds.POD:
            options = options_of(self.config.grace_period)
            for ref, item in found:
                await self.cluster.delete(ref, with_uid(options, targets.uid_of(item)), dry_run=True)
            detail = plans.detail([plans.Change(ref, (), "delete") for ref, _ in found])
            return Plan(summary=f"delete {subject}, for the controllers to replace", changes=True, detail=detail)
        body = _patch(_now(), step.idempotency_key)
        changes: list[plans.Change] = []
        for ref, item in found:
            after = await plans.settled(partial(self.cluster.patch, ref, body, dry_run=True))
            changes.append(plans.Change(ref, plans.timeless(diff.between(item, after), step)))
        pods = sum(targets.pods_of(item) for _, item in found)
        return Plan(summary=f"restart {subject}: {pods} pods are replaced", changes=True, detail=plans.detail(changes))

    async def run(self, step: StepContext) -> JsonObject:
        if step.captured is not None and step.captured.get("op") == "delete":
            return await self._delete(recorded(step.captured))
        found = await targets.references(self.cluster, self.config)
        if step.captured is not None:
            found = [(ref, item) for ref, item in found if targets.uid_of(item) in _uids(step.captured)]
        if not found:
            raise PermanentError("what the first attempt restarted is no longer there", code="not_found")
        _check(found, step)
        if found[0][0].kind == kinds.POD:
            summary = f"{len(found)} pods before they were deleted for a restart"
            record = await keep(self.cluster, step, delete_record(found), summary, self.config)
            return await self._delete(recorded(record))
        if self.config.grace_period is not None:
            await step.log("agent", "grace_period is for pods; a rolling restart uses terminationGracePeriodSeconds")
        stamp = await self._remember(found, step)
        outputs = [await self._one(ref, item, stamp, step) for ref, item in found]
        return outputs[0] if len(outputs) == 1 and self.config.selector is None else {"restarted": list(outputs)}

    async def _remember(self, found: Found, step: StepContext) -> str:
        """Captures the templates' annotations; gives the time stamp of the step's first attempt."""
        stamp = _now()
        records = [
            fields_record(ref, item, _changes(item, stamp, step.idempotency_key), whole=True) for ref, item in found
        ]
        record: JsonObject = {**(records[0] if len(records) == 1 else many_record(records)), "stamp": stamp}
        revisions = ", ".join(
            f"{ref} before its restart" + (f" (revision {rollout.revision_of(item)})" if _revised(item) else "")
            for ref, item in found
        )
        record = await keep(self.cluster, step, record, revisions, self.config)
        return str(record.get("stamp") or stamp)

    async def _one(self, ref: kinds.Ref, item: JsonObject, stamp: str, step: StepContext) -> JsonObject:
        already = diff.look(item, (*_ANNOTATIONS, rollout.RESTARTED_BY)) == step.idempotency_key
        if not already:
            await self.cluster.patch(ref, _patch(stamp, step.idempotency_key))
        output: JsonObject = {"resource": str(ref), "restarted_at": stamp, "already": already}
        if _revised(item) and not already:
            output["revision_before"] = rollout.revision_of(item)
        return output

    async def _delete(self, pods: Sequence[tuple[kinds.Ref, str]]) -> JsonObject:
        deleted = await delete_all(self.cluster, pods, options_of(self.config.grace_period))
        return {"resource": ", ".join(deleted), "restarted": list[JsonValue](deleted)}


def _uids(record: JsonObject) -> set[str]:
    """The objects that the first attempt found."""
    records = record.get("records")
    each = [inner for inner in records if isinstance(inner, dict)] if isinstance(records, list) else [record]
    return {str(inner.get("uid")) for inner in each}


def _check(found: Found, step: StepContext) -> None:
    """Raises PermanentError for what kubectl refuses too, and for more pods than the package allows."""
    kind = found[0][0].kind
    if kind == kinds.POD:
        for ref, item in found:
            if not rollout.mapping(item, "metadata").get("ownerReferences"):
                raise PermanentError(f"{ref} has no controller that would replace it", code="not_supported")
        targets.bound_pods(step, len(found), "the restart")
        return
    if kind.name not in kinds.ROLLING:
        raise PermanentError(
            f"a {kind.singular} can't be restarted; only deployments, statefulsets, daemonsets and pods can",
            code="not_supported",
        )
    for ref, item in found:
        if rollout.mapping(item, "spec").get("paused") is True:
            raise PermanentError(f"{ref} is paused; resume it first (kubectl rollout resume)", code="paused")
    targets.bound_pods(step, sum(targets.pods_of(item) for _, item in found), "the restart")


def _revised(item: JsonObject) -> bool:
    return rollout.revision_of(item) > 0


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _patch(stamp: str, key: str) -> JsonObject:
    annotations: JsonObject = {rollout.RESTARTED_AT: stamp, rollout.RESTARTED_BY: key}
    return {"spec": {"template": {"metadata": {"annotations": annotations}}}}


def _changes(item: JsonObject, stamp: str, key: str) -> list[diff.Change]:
    wanted = ((rollout.RESTARTED_AT, stamp), (rollout.RESTARTED_BY, key))
    return [diff.change(path, diff.look(item, path), to) for name, to in wanted for path in [(*_ANNOTATIONS, name)]]
