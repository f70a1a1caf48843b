"""The action drain: empties nodes, as `kubectl drain` does it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from consumer.adapters.k8s import draining, kinds, targets
from consumer.adapters.k8s.actions.nodes import chosen, is_cordoned, planned, set_unschedulable, subject
from consumer.adapters.k8s.client import Cluster, Query
from consumer.adapters.k8s.configs_nodes import DrainConfig
from consumer.adapters.k8s.draining import Verdict
from consumer.adapters.k8s.evicting import Eviction, Evictor
from consumer.adapters.k8s.patience import deadline, time_for
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext
from schemas.scalars import format_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Output: `{resource, cordoned: [nodes], evicted: [pods], count, left: [{pod, why}]}`, pods as `namespace/name`.

    One node after the other; the first that can't be drained ends the step. Other than kubectl it looks at the pods
    before it cordons: a node that can't be drained is left as it was. Repeatable: a later attempt evicts what is still
    there. Undo uncordons the nodes that the step cordoned; pods that were evicted stay where they are then.
    """

    cluster: Cluster
    config: DrainConfig
    repeatable: bool = True

    @property
    def time_limit(self) -> float | None:
        return self.config.timeout

    async def plan(self, step: StepContext) -> Plan:
        found = await chosen(self.cluster, self.config, step)
        by_node = await self._looked_at([ref for ref, _ in found], step)
        open_ones = [(ref, item) for ref, item in found if not is_cordoned(item)]
        evictor = Evictor(self.cluster, step, self.config.grace_period)
        wanted = [verdict for verdicts in by_node.values() for verdict in verdicts if verdict.fate == "evict"]
        refusals = await evictor.ask(wanted)
        blocked: list[JsonValue] = [{"pod": name, "why": refusals[name]} for name in sorted(refusals)]
        evict: list[JsonValue] = [{"pod": v.name, "why": v.why} if v.why else {"pod": v.name} for v in wanted]
        detail: JsonObject = {
            "resource": subject(found),
            "changes": await planned(self.cluster, open_ones, unschedulable=True),
            "evict": evict,
            "blocked": blocked,
            "left": _left(by_node.values()),
        }
        summary = f"drain {subject(found)}: evict {len(wanted)} pods"
        summary += f"; refused now: {len(blocked)}" if blocked else ""
        return Plan(summary=summary, changes=bool(open_ones or wanted), detail=detail)

    async def run(self, step: StepContext) -> JsonObject:
        until = deadline(self.config.timeout, step)
        found = await chosen(self.cluster, self.config, step)
        await self._looked_at([ref for ref, _ in found], step)
        await set_unschedulable(self.cluster, self.config, found, step, wanted=True)
        evictions: list[Eviction] = []
        left: list[Sequence[Verdict]] = []
        cordoned: list[JsonValue] = [ref.name for ref, item in found if not is_cordoned(item)]
        try:
            async with asyncio.timeout_at(until):
                for ref, _ in found:
                    verdicts = await self._verdicts(ref)  # once more: a pod may have come before the node was cordoned
                    draining.check(verdicts, ref.name)
                    left.append(verdicts)
                    await self._one(ref, verdicts, evictions, step)
        except TimeoutError as error:
            waiting = [f"{each.verdict.ref}: {each.state}" for each in evictions if not each.over]
            limit = format_duration(time_for(self.config.timeout, step) or 0.0)
            message = f"{subject(found)}: not drained after {limit}: {_some(waiting)}"
            output = _output(subject(found), cordoned, evictions, left)
            raise TemporaryError(f"{message}; cordoned until it is undone", code="timeout", output=output) from error
        return _output(subject(found), cordoned, evictions, left)

    async def _one(
        self, node: kinds.Ref, verdicts: Sequence[Verdict], evictions: list[Eviction], step: StepContext
    ) -> None:
        mine = [Eviction(verdict) for verdict in verdicts if verdict.fate == "evict"]
        evictions += mine
        await Evictor(self.cluster, step, self.config.grace_period).run(node.name, mine)
        failed = [each for each in mine if each.failure is not None]
        if failed:
            what = _some([each.state for each in failed])
            output: JsonObject = {"evicted": _names(each for each in evictions if each.evicted)}
            raise PermanentError(f"{node} is not drained: {what}", code=failed[0].code, output=output)
        await step.log("agent", f"{node} is drained: {len(mine)} pods evicted")

    async def _looked_at(self, nodes: Sequence[kinds.Ref], step: StepContext) -> dict[str, list[Verdict]]:
        """The verdicts by node. Raises PermanentError where a node can't be drained, or the package forbids as much."""
        by_node = {ref.name: await self._verdicts(ref) for ref in nodes}
        for name, verdicts in by_node.items():
            draining.check(verdicts, name)
        count = sum(verdict.fate == "evict" for verdicts in by_node.values() for verdict in verdicts)
        targets.bound_pods(step, count, "the drain")
        evicted = (each.ref for verdicts in by_node.values() for each in verdicts if each.fate == "evict")
        targets.bound_namespaces(step, {str(ref.namespace) for ref in evicted}, "the drain")
        return by_node

    async def _verdicts(self, node: kinds.Ref) -> list[Verdict]:
        query: Query = {"fieldSelector": f"spec.nodeName={node.name}"}
        if self.config.pod_selector is not None:
            query = {**query, "labelSelector": self.config.pod_selector}
        pods = await self.cluster.items(kinds.POD, None, query)
        named = {daemonset for pod in pods if (daemonset := draining.daemonset_of(pod)) is not None}
        there = [each for each in sorted(named) if await self.cluster.find(kinds.Ref(kinds.DAEMONSET, *each))]
        options = draining.Options(
            ignore_daemonsets=self.config.ignore_daemonsets,
            delete_emptydir_data=self.config.delete_emptydir_data,
            force=self.config.force,
            daemonsets=there,
        )
        return draining.judge(pods, options)


def _output(
    resource: str, cordoned: list[JsonValue], evictions: Sequence[Eviction], verdicts: Iterable[Sequence[Verdict]]
) -> JsonObject:
    evicted = _names(each for each in evictions if each.evicted)
    return {
        "resource": resource,
        "cordoned": cordoned,
        "evicted": evicted,
        "count": len(evicted),
        "left": _left(verdicts),
    }


def _left(verdicts: Iterable[Sequence[Verdict]]) -> list[JsonValue]:
    return [{"pod": each.name, "why": each.why} for some in verdicts for each in some if each.fate == "leave"]


def _names(evictions: Iterable[Eviction]) -> list[JsonValue]:
    return [each.verdict.name for each in evictions]


def _some(texts: Sequence[str]) -> str:
    return "; ".join(texts[:3]) + (f"; and {len(texts) - 3} more" if len(texts) > 3 else "")
