"""The actions cordon and uncordon, and what drain shares with them: which nodes, and whether pods may come to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from consumer.adapters.k8s import diff, kinds, rollout, targets
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.configs_nodes import CordonConfig, DrainConfig, UncordonConfig
from consumer.adapters.k8s.records import fields_record, keep, many_record
from consumer.errors import PermanentError
from consumer.ports import JsonObject, Plan, StepContext

_PATH = ("spec", "unschedulable")
Nodes = list[tuple[kinds.Ref, JsonObject]]
NodesConfig = CordonConfig | UncordonConfig | DrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Cordon:
    """Cordon and uncordon. Output: `{resource, unschedulable, changed: [names], already: [names]}`.

    A node that is as wanted is left alone (`already`). Repeatable: a later attempt keeps to the nodes that the first
    one chose.
    """

    cluster: Cluster
    config: CordonConfig | UncordonConfig
    repeatable: bool = True
    time_limit: float | None = None

    @property
    def _wanted(self) -> bool:
        return isinstance(self.config, CordonConfig)

    async def plan(self, step: StepContext) -> Plan:
        found = await chosen(self.cluster, self.config, step)
        others = [(ref, item) for ref, item in found if is_cordoned(item) != self._wanted]
        detail = _output(found, unschedulable=self._wanted)
        if not others:
            state = "cordoned" if self._wanted else "not cordoned"
            return Plan(summary=f"{subject(found)}: {state} already", changes=False, detail=detail)
        detail["changes"] = await planned(self.cluster, others, unschedulable=self._wanted)
        verb = "cordon" if self._wanted else "uncordon"
        return Plan(summary=f"{verb} {subject(others)}", changes=True, detail=detail)

    async def run(self, step: StepContext) -> JsonObject:
        found = await chosen(self.cluster, self.config, step)
        await set_unschedulable(self.cluster, self.config, found, step, wanted=self._wanted)
        return _output(found, unschedulable=self._wanted)


async def chosen(cluster: Cluster, config: NodesConfig, step: StepContext) -> Nodes:
    """The nodes that the config names or selects; in a later attempt only those of the first. Raises PermanentError."""
    found = await targets.references(cluster, config)
    kind = found[0][0].kind
    if kind != kinds.NODE:
        raise PermanentError(f"{config.action} is for nodes, and {found[0][0]} is none", code="not_supported")
    uids = step.captured.get("nodes") if step.captured is not None else None
    if isinstance(uids, list):
        found = [(ref, item) for ref, item in found if targets.uid_of(item) in uids]
        if not found:
            raise PermanentError("the nodes that the first attempt chose are no longer there", code="not_found")
    targets.bound_nodes(step, len(found), f"the {config.action}")
    return sorted(found, key=lambda each: each[0].name)


def is_cordoned(item: JsonObject) -> bool:
    """Whether the scheduler gives the node no new pods."""
    return rollout.mapping(item, "spec").get("unschedulable") is True


def subject(found: Nodes) -> str:
    """The nodes by name, as many as can be read."""
    names = [ref.name for ref, _ in found]
    kind = "node" if len(names) == 1 else "nodes"
    return f"{kind} {', '.join(names[:10])}" + (f" and {len(names) - 10} more" if len(names) > 10 else "")


async def planned(cluster: Cluster, found: Nodes, *, unschedulable: bool) -> list[JsonValue]:
    """What the server would make of it, node by node (dry run)."""
    changes: list[JsonValue] = []
    for ref, item in found:
        after = await cluster.patch(ref, _patch(wanted=unschedulable), dry_run=True)
        shown = diff.shown(diff.between(item, after), secret=False)
        changes += [{**line, "resource": str(ref)} for line in shown if isinstance(line, dict)]
    return changes


async def set_unschedulable(
    cluster: Cluster, config: NodesConfig, found: Nodes, step: StepContext, *, wanted: bool
) -> None:
    """Cordons or uncordons those nodes that are not so yet; captures first what they were."""
    others = [(ref, item) for ref, item in found if is_cordoned(item) != wanted]
    if not others:
        return
    state = "cordoned" if wanted else "uncordoned"
    summary = f"{subject(others)} before being {state}"
    await keep(cluster, step, _record(found, others, wanted=wanted), summary, config)
    for ref, _ in others:
        await cluster.patch(ref, _patch(wanted=wanted))


def _record(found: Nodes, others: Sequence[tuple[kinds.Ref, JsonObject]], *, wanted: bool) -> JsonObject:
    after = True if wanted else diff.MISSING
    records = [fields_record(ref, item, [diff.change(_PATH, diff.look(item, _PATH), after)]) for ref, item in others]
    record = records[0] if len(records) == 1 else many_record(records)
    return {**record, "nodes": [targets.uid_of(item) for _, item in found]}


def _patch(*, wanted: bool) -> JsonObject:
    """As kubectl sends it (strategic merge): null takes the field away."""
    return {"spec": {"unschedulable": True if wanted else None}}


def _output(found: Nodes, *, unschedulable: bool) -> JsonObject:
    changed: list[JsonValue] = [ref.name for ref, item in found if is_cordoned(item) != unschedulable]
    already: list[JsonValue] = [ref.name for ref, item in found if is_cordoned(item) == unschedulable]
    return {"resource": subject(found), "unschedulable": unschedulable, "changed": changed, "already": already}
