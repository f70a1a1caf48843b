"""Metrics of pods and nodes through the API aggregation of a real API server, with `kubectl top` beside them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject
from tests.support.control_plane import Space
from tests.support.control_plane.manifests import pod, workload
from tests.support.k8s_page import sections
from tests.support.k8s_steps import Steps
from tests.support.metrics_api import MetricsApi, metrics_api

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]


@pytest.fixture
async def metrics(space: Space) -> AsyncIterator[MetricsApi]:
    """The metrics API, served while the test lasts."""
    async with metrics_api(space) as api:
        yield api


def shown(steps: Steps) -> dict[str, tuple[str, str]]:
    """CPU and memory by name, as the step's lines say them."""
    found = [re.fullmatch(r"(\S+): cpu (\S+), memory (\S+)", line) for line in steps.output]
    return {match[1]: (match[2], match[3]) for match in found if match is not None}


def top(output: str) -> dict[str, tuple[str, str]]:
    """The same of a table of `kubectl top`."""
    rows = [line.split() for line in output.splitlines()[1:]]
    return {row[0]: (row[1], next(cell for cell in row[2:] if cell.endswith("Mi"))) for row in rows}


async def test_the_metrics_of_pods_are_those_that_kubectl_shows(
    steps: Steps, space: Space, metrics: MetricsApi
) -> None:
    metrics.pods = {
        "api-1": {"main": ("12345678n", "35000Ki"), "proxy": ("250u", "1Mi")},
        "api-2": {"main": ("1", "1Gi"), "proxy": ("0", "0")},
    }
    await space.apply(pod("api-1"), pod("api-2"))

    made = await steps.run({"action": "metrics"})

    assert shown(steps) == top(await space("top", "pods"))
    assert made["resource"] == f"pods in namespace {space.name}" and made["count"] == 2
    assert made["cpu"] == pytest.approx(1.012595678) and made["memory"] == 35000 * 1024 + 2**20 + 2**30
    first = made["items"][0]
    assert first["name"] == "api-1" and first["cpu"] == pytest.approx(0.012595678)
    assert [each["name"] for each in first["containers"]] == ["main", "proxy"]


async def test_the_metrics_of_nodes_are_those_that_kubectl_shows(
    steps: Steps, space: Space, metrics: MetricsApi
) -> None:
    names = sorted(item["metadata"]["name"] for item in await space.kubectl.items("nodes"))
    metrics.nodes = {name: (f"{number}50m", f"{number}Gi") for number, name in enumerate(names, start=1)}

    made = await steps.run({"action": "metrics", "resource_type": "node"})

    assert shown(steps) == top(await space.kubectl("top", "nodes"))
    assert made["count"] == len(names)
    one = await steps.run({"action": "metrics", "resource_type": "node", "name": names[0]}, "one")
    assert one["cpu"] == 0.15 and one["memory"] == 2**30 and one["resource"] == f"node {names[0]}"


async def test_the_example_of_the_page_runs(steps: Steps, metrics: MetricsApi) -> None:
    (section,) = [each for each in sections() if each.action == "metrics"]
    metrics.pods = {"api-1": {"main": ("100m", "1Mi")}, "db": {"main": ("9", "9")}}
    metrics.labels = {"api-1": "api", "db": "db"}

    plan = await steps.plan(section.example)
    made = await steps.run(section.example)

    assert made["count"] == 1 and made["memory"] == 2**20
    assert section.undo.startswith("nothing") and not plan.changes and not steps.records


@pytest.mark.parametrize(
    "target",
    [{"selector": "app=api"}, {"resource_type": "deployment", "name": "api"}, {"name": "deployment/api"}],
)
async def test_the_pods_of_a_selector_or_a_workload_are_summed_up(
    steps: Steps, space: Space, metrics: MetricsApi, target: JsonObject
) -> None:
    metrics.pods = {"api-1": {"main": ("100m", "1Mi")}, "api-2": {"main": ("200m", "2Mi")}, "db": {"main": ("9", "9")}}
    metrics.labels = {"api-1": "api", "api-2": "api", "db": "db"}
    await space.apply(workload("Deployment", "api"))

    made = await steps.run({"action": "metrics", **target})

    assert made["count"] == 2 and made["cpu"] == pytest.approx(0.3) and made["memory"] == 3 * 2**20


@pytest.mark.parametrize("target", [{"name": "absent"}, {"selector": "app=absent"}])
async def test_what_has_no_metrics_yet_is_an_error_that_time_may_mend_and_no_sum_of_nothing(
    steps: Steps, metrics: MetricsApi, target: JsonObject
) -> None:
    with pytest.raises(TemporaryError, match=r"no metrics of .*absent") as caught:
        await steps.run({"action": "metrics", **target})
    assert caught.value.code == "no_metrics"
    assert not (await steps.plan({"action": "metrics", **target})).changes


@pytest.mark.parametrize(
    "target",
    [{}, {"name": "api"}, {"resource_type": "node"}, {"selector": "app=api"}],
)
async def test_a_cluster_without_the_metrics_api_is_named_with_the_remedy(steps: Steps, target: JsonObject) -> None:
    with pytest.raises(PermanentError, match="install metrics-server") as caught:
        await steps.run({"action": "metrics", **target})
    assert caught.value.code == "not_served"


async def test_a_kind_that_uses_nothing_is_refused(steps: Steps, metrics: MetricsApi) -> None:
    with pytest.raises(PermanentError, match="a service has no metrics"):
        await steps.run({"action": "metrics", "name": "service/api"})
