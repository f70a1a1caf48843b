"""kubectl as the oracle, verb by verb: what it does, and what it refuses. The run ends with the table."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable

import pytest
from pydantic import JsonValue

from consumer.adapters.k8s import fields
from consumer.ports import JsonObject
from tests.kubernetes.rows import GROUP, WIDGETS, changing, empty, making, nodes, reading, rolling, waiting
from tests.support.control_plane.manifests import workload
from tests.support.eventually import eventually
from tests.support.oracle import PROPERTY, Entry, Oracle, Row

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]

Recorder = Callable[[str, object], None]
_FAMILIES = (
    *(rolling.restarts, rolling.scales, rolling.rollbacks),
    *(changing.marks, changing.patches),
    *(making.creations, making.applications, making.deletions),
    *(waiting.waits, waiting.rollouts, nodes.nodes, reading.reads),
)
ROWS = [row for family in _FAMILIES for row in family()]


async def widgets(oracle: Oracle) -> None:
    """Has the cluster serve the custom kind."""
    await oracle.make(WIDGETS)
    await oracle.kubectl("wait", f"crd/widgets.{GROUP}", "--for=condition=Established", "--timeout=60s")


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_the_adapter_does_what_kubectl_does(row: Row, oracle: Oracle, record_property: Recorder) -> None:
    said = ("", "")
    try:
        if row.kind == "widget":
            await widgets(oracle)
        said = await oracle.hold(row)
    finally:
        record_property(PROPERTY, Entry.of(row, said))
        if row.kind == "node":
            await oracle.kubectl("uncordon", *oracle.nodes)


PATHS = (
    "{.kind}",
    "{.spec.replicas}",
    "{.spec.template.spec.containers[0].image}",
    "{.spec.template.spec.containers[-1].name}",
    "{.spec.template.spec.containers[*].name}",
    "{.spec.template.spec.containers[0:1].name}",
    "{.spec.template.spec.containers[1:].name}",
    "{.spec.template.spec.containers[0:3:2].name}",
    "{.spec.template.spec.containers[0,2].name}",
    "{.spec.template.spec.containers[0]['name','image']}",
    '{.spec.template.spec.containers[?(@.name=="side")].image}',
    '{.spec.template.spec.containers[?(@.name!="side")].name}',
    "{.spec.template.spec.containers[?(@.env)].name}",
    '{.spec.template.spec.containers[?(@.image>="app:2")].name}',
    "{.spec.template.spec.containers[?(@.ports[0].containerPort>80)].name}",
    "{.spec.template.spec.containers[?(@.ports[0].containerPort==80)].name}",
    "{.spec.template.spec.containers[*].ports[*].containerPort}",
    "{..containerPort}",
    "{.spec..image}",
    "{.spec.template.metadata.labels.app}",
    "{.spec.template.metadata.labels}",
    r"{.metadata.annotations.example\.org/owner}",
    r"{.metadata.annotations['example\.org/owner']}",
    "{['metadata.name','spec.replicas']}",
    "{.spec.nothing.at.all}",
    "{.spec.template.spec.containers[?(@.name=='absent')].image}",
    "{.spec.paused}",
)


async def test_a_path_reads_what_kubectl_reads(oracle: Oracle, record_property: Recorder) -> None:
    row = Row(verb="get", kind="deployment", case=f"{len(PATHS)} JSONPaths", kubectl="", step={}, left="-")
    item = empty("deployment", paused=True)
    item["metadata"]["annotations"] = {"example.org/owner": "core"}
    more = [{"name": "side", "image": "app:2", "ports": [{"containerPort": 8080}]}, {"name": "last", "image": "app:3"}]
    containers = item["spec"]["template"]["spec"]["containers"]
    containers[0] |= {"ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "b"}]}
    containers += more
    try:
        await oracle.make(row.named(item))
        template = '{"\\n"}'.join(PATHS)
        said = await oracle.kubectl("-n", oracle.ours, "get", "deployment", row.name, "-o", f"jsonpath={template}")
        config: JsonObject = {"action": "get", "resource_type": "deployment", "name": row.name}
        found = [(await oracle.steps.run({**config, "field": path}))["value"] for path in PATHS]
        assert dict(zip(PATHS, map(printed, found), strict=True)) == dict(zip(PATHS, said.split("\n"), strict=True))
    finally:
        record_property(PROPERTY, Entry.of(row))


async def test_the_events_are_those_that_kubectl_names(oracle: Oracle, record_property: Recorder) -> None:
    row = Row(verb="events", kind="deployment", case="by name, of a pod, by selector, of none", kubectl="", step={})
    item = workload("Deployment", row.name, replicas=1)
    item["metadata"]["labels"] = {"pick": row.name}
    try:
        await oracle.make(item)
        await oracle.kubectl("-n", oracle.ours, "rollout", "status", f"deployment/{row.name}", "--timeout=60s")
        owned = ("get", "deployment,replicaset,pod", "-l", f"app={row.name}", "-o", "name")
        names = {row.name, *(await oracle.kubectl("-n", oracle.ours, *owned)).split()}
        pods = {name for name in names if name.startswith("pod/")}
        names = {name if "/" in name else f"deployment/{name}" for name in names}

        async def theirs(targets: Iterable[str]) -> set[tuple[str, ...]]:
            said = [await oracle.kubectl("-n", oracle.ours, "events", "--for", name, "-o", "json") for name in targets]
            found = [event for text in said for event in json.loads(text)["items"]]
            return {(event["type"], event["reason"], event["message"]) for event in found}

        async def ours(**config: JsonValue) -> set[tuple[str, ...]]:
            found = (await oracle.steps.run({"action": "events", "limit": 1000, **config}))["events"]
            assert isinstance(found, list)
            return {(str(e["type"]), str(e["reason"]), str(e["message"])) for e in found if isinstance(e, dict)}

        async def told() -> bool:  # events are written when there is time for it
            return {reason for _, reason, _ in await theirs(names)} >= {"ScalingReplicaSet", "SuccessfulCreate"}

        await eventually(told, timeout=60, interval=0.3)
        await eventually_same(lambda: theirs(names), lambda: ours(resource_type="deployment", name=row.name))
        await eventually_same(
            lambda: theirs(names), lambda: ours(resource_type="deployment", selector=f"pick={row.name}")
        )
        await eventually_same(lambda: theirs(pods), lambda: ours(name=next(iter(pods))))
        assert await ours(resource_type="deployment", selector="pick=nothing") == set()
    finally:
        record_property(PROPERTY, Entry.of(row))


async def eventually_same(theirs: Callable[[], Awaitable[object]], ours: Callable[[], Awaitable[object]]) -> None:
    """One more event may be written between the two looks."""

    async def alike() -> bool:
        return await theirs() == await ours()

    await eventually(alike, timeout=30, interval=0.2)


def printed(value: JsonValue) -> str:
    """The value as kubectl prints it; several ones with a space between."""
    if value is None:
        return ""
    return " ".join(map(fields.text_of, value)) if isinstance(value, list) else fields.text_of(value)


def test_each_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in ROWS]
    assert sorted(names) == sorted(set(names))
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?", name) for name in names)
