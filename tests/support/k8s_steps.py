"""Runs k8s steps as the step runner does, and keeps what they logged and captured."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

from pydantic import JsonValue

from consumer.adapters.k8s import build
from consumer.ports import UNKNOWN, Adapter, JsonObject, Phase, Plan, StepContext, Stream, Unknown
from schemas.wpk import ResourceLimits
from tests.support.eventually import eventually
from tests.support.k8s_api import K8sApi
from tests.support.k8s_kinds import BY_KIND, Object


@dataclass
class FixedScope:
    """A scope of given parameters; those in `unknown` have a value only later."""

    values: Mapping[str, JsonValue] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()

    @property
    def parameters(self) -> Mapping[str, JsonValue]:
        return self.values

    def lookup(self, expression: str) -> JsonValue | Unknown:
        name = expression.removeprefix("parameters.")
        if name in self.unknown:
            return UNKNOWN
        if name not in self.values:
            raise KeyError(f"${{{expression}}} has no value")
        return self.values[name]


@dataclass
class Steps:
    """One execution's steps: each `run` is one attempt of the step `name`."""

    adapter: Adapter
    execution: str = "run-1"
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    lines: list[tuple[Stream, str]] = field(default_factory=list)
    records: dict[str, JsonObject] = field(default_factory=dict)
    """What was captured, by step."""
    summaries: list[str] = field(default_factory=list)
    requested_by: str | None = None

    def context(
        self,
        name: str = "step",
        *,
        phase: Phase = "run",
        dry_run: bool = False,
        captured: JsonObject | None = None,
        attempt: int = 1,
        originals: Mapping[str, JsonObject] | None = None,
    ) -> StepContext:
        once: list[str] = []

        async def log(stream: Stream, line: str) -> None:
            assert "\n" not in line
            self.lines.append((stream, line))

        async def capture(record: JsonObject, summary: str) -> None:
            assert not once, "captured twice in one attempt"
            assert not dry_run, "a dry run changes nothing, so it has nothing to capture"
            once.append(summary)
            self.summaries.append(summary)
            self.records.setdefault(name, record)

        return StepContext(
            execution_id=self.execution,
            workflow="test-1.0.0",
            step=name,
            phase=phase,
            attempt=attempt,
            epoch=1,
            dry_run=dry_run,
            first_started_at=datetime.now(UTC),
            limits=self.limits,
            requested_by=self.requested_by,
            log=log,
            capture=capture,
            captured=captured,
            originals=originals or {},
        )

    async def run(self, config: JsonObject, name: str = "step", **parameters: JsonValue) -> JsonObject:
        return await self.adapter.prepare(config, FixedScope(parameters)).run(self.context(name))

    async def again(self, config: JsonObject, name: str = "step", **parameters: JsonValue) -> JsonObject:
        """A later attempt of a step that has run: it is given what the first one captured."""
        context = self.context(name, captured=self.records.get(name), attempt=2)
        return await self.adapter.prepare(config, FixedScope(parameters)).run(context)

    async def plan(self, config: JsonObject, name: str = "step", **parameters: JsonValue) -> Plan:
        return await self.adapter.prepare(config, FixedScope(parameters)).plan(self.context(name, dry_run=True))

    async def undo(self, name: str = "step") -> JsonObject:
        return await self.adapter.undo(self.records[name], self.context(name, phase="rollback"))

    async def plan_undo(self, name: str = "step") -> Plan:
        return await self.adapter.plan_undo(self.records[name], self.context(name, phase="rollback", dry_run=True))

    @property
    def output(self) -> list[str]:
        """The lines that the steps passed on."""
        return [line for stream, line in self.lines if stream == "stdout"]


@asynccontextmanager
async def running_steps(api: K8sApi, tmp_path: Path) -> AsyncIterator[Steps]:
    """Steps on the server's cluster, with the adapter as the agent builds it."""
    adapter = build(SimpleNamespace(kubeconfig=str(api.kubeconfig(tmp_path / "config"))))
    try:
        yield Steps(adapter)
    finally:
        await adapter.aclose()


def available(api: K8sApi, name: str = "api") -> bool:
    """Whether a deployment's rollout is over and all its pods are ready."""
    item = api.get("Deployment", name)
    status, wanted = item.get("status", {}), item["spec"]["replicas"]
    seen = status.get("observedGeneration") == item["metadata"]["generation"]
    counts = {status.get(count) for count in ("updatedReplicas", "replicas", "availableReplicas")}
    return bool(seen and counts == {wanted})


async def rolled_out(api: K8sApi, name: str = "api", *, replicas: int = 3) -> None:
    """A deployment whose pods are all ready."""
    api.create("Deployment", "payments", deployment(name, replicas=replicas))
    await eventually(lambda: available(api, name))


def set_image(api: K8sApi, image: str, name: str = "api") -> None:
    """Someone deploys another image."""
    item = api.get("Deployment", name)
    changed = copy.deepcopy(item)
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = image
    api.store.update(BY_KIND["Deployment"], item, changed)


def deployment(name: str = "api", replicas: int = 3, image: str = "api:1", **spec: JsonValue) -> Object:
    """A deployment's manifest."""
    labels = {"app": name}
    containers: Sequence[Object] = [{"name": "main", "image": image}]
    template: Object = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template, **spec},
    }


def job(**metadata: JsonValue) -> Object:
    """A job's manifest."""
    spec = {"template": {"spec": {"containers": [{"name": "main", "image": "job:1"}], "restartPolicy": "Never"}}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
