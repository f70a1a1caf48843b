"""The action metrics: what pods and nodes use, as `kubectl top` shows it, or what a Prometheus query gives."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from pydantic import JsonValue

from consumer.adapters.k8s import errors, kinds, rollout, targets
from consumer.adapters.k8s.actions.reads import selector_query
from consumer.adapters.k8s.client import Call, Cluster
from consumer.adapters.k8s.configs_metrics import MetricsConfig
from consumer.adapters.k8s.prometheus import Prometheus
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext
from schemas.scalars import parse_quantity

_GROUP, _VERSION = "metrics.k8s.io", "v1beta1"
_POD_METRICS = kinds.Kind("PodMetrics", "pods", _GROUP, _VERSION)
_NODE_METRICS = kinds.Kind("NodeMetrics", "nodes", _GROUP, _VERSION, namespaced=False)
_MAX_SAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU in cores and memory in bytes."""

    cpu: Decimal = Decimal(0)
    memory: Decimal = Decimal(0)

    @staticmethod
    def of(usage: JsonObject) -> Usage:
        """Of quantities. Raises ValueError."""
        return Usage(parse_quantity(usage.get("cpu", "0")), parse_quantity(usage.get("memory", "0")))

    @staticmethod
    def sum(usages: Iterable[Usage]) -> Usage:
        total = Usage()
        for each in usages:
            total = Usage(total.cpu + each.cpu, total.memory + each.memory)
        return total

    def output(self) -> JsonObject:
        return {"cpu": float(self.cpu), "memory": int(self.memory)}

    def __str__(self) -> str:
        """As `kubectl top` shows it."""
        return f"cpu {math.ceil(self.cpu * 1000)}m, memory {int(self.memory) >> 20}Mi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Output: `{resource, cpu, memory, count, items: [{name, namespace, cpu, memory, time, containers}]}`.

    `cpu` in cores and `memory` in bytes; those beside `count` are the sums. With `query` it is `{query, result_type,
    value, values: [{labels, value}], count}`; `value` where there is just one.
    """

    cluster: Cluster
    config: MetricsConfig
    prometheus: Prometheus | None = None
    repeatable: bool = True
    time_limit: float | None = None

    async def plan(self, step: StepContext) -> Plan:
        if self.config.query is not None:
            detail = await self._queried(self.config.query, step)
            return Plan(summary=f"ask {self.prometheus}: {self.config.query[:200]}", changes=False, detail=detail)
        try:
            detail = await self._resources(step)
        except (PermanentError, TemporaryError) as error:
            if error.code not in ("not_found", "no_metrics"):
                raise
            return Plan(summary=f"read metrics ({error})", changes=False)  # an earlier step may make them
        return Plan(summary=f"read the metrics of {detail['resource']}", changes=False, detail=detail)

    async def run(self, step: StepContext) -> JsonObject:
        if self.config.query is not None:
            return await self._queried(self.config.query, step)
        return await self._resources(step)

    # --- Prometheus ------------------------------------------------------------------------------------------

    async def _queried(self, query: str, step: StepContext) -> JsonObject:
        if self.prometheus is None:
            raise PermanentError("query: the agent knows no Prometheus server; set WPK_PROMETHEUS_URL", code="invalid")
        answer = await self.prometheus.query(query)
        for warning in answer.warnings:
            await step.log("agent", f"{self.prometheus} warns: {warning}")
        if len(answer.samples) > _MAX_SAMPLES:
            await step.log("agent", f"of {len(answer.samples)} values the first {_MAX_SAMPLES} are kept")
        values: list[JsonValue] = [
            {"labels": sample.labels, "value": sample.value} for sample in answer.samples[:_MAX_SAMPLES]
        ]
        return {
            "query": query,
            "result_type": answer.kind,
            "value": answer.samples[0].value if len(answer.samples) == 1 else None,
            "values": values,
            "count": len(answer.samples),
        }

    # --- resources -------------------------------------------------------------------------------------------

    async def _resources(self, step: StepContext) -> JsonObject:
        resource, found = await self._found()
        if not found:
            raise TemporaryError(
                f"there are no metrics of {resource}: nothing is there, or it started within the last minute",
                code="no_metrics",
            )
        entries = [(item, [_entry(container) for container in _containers(item)]) for item in found]
        total, items = Usage(), list[JsonValue]()
        for item, containers in entries:
            usage = Usage.sum(usage for _, usage in containers)
            total = Usage.sum((total, usage))
            items.append(_item(item, usage, containers))
            await step.log("stdout", f"{targets.name_of(item)}: {usage}")
        return {"resource": resource, **total.output(), "count": len(items), "items": items}

    async def _found(self) -> tuple[str, list[JsonObject]]:
        """What is asked for, in words, and its metrics."""
        config = self.config
        kind = await targets.kind_of(self.cluster, config)
        namespace = await targets.namespace_of(self.cluster, config, kind)
        if kind in (kinds.POD, kinds.NODE):
            source = _POD_METRICS if kind == kinds.POD else _NODE_METRICS
            if config.name is not None:
                ref = await targets.reference(self.cluster, config)
                return str(ref), await self._one(kinds.Ref(source, ref.namespace, ref.name))
            where = f" in namespace {namespace}" if namespace else ""
            chosen = f' that match "{config.selector}"' if config.selector else ""
            return f"{kind.plural}{where}{chosen}", await self._list(source, namespace, config.selector)
        if kind.name not in kinds.WORKLOADS:
            raise PermanentError(
                f"a {kind.singular} has no metrics; only pods, nodes and workloads have", code="not_supported"
            )
        workloads = await targets.references(self.cluster, config)
        by_name: dict[str, JsonObject] = {}
        for _, item in workloads:
            selector = str(selector_query(item)["labelSelector"])
            by_name |= {targets.name_of(pod): pod for pod in await self._list(_POD_METRICS, namespace, selector)}
        return f"the pods of {', '.join(str(ref) for ref, _ in workloads)}", list(by_name.values())

    async def _one(self, ref: kinds.Ref) -> list[JsonObject]:
        try:
            return [await self.cluster.get(ref)]
        except PermanentError as error:
            if error.code != "not_found":
                raise
            await self._check_served()
            return []

    async def _list(self, kind: kinds.Kind, namespace: str | None, selector: str | None) -> list[JsonObject]:
        try:
            items = await self.cluster.items(kind, namespace, {"labelSelector": selector} if selector else None)
        except PermanentError as error:
            if error.code == "not_found":
                await self._check_served()
            raise
        return sorted(items, key=targets.name_of)

    async def _check_served(self) -> None:
        """Raises PermanentError `not_served` where the cluster has no metrics API."""
        request = errors.Request("get", "api discovery", f"the API {_GROUP}/{_VERSION}")
        try:
            await self.cluster.json(Call("GET", f"/apis/{_GROUP}/{_VERSION}", request))
        except PermanentError as error:
            if error.code != "not_found":
                raise
            raise PermanentError(
                f"the cluster does not serve {_GROUP}/{_VERSION}; install metrics-server, or ask Prometheus (query)",
                code="not_served",
            ) from error


def _containers(item: JsonObject) -> list[JsonObject]:
    """Each container of a pod; a node as its own only one."""
    found = item.get("containers")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else [item]


def _entry(container: JsonObject) -> tuple[str, Usage]:
    try:
        return str(container.get("name", "")), Usage.of(rollout.mapping(container, "usage"))
    except ValueError as error:
        raise PermanentError(f"the metrics API gives no quantities: {error}", code="bad_answer") from error


def _item(item: JsonObject, usage: Usage, containers: list[tuple[str, Usage]]) -> JsonObject:
    namespace = rollout.text(item, "metadata", "namespace")
    output: JsonObject = {"name": targets.name_of(item), **usage.output(), "time": rollout.text(item, "timestamp")}
    if namespace:
        output["namespace"] = namespace
        output["containers"] = [{"name": name, **each.output()} for name, each in containers]
    return output
