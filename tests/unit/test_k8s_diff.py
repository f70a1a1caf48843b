"""The difference between two states of an object, and the way back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.adapters.k8s import diff
from consumer.ports import JsonObject
from schemas.canonical import canonical
from tests.support.k8s_patch import PatchError, json_patch

LEAVES = st.one_of(st.integers(-3, 3), st.booleans(), st.sampled_from(["a", "b", ""]))
NAMES = st.sampled_from(["a", "b", "c/d", "e~f", "g.h"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)


@settings(deadline=None, max_examples=100)
@given(OBJECTS, OBJECTS)
def test_taking_back_all_changes_gives_what_was_before(before: JsonObject, after: JsonObject) -> None:
    changes = diff.of_values(before, after)
    operations, others = diff.reverse(after, changes)
    assert others == []
    assert canonical(json_patch(after, operations)) == canonical(before)


@settings(deadline=None, max_examples=100)
@given(OBJECTS, OBJECTS)
def test_taking_back_twice_does_nothing_the_second_time(before: JsonObject, after: JsonObject) -> None:
    changes = diff.of_values(before, after)
    operations, _ = diff.reverse(before, changes)
    assert operations == []


@settings(deadline=None, max_examples=50)
@given(OBJECTS)
def test_an_object_has_no_difference_from_itself(value: JsonObject) -> None:
    assert diff.of_values(value, value) == []


def test_a_change_that_someone_made_since_is_kept_and_named() -> None:
    changes = diff.of_values({"a": 1, "b": 1}, {"a": 2, "b": 2})
    operations, others = diff.reverse({"a": 3, "b": 2}, changes)
    assert [diff.dotted(diff.path_of(change)) for change in others] == ["a"]
    assert json_patch({"a": 3, "b": 2}, operations) == {"a": 3, "b": 1}


def test_a_change_that_someone_made_since_is_overwritten_only_where_that_is_wanted() -> None:
    changes = diff.of_values({"a": 1}, {"a": 2})
    operations, others = diff.reverse({"a": 3}, changes, overwrite=True)
    assert len(others) == 1
    assert json_patch({"a": 3}, operations) == {"a": 1}


def test_a_parent_that_came_with_a_change_goes_with_it_unless_someone_has_put_more_into_it() -> None:
    changes = diff.of_values({}, {"spec": {"a": {"b": 1}}})
    alone, _ = diff.reverse({"spec": {"a": {"b": 1}}}, changes)
    assert json_patch({"spec": {"a": {"b": 1}}}, alone) == {}
    shared, _ = diff.reverse({"spec": {"a": {"b": 1, "c": 2}}}, changes)
    assert json_patch({"spec": {"a": {"b": 1, "c": 2}}}, shared) == {"spec": {"a": {"c": 2}}}


def test_an_empty_object_that_says_something_comes_back() -> None:
    before: JsonObject = {"volume": {"emptyDir": {}}}
    after: JsonObject = {"volume": {"configMap": {"name": "a"}}}
    operations, _ = diff.reverse(after, diff.of_values(before, after))
    assert json_patch(after, operations) == before


def test_an_item_of_a_list_that_went_away_is_left_and_named() -> None:
    changes = diff.of_values({"a": [{"b": 1}]}, {"a": [{}]})
    operations, others = diff.reverse({"a": []}, changes)
    assert operations == []
    assert len(others) == 1


def test_what_controllers_write_into_annotations_is_no_difference() -> None:
    follows: JsonObject = {"deprecated.daemonset.template.generation": "2", "deployment.kubernetes.io/revision": "2"}
    assert diff.between({"metadata": {"annotations": {}}}, {"metadata": {"annotations": follows}}) == []


def test_the_patch_back_fails_where_the_object_changes_before_it_arrives() -> None:
    operations, _ = diff.reverse({"a": 2}, diff.of_values({"a": 1}, {"a": 2}))
    with pytest.raises(PatchError, match="test failed"):
        json_patch({"a": 3}, operations)


def test_several_fields_come_back_into_a_parent_that_went_away() -> None:
    before: JsonObject = {"metadata": {"labels": {"a": "1", "b": "2"}}}
    operations, others = diff.reverse({"metadata": {}}, diff.of_values(before, {"metadata": {}}))
    assert others == []
    assert json_patch({"metadata": {}}, operations) == before


def test_what_only_the_server_sets_is_no_difference() -> None:
    before: JsonObject = {"metadata": {"resourceVersion": "1", "generation": 1}, "status": {"a": 1}, "spec": {"x": 1}}
    after: JsonObject = {"metadata": {"resourceVersion": "2", "generation": 2}, "status": {"a": 2}, "spec": {"x": 1}}
    assert diff.between(before, after) == []


def test_the_values_of_a_secret_are_never_shown() -> None:
    old: JsonObject = {"data": {"password": "b2xk"}, "metadata": {"annotations": {diff.LAST_APPLIED: "b2xk"}}}
    new: JsonObject = {"data": {"password": "bmV3"}, "metadata": {"annotations": {diff.LAST_APPLIED: "bmV3"}}}
    shown = diff.shown(diff.between(old, new), secret=True)
    assert {"path": "data.password", "from": "***", "to": "***"} in shown
    assert "b2xk" not in str(shown)
    masked = diff.masked({"kind": "Secret", **new})
    assert "bmV3" not in str(masked)


def test_a_path_is_written_as_users_write_it() -> None:
    assert diff.dotted(("spec", "containers", 0, "image")) == "spec.containers[0].image"
    assert diff.dotted(("metadata", "annotations", "a.b/c")) == "metadata.annotations['a.b/c']"
    assert diff.pointer(("a/b", "c~d", 0)) == "/a~1b/c~0d/0"
