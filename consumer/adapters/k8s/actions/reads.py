"""Actions that only look: get and events."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from consumer.adapters.k8s import diff, fields, kinds, rollout, targets
from consumer.adapters.k8s.client import Cluster, Query
from consumer.adapters.k8s.config import EventsConfig, GetConfig
from consumer.errors import PermanentError
from consumer.ports import JsonObject, Plan, StepContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """Output: the object; `{items, count}` with a selector or without a name; `{value, resource}` with `field`.

    The values of a Secret are masked unless `field` names one of them.
    """

    cluster: Cluster
    config: GetConfig
    repeatable: bool = True
    time_limit: float | None = None

    async def plan(self, step: StepContext) -> Plan:
        what = f"{self.config.resource_type or ''} {self.config.name or self.config.selector or ''}".strip()
        try:
            output = await self.run(step)
        except PermanentError as error:
            if error.code != "not_found":
                raise
            return Plan(summary=f"get {what} (it is not there yet)", changes=False)  # an earlier step may make it
        return Plan(summary=f"get {output.get('resource') or what}", changes=False, detail=output)

    async def run(self, step: StepContext) -> JsonObject:
        kind = await targets.kind_of(self.cluster, self.config)
        if self.config.name is not None:
            ref = await targets.reference(self.cluster, self.config)
            found, subject = await self.cluster.get(ref), str(ref)
            whole = diff.masked(found)
        else:
            namespace = await targets.namespace_of(self.cluster, self.config, kind)
            query: Query = {"labelSelector": self.config.selector} if self.config.selector else {}
            items = await self.cluster.items(kind, namespace, query)
            subject = f"{kind.plural}{' in ' + namespace if namespace else ''}"
            found = {"items": list(items)}
            whole = {"items": [diff.masked(item) for item in items], "count": len(items)}
        if self.config.field is None:
            return whole
        path = fields.parse(self.config.field)
        value = fields.value_of(found, path)
        if kind == kinds.SECRET and isinstance(value, dict | list):
            value = fields.value_of(whole, path)
        return {"value": value, "resource": subject, "field": self.config.field}


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Output: `{events: [{time, type, reason, object, message, count}], count, warnings: {reason: count}}`.

    Core events, oldest first, the newest `limit` of them. For a workload those of its ReplicaSets and pods are
    included: a deployment's own events say little of why its pods fail. Lines go to the step's log.
    """

    cluster: Cluster
    config: EventsConfig
    repeatable: bool = True
    time_limit: float | None = None

    async def plan(self, step: StepContext) -> Plan:
        config = self.config
        subject = f"{config.resource_type or 'any kind'} {config.name or config.selector or ''}".strip()
        return Plan(summary=f"read the events of {subject}", changes=False)

    async def run(self, step: StepContext) -> JsonObject:
        namespace = await targets.namespace_of(self.cluster, self.config)
        kind = await targets.kind_of(self.cluster, self.config) if _names_kind(self.config) else None
        if kind is not None and not kind.namespaced:
            namespace = None
        found = await self._events(kind, namespace)
        entries = sorted((_entry(item) for item in found), key=lambda entry: str(entry["time"]))
        entries = entries[-self.config.limit :]
        warnings: dict[str, JsonValue] = {}
        for entry in entries:
            await step.log("stdout", "{time} {type} {reason} {object}: {message}".format_map(entry))
            if entry["type"] == "Warning":
                reason, count = str(entry["reason"]), entry["count"]
                before = warnings.get(reason, 0)
                assert isinstance(before, int) and isinstance(count, int)
                warnings[reason] = before + count
        return {"events": list(entries), "count": len(entries), "warnings": warnings}

    async def _events(self, kind: kinds.Kind | None, namespace: str | None) -> list[JsonObject]:
        config = self.config
        if config.name is None and config.selector is None:
            return await self._all({"involvedObject.kind": kind.name} if kind else {}, namespace)
        if kind is None:
            if config.name is not None:
                return await self._all({"involvedObject.name": config.name}, namespace)
            kind = kinds.POD
        uids = await self._uids(kind, namespace)
        found = await self._all({}, namespace) if len(uids) > 1 else []
        if len(uids) == 1:
            found = await self._all({"involvedObject.uid": next(iter(uids))}, namespace)
        return [item for item in found if rollout.text(item, "involvedObject", "uid") in uids]

    async def _uids(self, kind: kinds.Kind, namespace: str | None) -> set[str]:
        """The uids of the chosen objects and, for workloads, of what they own."""
        config = self.config
        if config.selector is not None:
            chosen = await self.cluster.items(kind, namespace, {"labelSelector": config.selector})
        else:
            chosen = [await self.cluster.get(await targets.reference(self.cluster, config))]
        uids = {targets.uid_of(item) for item in chosen}
        for item in chosen if kind.name in kinds.WORKLOADS else []:
            owners = [item]
            if kind == kinds.DEPLOYMENT:
                sets = await self.cluster.items(kinds.REPLICASET, namespace, selector_query(item))
                owners = rollout.owned(sets, item)
                uids |= {targets.uid_of(owner) for owner in owners}
            pods = await self.cluster.items(kinds.POD, namespace, selector_query(item))
            for owner in owners:
                uids |= {targets.uid_of(pod) for pod in rollout.owned(pods, owner)}
        return uids

    async def _all(self, selectors: dict[str, str], namespace: str | None) -> list[JsonObject]:
        query: Query = {}
        if selectors:
            query = {"fieldSelector": ",".join(f"{name}={value}" for name, value in selectors.items())}
        return await self.cluster.items(kinds.EVENT, namespace, query)


def _names_kind(config: EventsConfig) -> bool:
    return config.resource_type is not None or (config.name is not None and "/" in config.name)


def selector_query(workload: JsonObject) -> dict[str, str | int]:
    """The query for the pods of a workload. Raises PermanentError where it has no selector."""
    selector = rollout.mapping(workload, "spec", "selector")
    labels = selector.get("matchLabels", selector if "matchExpressions" not in selector else {})
    parts = [f"{key}={value}" for key, value in labels.items()] if isinstance(labels, dict) else []
    expressions = selector.get("matchExpressions")
    if isinstance(expressions, list):
        parts += [_expression(entry) for entry in expressions if isinstance(entry, dict)]
    if not parts:
        raise PermanentError(f"{rollout.text(workload, 'kind').lower()} has no selector", code="not_supported")
    return {"labelSelector": ",".join(parts)}


def _expression(entry: JsonObject) -> str:
    key, values = str(entry.get("key")), entry.get("values")
    choices = ",".join(str(value) for value in values) if isinstance(values, list) else ""
    forms = {"In": f"{key} in ({choices})", "NotIn": f"{key} notin ({choices})", "Exists": key}
    return forms.get(str(entry.get("operator")), f"!{key}")


def _entry(event: JsonObject) -> JsonObject:
    """An event as people read it. The time of a series is its newest one."""
    times = (
        rollout.text(event, "series", "lastObservedTime"),
        rollout.text(event, "lastTimestamp"),
        rollout.text(event, "eventTime"),
        rollout.text(event, "metadata", "creationTimestamp"),
    )
    about = rollout.mapping(event, "involvedObject")
    count = rollout.integer(event, "series", "count") or rollout.integer(event, "count", default=1)
    return {
        "time": next((time for time in times if time), ""),
        "type": rollout.text(event, "type") or "Normal",
        "reason": rollout.text(event, "reason"),
        "object": f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        "message": " ".join(rollout.text(event, "message").split()),
        "count": count or 1,
    }
