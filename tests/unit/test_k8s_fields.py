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
        ("spec.containers[0:1].name", ["a"]),
        ("spec.containers[-1:].name", ["b"]),
        ("spec.containers[::2].name", ["a"]),
        ("spec.containers[0]['name','image']", ["a", "a:1"]),
        ("spec.containers[1,0].name", ["b", "a"]),
        ("spec['containers.name']", None),
        ("['spec.replicas','metadata.annotations']", [3, {"a.b/c": "x"}]),
        ("..image", ["a:1", "b:1"]),
        ("spec..name", ["a", "b"]),
        ("..[0].type", ["Ready"]),
        ('status.conditions[?(@.type!="Ready")].type', "Available"),
        ("status.conditions[?(@.reason)].type", None),
        ("status.conditions[?(@.status)].type", ["Ready", "Available"]),
        ("status.conditions[?(@.type==@.status)].type", None),
        ("spec.containers[?(@['name']>\"a\")].image", "b:1"),
        ("[?(@.replicas>=3)].replicas", 3),
        ("[?(@.replicas<10)].replicas", 3),
    ],
)
def test_a_path_names_its_value(path: str, value: JsonValue) -> None:
    assert fields.value_of(ITEM, fields.parse(path)) == value


@pytest.mark.parametrize(
    "path",
    [
        "spec..",
        "spec[1:2:0]",
        "spec[?(replicas==3)]",
        "spec[,]",
        "spec[",
        "spec['a",
        "{.spec",
        "spec replicas]",
        "{range .items[*]}",
    ],
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
