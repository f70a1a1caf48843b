"""Which rights the actions need, and what a package says of them. What the server says is in tests/kubernetes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from consumer.adapters.k8s import build, kinds, preflight, rights, roles
from consumer.adapters.k8s.config import MODELS
from consumer.adapters.k8s.rights import Target
from consumer.ports import JsonObject, Rights
from consumer.workflow.checks import check_package
from tests.support.k8s_page import sections
from tests.support.k8s_steps import FixedScope


def needed(action: str, kind: kinds.Kind | None, *, name: str = "api", selected: bool = False) -> list[str]:
    target = Target(action=action, kind=kind, namespace="shop", name="" if selected else name, selected=selected)
    return [str(right) for right in rights.needed(target) if not right.optional]


def missing(config: JsonObject, *declared: str, undone: bool = False, **parameters: str) -> list[str]:
    adapter = build(SimpleNamespace())
    assert isinstance(adapter, Rights)
    return list(adapter.undeclared(config, FixedScope(parameters), declared, undone=undone))


def test_every_action_says_what_it_needs() -> None:
    for action in MODELS:
        for kind in (kinds.POD, kinds.DEPLOYMENT, kinds.NODE):
            assert rights.needed(Target(action=action, kind=kind, name="a")), action


@pytest.mark.parametrize(
    ("action", "kind", "expected"),
    [
        ("scale", kinds.DEPLOYMENT, ["get deployments.apps/scale in namespace shop"]),
        ("restart", kinds.POD, ["delete pods in namespace shop"]),
        ("rollback", kinds.STATEFULSET, ["list controllerrevisions.apps in namespace shop"]),
        ("drain", kinds.NODE, ["create pods/eviction", "list pods", "get daemonsets.apps", "patch nodes"]),
        ("logs", kinds.DEPLOYMENT, ["get pods/log in namespace shop", "list pods in namespace shop"]),
    ],
)
def test_the_rights_of_an_action_are_those_of_what_it_sends(action: str, kind: kinds.Kind, expected: list[str]) -> None:
    assert set(expected) <= set(needed(action, kind))


def test_what_a_selector_finds_is_listed_and_what_a_name_finds_is_got() -> None:
    assert needed("restart", kinds.DEPLOYMENT)[0] == "get deployments.apps in namespace shop"
    assert needed("restart", kinds.DEPLOYMENT, selected=True)[0] == "list deployments.apps in namespace shop"


def test_undo_needs_what_brings_the_old_state_back() -> None:
    created = Target(action="create", kind=kinds.DEPLOYMENT, namespace="shop", name="api")
    deleted = Target(action="delete", kind=kinds.DEPLOYMENT, namespace="shop", name="api")
    assert [right.verb for right in rights.needed_to_undo(created)] == ["delete"]
    assert [right.verb for right in rights.needed_to_undo(deleted)] == ["create"]


def test_permissions_are_compared_as_packages_write_them() -> None:
    restart: JsonObject = {"action": "restart", "name": "api"}
    logs: JsonObject = {"action": "logs", "resource_type": "pod", "name": "api"}
    for declared in ("deployments/patch", "deployments.apps/patch", "deployments/*", "*", "Deployments/patch"):
        assert missing(restart, declared) == [], declared
    assert missing(restart, "deployments/get", "deployments/scale") == ["deployments/patch"]
    assert missing(logs, "pods/log") == [] == missing(logs, "pods/log/get")
    assert missing(logs, "pods/get") == ["pods/log"]
    assert missing({"action": "scale", "name": "api", "replicas": 1}, "deployments/patch") == ["deployments/scale"]


def test_undo_counts_only_where_a_rollback_would_use_it() -> None:
    manifest: JsonObject = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}}
    config: JsonObject = {"action": "create", "manifest": manifest}
    assert missing(config, "jobs/create") == []
    assert missing(config, "jobs/create", undone=True) == ["jobs/delete"]


def test_a_kind_that_only_the_cluster_knows_is_not_guessed() -> None:
    assert missing({"action": "get", "resource_type": "widget", "name": "a"}, "pods/log") == []


def test_what_a_package_lacks_is_a_warning_and_a_package_that_names_nothing_says_nothing() -> None:
    handlers = [{"name": "go", "type": "k8s", "config": {"action": "restart", "name": "api"}}]
    document: JsonObject = {"metadata": {"name": "p"}, "spec": {"handlers": list(handlers)}}
    adapters = {"k8s": build(SimpleNamespace())}
    assert check_package(document, {}, adapters).problems == ()

    spec = {"handlers": list(handlers), "validation": {"required_permissions": ["deployments/get"]}}
    (problem,) = check_package({**document, "spec": spec}, {}, adapters).problems
    assert problem.severity == "warning" and problem.path == "spec.validation.required_permissions"
    assert problem.message == 'lacks "deployments/patch", which the step "go" needs'


def test_the_roles_of_the_deployment_are_made_from_the_table() -> None:
    path = Path(__file__).parents[2] / "deploy" / "kubernetes" / "roles.yaml"
    assert path.read_text() == roles.manifest(), "python -m consumer.adapters.k8s.roles > deploy/kubernetes/roles.yaml"


def test_each_action_is_in_a_role_and_no_role_has_everything() -> None:
    granted = {action for role in roles.ROLES for action, _ in role.steps}
    assert granted == set(MODELS)
    rules = [rule for role in roles.ROLES for rule in roles.rules(role)]
    assert not any("*" in (*rule["verbs"], *rule["resources"], *rule["apiGroups"]) for rule in rules)


def test_the_page_has_each_action_with_an_example_that_is_valid_and_the_rights_of_the_table() -> None:
    adapter = build(SimpleNamespace())
    page = sections()
    assert {section.action for section in page} == set(MODELS)
    for section in page:
        assert section.example["action"] == section.action
        assert adapter.check(section.example, FixedScope()) == [], section.action
        (wanted,) = preflight.read(section.example, FixedScope())
        target = wanted.target(kinds.built_in(str(wanted.word)), None)
        assert section.rights == {str(right) for right in rights.needed(target) if not right.optional}, section.action
        assert section.undo
