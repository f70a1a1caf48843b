"""A package's resource_limits: what its steps reach beyond them is told before, or refused when it is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from consumer.adapters.k8s import build
from consumer.policy import load
from consumer.workflow import checks
from consumer.workflow.limits import Extent
from consumer.workflow.scope import Scope
from schemas.events import Status
from tests.support.engine_house import house, package, probe_module, step

Config = dict[str, Any]
K8S = {"k8s": build(SimpleNamespace(kubeconfig=None))}

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "b"}}


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


def errors(limits: dict[str, int], *configs: Config, **parameters: Any) -> dict[str, str]:
    """What is wrong with a package of those k8s steps, by path."""
    steps = [{"name": f"s{index}", "type": "k8s", "config": config} for index, config in enumerate(configs)]
    wpk = {"metadata": {"name": "w"}, "spec": {"handlers": steps, "validation": {"resource_limits": limits}}}
    return {error.path: error.message for error in checks.check_package(wpk, parameters, K8S).errors}


def restart(**target: Any) -> Config:
    return {"action": "restart", "name": "api", **target}


def test_the_step_that_leads_into_one_namespace_too_many_is_named() -> None:
    three = (restart(namespace="a"), restart(namespace="b"), restart(namespace="a"), restart(namespace="c"))
    found = errors({"max_namespaces": 2}, *three)
    assert list(found) == ["spec.handlers[3].config"]
    assert "3 namespaces (a, b, c)" in found["spec.handlers[3].config"]
    assert "max_namespaces is 2" in found["spec.handlers[3].config"]
    assert errors({"max_namespaces": 3}, *three) == {}
    assert errors({}, *three) == {}


@pytest.mark.parametrize(
    ("config", "counted"),
    [
        pytest.param(restart(), True, id="the connection's own"),
        pytest.param(restart(namespace="${where}"), True, id="a parameter's"),
        pytest.param(
            {"action": "apply", "manifest": {"kind": "Pod", "metadata": {"namespace": "b"}}}, True, id="apply"
        ),
        pytest.param(
            {"action": "get", "resource_type": "widgets.shop", "namespace": "b"}, True, id="a kind of its own"
        ),
        pytest.param({"action": "get", "resource_type": "widgets.shop"}, False, id="perhaps it lives in none"),
        pytest.param({"action": "cordon", "name": "node-1", "namespace": "b"}, False, id="a node lives in none"),
        pytest.param(restart(namespace="${steps.s0.output.where}"), False, id="not known yet"),
        pytest.param({"action": "metrics", "query": "up"}, False, id="Prometheus"),
    ],
)
def test_what_counts_as_a_namespace(config: Config, counted: bool) -> None:
    found = errors({"max_namespaces": 1}, restart(namespace="a"), config, where="b")
    limits = [path for path, message in found.items() if "max_namespaces" in message]
    assert limits == (["spec.handlers[1].config"] if counted else [])


@pytest.mark.parametrize(
    "config",
    [
        {"action": "scale", "name": "api", "replicas": 5},
        {"action": "scale", "name": "api", "replicas": "${number}"},
        {"action": "create", "manifest": {"kind": "Deployment", "spec": {"replicas": 5}}},
        {"action": "apply", "manifest": [{"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 5}}]},
        {"action": "patch", "name": "deployment/api", "data": {"spec": {"replicas": 5}}},
        {"action": "patch", "name": "deployment/api", "patch": {"spec": {"replicas": 5}}},
        {"action": "patch", "name": "deployment/api", "data": [{"op": "add", "path": "/spec/replicas", "value": 5}]},
    ],
    ids=lambda config: f"{config['action']} {len(str(config))}",
)
def test_replicas_over_the_limit_are_told_in_validation(config: Config) -> None:
    found = errors({"max_replicas": 4}, config, number=5)
    assert "5 replicas, but resource_limits.max_replicas is 4" in found["spec.handlers[0].config"]
    assert errors({"max_replicas": 5}, config, number=5) == {}


class Placed:
    """The probe, whose steps work in the namespace that their first line names."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def extent(self, config: Config, scope: Scope) -> Extent:
        bound = checks.values.substitute(config, scope)
        lines = bound.value["lines"] if isinstance(bound.value, dict) else None
        known = isinstance(lines, list) and not bound.unknown
        return Extent(namespaces=frozenset({str(lines[0])} if known and isinstance(lines, list) else ()))


def in_a_namespace(name: str, where: str, **more: Any) -> dict[str, Any]:
    return {**step(name, {"lines": [where], **more}), "type": "placed"}


@pytest.mark.parametrize(("second", "status"), [("shop", Status.COMPLETED), ("bank", Status.FAILED)])
async def test_a_namespace_that_only_an_earlier_step_tells_counts_when_it_is_known(
    probe: Any, second: str, status: Status
) -> None:
    wpk = package(
        in_a_namespace("a", "shop", output={"next": second}),
        in_a_namespace("b", "${steps.a.output.next}"),
        validation={"resource_limits": {"max_namespaces": 1}},
    )
    async with house(probe, adapters={"placed": Placed(probe.build(None))}) as running:
        await running.execute(wpk)
        state = await running.over()
        assert state.status is status
        assert (probe.seen["e1"].effects[-1] == "run b 1") is (status is Status.COMPLETED)
        if status is Status.FAILED:
            assert state.steps["b"].error is not None
            assert state.steps["b"].error.type == "limit"


async def test_a_limit_of_the_policy_is_told_before_anything_runs(probe: Any) -> None:
    rules = load.parse(
        "version: 1\nrules:\n  - {name: all, effect: allow}\n"
        "requirements:\n  - {name: narrow, limits: {max_namespaces: 1}}",
        "p.yaml",
    )
    async with house(probe, policy=rules, adapters={"placed": Placed(probe.build(None))}) as running:
        await running.execute(package(in_a_namespace("a", "shop"), in_a_namespace("b", "bank")))
        state = await running.over()
        assert state.status is Status.REJECTED
        assert "max_namespaces is 1" in str(state.error_message)
        assert "e1" not in probe.seen or not probe.seen["e1"].effects
