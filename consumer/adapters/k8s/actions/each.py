"""An action on each object that a selector finds: scale, rollback, patch, annotate and label, as `kubectl -l`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pydantic import JsonValue

from consumer.adapters.k8s import kinds, plans, sealing, targets
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.config import AnnotateConfig, LabelConfig, PatchConfig, RollbackConfig, ScaleConfig
from consumer.adapters.k8s.records import many_record, objects, ref_of
from consumer.ports import Action, JsonObject, Plan, StepContext

EachConfig = ScaleConfig | RollbackConfig | PatchConfig | AnnotateConfig | LabelConfig


class _Reached(Exception):
    """What the action wants to keep of an object, at the moment before it changes it."""

    def __init__(self, record: JsonObject, summary: str) -> None:
        super().__init__(summary)
        self.record, self.summary = record, summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Each:
    """Output: `{resource, changed: [the outputs of one object each], count}`.

    A step keeps its undo record but once, before its first change. So the action is rehearsed on every object up to
    where it would keep one; what any object refuses is told here, and nothing was changed. Then all records are kept,
    and each object is changed as a repeated attempt would change it.
    """

    cluster: Cluster
    config: EachConfig
    one: Callable[..., Action]
    """The action on one object, of `cluster` and `config`."""
    time_limit: float | None = None

    @property
    def repeatable(self) -> bool:
        return self._on(self.config).repeatable

    async def plan(self, step: StepContext) -> Plan:
        found = await self._found(step)
        each = [await self._on(self._named(ref)).plan(step) for ref, _ in found]
        changing = [one.summary for one in each if one.changes]
        summary = "; ".join(changing) or f"{len(found)} objects are as wanted already"
        return Plan(summary=summary, changes=bool(changing), detail=plans.joined([one.detail for one in each]))

    async def run(self, step: StepContext) -> JsonObject:
        done: dict[str, JsonObject] = {}
        records: list[JsonObject] = objects(step.captured.get("records")) if step.captured is not None else []
        if step.captured is None:
            summaries: list[str] = []
            for ref, _ in await self._found(step):
                try:
                    done[str(ref)] = await self._on(self._named(ref)).run(replace(step, capture=_reached))
                except _Reached as reached:
                    records.append(reached.record)
                    summaries.append(reached.summary)
            if records:
                record = {**many_record(records), "on_foreign_change": self.config.on_foreign_change}
                await step.capture(record, "; ".join(summaries[:5]) + ("; …" if len(summaries) > 5 else ""))
        for record in records:
            ref = await self._recorded(record)
            done[str(ref)] = await self._on(self._named(ref)).run(replace(step, captured=record))
        outputs: list[JsonValue] = list(done.values())
        return {"resource": ", ".join(done), "changed": outputs, "count": len(outputs)}

    async def _recorded(self, record: JsonObject) -> kinds.Ref:
        opened = await sealing.opened(self.cluster, record)
        entries = objects(opened.get("objects")) if opened.get("op") == "nothing" else [opened]
        return ref_of(entries[0])

    async def _found(self, step: StepContext) -> list[tuple[kinds.Ref, JsonObject]]:
        found = await targets.references(self.cluster, self.config)
        if found[0][0].kind == kinds.POD:
            targets.bound_pods(step, len(found), f"the {self.config.action}")
        elif isinstance(self.config, RollbackConfig):
            targets.bound_pods(step, sum(targets.pods_of(item) for _, item in found), "the rollback")
        return found

    def _named(self, ref: kinds.Ref) -> EachConfig:
        return self.config.model_copy(update={"selector": None, "name": ref.name})

    def _on(self, config: EachConfig) -> Action:
        return self.one(cluster=self.cluster, config=config)


async def _reached(record: JsonObject, summary: str) -> None:
    raise _Reached(record, summary)
