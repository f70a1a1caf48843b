"""Field paths as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from consumer.adapters.k8s import fields

ITEM: JsonValue = {
    "spec": {"replicas": 3, "containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]},
    "metadata": {"annotations": {"a.b/c": "x"}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Available", "status": "False"}]},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.replicas", 3),
        (".spec.replicas", 3),
        ("{.spec.replicas}", 3),
        ("$.spec.replicas", 3),
        ("spec.containers[0].image", "a:1"),
        ("spec.containers[-1].image", "b:1"),
        ("spec.containers[*].name", ["a", "b"]),
        ("metadata.annotations['a.b/c']", "x"),
        ('metadata.annotations["a.b/c"]', "x"),
        ("metadata.annotations.a\\.b/c", "x"),
        ('status.conditions[?(@.type=="Ready")].status', "True"),
        ("status.conditions[?(@.type=='Gone')].status", None),
        ("spec.nothing.at.all", None),
        ("spec.containers[7]", None),
        ("spec.containers.name", None),
        (".", ITEM),
    ],
)
def test_a_path_names_its_value(path: str, value: JsonValue) -> None:
    assert fields.value_of(ITEM, fields.parse(path)) == value


@pytest.mark.parametrize(
    "path", ["spec..replicas", "spec[", "spec['a", "{.spec", "spec replicas]", "{range .items[*]}"]
)
def test_what_is_no_path_is_refused_with_the_remedy(path: str) -> None:
    with pytest.raises(ValueError, match=r"is no field path .* write a path like"):
        fields.parse(path)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=30))
def test_any_text_is_a_path_or_refused(text: str) -> None:
    try:
        path = fields.parse(text)
    except ValueError:
        return
    fields.value_of(ITEM, path)
