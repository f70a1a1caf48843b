"""Who set a field, by managedFields, and what of them is given up or back."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from consumer.adapters.k8s import owners
from consumer.ports import JsonObject
from tests.support.k8s_patch import json_patch


def entry(manager: str, fields: JsonObject, operation: str = "Update", subresource: str = "") -> JsonObject:
    made: JsonObject = {"manager": manager, "operation": operation, "time": f"2026-01-0{len(manager)}T00:00:00Z"}
    return {**made, "fieldsV1": fields, **({"subresource": subresource} if subresource else {})}


def item(*entries: JsonObject) -> JsonObject:
    containers: JsonValue = [{"name": "side", "image": "s:1"}, {"name": "main", "image": "m:1", "args": ["a", "b"]}]
    return {
        "metadata": {"managedFields": list(entries), "finalizers": ["x", "y"]},
        "spec": {"replicas": 3, "containers": containers, "selector": {"a": "b"}},
    }


MAIN: JsonObject = {"f:spec": {"f:containers": {'k:{"name":"main"}': {".": {}, "f:image": {}, "f:args": {}}}}}


@pytest.mark.parametrize(
    ("fields", "path", "owned"),
    [
        ({"f:spec": {"f:replicas": {}}}, ("spec", "replicas"), True),
        ({"f:spec": {"f:replicas": {}}}, ("spec", "paused"), False),
        ({"f:spec": {"f:selector": {}}}, ("spec", "selector", "a"), True),  # as a whole
        (MAIN, ("spec", "containers", 1, "image"), True),
        (MAIN, ("spec", "containers", 1, "args", 0), True),
        (MAIN, ("spec", "containers", 0, "image"), False),
        (MAIN, ("spec", "containers"), True),
        ({"f:metadata": {"f:finalizers": {'v:"y"': {}}}}, ("metadata", "finalizers", 1), True),
        ({"f:metadata": {"f:finalizers": {'v:"y"': {}}}}, ("metadata", "finalizers", 0), False),
    ],
)
def test_the_owner_of_a_field_is_who_has_it_or_what_it_is_in(
    fields: JsonObject, path: tuple[str | int, ...], *, owned: bool
) -> None:
    found = owners.owner(item(entry("ann", fields)), path)
    assert found == ("ann at 2026-01-03T00:00:00Z" if owned else None)


def test_of_several_owners_the_last_is_named_and_how_he_came_to_it() -> None:
    fields: JsonObject = {"f:spec": {"f:replicas": {}}}
    found = owners.owner(item(entry("robert", fields, subresource="scale"), entry("ann", fields)), ("spec", "replicas"))
    assert found == "robert through scale at 2026-01-06T00:00:00Z"


def test_controllers_the_status_and_the_agent_itself_are_no_others() -> None:
    fields: JsonObject = {"f:spec": {}}
    ours = (
        entry("wpk-agent", fields),
        entry("kube-controller-manager", fields),
        entry("x", fields, "Update", "status"),
    )
    assert owners.others(item(*ours)) == []
    assert owners.others(item(*ours, entry("ann", fields))) == ["ann at 2026-01-03T00:00:00Z"]


def test_what_was_ours_by_apply_is_so_again_and_no_longer_by_an_update() -> None:
    before = entry("wpk-agent", {"f:data": {"f:a": {}, "f:b": {}}}, "Apply")
    now = entry("wpk-agent", {"f:data": {"f:a": {}}}, "Apply")
    update = entry("wpk-agent", {"f:data": {".": {}, "f:b": {}}, "f:spec": {"f:c": {}}})
    found = item(now, entry("ann", {"f:spec": {}}), update)
    patched = json_patch(found, owners.given_back(found, before))
    assert isinstance(patched, dict)
    applied, ann, rest = owners.entries(patched)
    assert applied["fieldsV1"] == before["fieldsV1"]
    assert ann["manager"] == "ann"
    assert rest["fieldsV1"] == {"f:spec": {"f:c": {}}}
    assert owners.given_back(patched, before) == []


def test_what_is_ours_by_apply_is_given_up_unless_nobody_else_owns_anything() -> None:
    ours = entry("wpk-agent", {"f:data": {"f:a": {}}}, "Apply")
    found = item(entry("ann", {}), ours)
    patched = json_patch(found, owners.given_up(found))
    assert isinstance(patched, dict)
    assert [each["manager"] for each in owners.entries(patched)] == ["ann"]
    assert owners.given_up(item(ours)) == []


def test_fields_go_back_to_who_owned_them_and_what_was_ours_before_stays_ours() -> None:
    ours: JsonObject = {"f:spec": {"f:replicas": {}}}
    theirs: JsonObject = {"f:spec": {"f:containers": {'k:{"name":"main"}': {".": {}, "f:image": {}, "f:args": {}}}}}
    image: JsonObject = {"f:spec": {"f:containers": {'k:{"name":"main"}': {"f:image": {}}}}}
    left: JsonObject = {"f:spec": {"f:containers": {'k:{"name":"main"}': {".": {}, "f:args": {}}}}}
    both: JsonObject = {"f:spec": {**ours["f:spec"], **image["f:spec"]}}  # type: ignore[dict-item]
    deployer, agent = entry("deployer", theirs, "Apply"), entry("wpk-agent", ours)
    now = item(entry("deployer", left, "Apply"), entry("wpk-agent", both))
    after = json_patch(now, owners.returned(now, [deployer, agent]))
    assert owners.entries(after) == [deployer, agent]
    assert owners.returned(after, [deployer, agent]) == []


def test_an_owner_who_has_nothing_left_comes_back_and_we_go() -> None:
    deployer = entry("deployer", MAIN, "Apply")
    now = item(entry("wpk-agent", MAIN))
    assert owners.entries(json_patch(now, owners.returned(now, [deployer]))) == [deployer]


def test_what_somebody_else_owns_now_is_not_taken_from_them() -> None:
    now = item(entry("other", MAIN), entry("wpk-agent", {"f:spec": {"f:paused": {}}}))
    assert owners.returned(now, [entry("deployer", MAIN, "Apply")]) == []
