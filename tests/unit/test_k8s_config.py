"""What a k8s step's config may say, and what the command's parameters add to it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from consumer.adapters.k8s import build
from consumer.adapters.k8s.adapter import _ACTIONS
from consumer.adapters.k8s.config import MODELS, K8sConfig, complete
from consumer.errors import ConfigError
from consumer.ports import JsonObject
from tests.support.k8s_steps import FixedScope


def problems(config: JsonObject, unknown: frozenset[str] = frozenset(), **parameters: str) -> dict[str, str]:
    """What is wrong, by path."""
    found = build(SimpleNamespace(kubeconfig=None)).check(config, FixedScope(parameters, unknown))
    return {problem.path: problem.message for problem in found}


def test_importing_the_adapter_does_not_import_the_client_library() -> None:
    code = (
        "import sys; from consumer.adapters.k8s import build; build(object()); "
        "sys.exit('kubernetes_asyncio' in sys.modules or 'aiohttp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_each_action_has_what_it_is_made_by() -> None:
    assert set(MODELS.values()) == set(_ACTIONS)


def test_an_unknown_action_and_a_missing_one_are_refused() -> None:
    assert "is no action" in problems({"action": "explode"})["action"]
    assert "is missing" in problems({})["action"]
    with pytest.raises(ConfigError, match="is no action"):
        build(object()).prepare({"action": "explode"}, FixedScope())


def test_an_unknown_field_is_an_error_as_it_may_have_made_the_step_safe() -> None:
    found = problems({"action": "restart", "name": "api", "grace_perod": "5s"})
    assert list(found) == ["grace_perod"]


def test_all_problems_are_told_at_once() -> None:
    found = problems({"action": "scale", "replicas": -1, "max_replicas": "many"})
    assert set(found) >= {"name", "replicas", "max_replicas"} or set(found) >= {"name", "max_replicas"}


def test_a_target_that_only_a_later_moment_tells_is_no_problem() -> None:
    assert problems({"action": "scale", "replicas": "${replicas}"}, frozenset({"replicas", "name"})) == {}


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"action": "restart"}, "name"),
        ({"action": "restart", "name": "a", "selector": "b=c"}, "selector"),
        ({"action": "restart", "name": "a", "resource_name": "b"}, "resource_name"),
        ({"action": "scale", "name": "a"}, "replicas"),
        ({"action": "scale", "name": "a", "replicas": 1, "scale_factor": 2}, "replicas"),
        ({"action": "patch", "name": "a", "data": {}}, "resource_type"),
        ({"action": "annotate", "name": "deployment/a"}, "annotation"),
        ({"action": "annotate", "name": "deployment/a", "annotation": "x"}, "value"),
        ({"action": "label", "name": "deployment/a", "value": "x"}, "label"),
        (
            {"action": "annotate", "resource_type": "pod", "selector": "a=b", "annotation": "x", "value": "increment"},
            "selector",
        ),
        ({"action": "get", "resource_type": "pod", "field": "a.."}, "field"),
        ({"action": "logs", "name": "pod/api", "duration": "30s"}, "duration"),
        ({"action": "create", "manifest": "kind: Pod"}, "manifest"),
        ({"action": "cordon"}, "name"),
        ({"action": "metrics", "query": "up", "name": "a"}, "name"),
        ({"action": "job"}, "manifest"),
        ({"action": "job", "manifest": {}, "template": "x"}, "manifest"),
        ({"action": "job", "manifest": {"kind": "Pod"}}, "manifest.kind"),
        ({"action": "job", "template": "x", "resource_type": "pod"}, "resource_type"),
        ({"action": "drain", "name": "node-1", "resource_type": "pod"}, "resource_type"),
    ],
)
def test_fields_that_contradict_or_lack_each_other_are_named(config: JsonObject, path: str) -> None:
    assert path in problems(config)


@pytest.mark.parametrize(
    ("config", "parameters", "added"),
    [
        ({"action": "restart"}, {"name": "api"}, {"name": "${parameters.name}"}),
        ({"action": "restart"}, {"resource_name": "api"}, {"name": "${parameters.resource_name}"}),
        (
            {"action": "restart"},
            {"deployment": "api", "name": "other"},
            {"resource_type": "deployment", "name": "${parameters.deployment}"},
        ),
        ({"action": "logs"}, {"pod": "p"}, {"resource_type": "pod", "name": "${parameters.pod}"}),
        (
            {"action": "wait", "resource_type": "job"},
            {"job": "j", "deployment": "d"},
            {"resource_type": "job", "name": "${parameters.job}"},
        ),
        (
            {"action": "drain"},
            {"deployment": "d", "node": "n"},
            {"resource_type": "node", "name": "${parameters.node}"},
        ),
        ({"action": "logs"}, {"selector": "app=x"}, {"selector": "${parameters.selector}"}),
        ({"action": "logs", "name": "x"}, {"selector": "app=x"}, {}),
        ({"action": "scale"}, {"selector": "app=x"}, {"selector": "${parameters.selector}"}),
        ({"action": "create", "manifest": {}}, {"selector": "app=x"}, {}),
        ({"action": "job", "template": "t"}, {"job": "j", "name": "n"}, {}),
        ({"action": "metrics", "query": "up"}, {"deployment": "d", "selector": "app=x"}, {}),
        (
            {"action": "metrics"},
            {"deployment": "d"},
            {"resource_type": "deployment", "name": "${parameters.deployment}"},
        ),
        ({"action": "get", "resource_type": "secret", "name": "s"}, {"name": ""}, {}),
        ({"action": "restart", "name": "x"}, {"namespace": "n"}, {"namespace": "${parameters.namespace}"}),
        ({"action": "restart", "name": "x", "namespace": "m"}, {"namespace": "n"}, {}),
    ],
)
def test_parameters_give_the_target_where_the_step_names_none(
    config: JsonObject, parameters: dict[str, str], added: JsonObject
) -> None:
    assert complete(config, FixedScope(parameters)) == {**config, **added}


def test_a_parameters_value_stays_data_even_where_it_looks_like_a_placeholder() -> None:
    action = build(object()).prepare({"action": "restart"}, FixedScope({"name": "${HOME}"}))
    assert action.config.name == "${HOME}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("alias", ["name", "resource_name", "resource"])
def test_the_name_has_three_spellings(alias: str) -> None:
    assert problems({"action": "restart", alias: "api"}) == {}


def test_only_what_can_be_made_twice_without_harm_is_repeatable() -> None:
    adapter = build(object())

    def repeatable(config: JsonObject) -> bool:
        return adapter.prepare({"name": "deployment/api", **config}, FixedScope()).repeatable

    assert repeatable({"action": "scale", "scale_factor": 2})
    assert repeatable({"action": "restart"})
    assert repeatable({"action": "patch", "data": {"spec": {}}})
    assert repeatable({"action": "patch", "data": [{"op": "replace", "path": "/a", "value": 1}]})
    assert not repeatable({"action": "patch", "data": [{"op": "add", "path": "/a/-", "value": 1}]})
    assert not repeatable({"action": "patch", "data": [{"op": "remove", "path": "/a/0"}]})
    assert repeatable({"action": "annotate", "annotation": "a", "value": "1"})
    assert not repeatable({"action": "annotate", "annotation": "a", "value": "increment"})


def test_a_wait_says_how_long_it_may_take() -> None:
    adapter = build(object())
    wait = adapter.prepare({"action": "wait", "name": "api", "timeout": "5m"}, FixedScope())
    scale = adapter.prepare({"action": "scale", "name": "api", "replicas": 1}, FixedScope())
    assert (wait.time_limit, scale.time_limit) == (300.0, None)


def test_the_schema_knows_every_action() -> None:
    schema = K8sConfig.model_json_schema()
    assert set(schema["discriminator"]["mapping"]) == set(MODELS)
