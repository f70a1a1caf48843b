"""Rows of the verbs that change fields: annotate, label, patch."""

from __future__ import annotations

from collections.abc import Iterator

from consumer.ports import JsonObject
from tests.kubernetes.rows import (
    WIDGET,
    config_map,
    empty,
    marked,
    picked,
)
from tests.support.control_plane.manifests import Object
from tests.support.oracle import NAME, Row


def marks() -> Iterator[Row]:
    objects: dict[str, Object] = {
        "configmap": config_map(),
        "deployment": empty("deployment"),
        "secret": {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME}},
        "widget": WIDGET,
    }
    for verb, part, there in (("annotate", "annotations", "team"), ("label", "labels", "tier")):
        blue: JsonObject = {part: {"color": "blue"}}
        new: list[tuple[str, str, str, JsonObject, str]] = [(kind, "new", "color=blue", blue, "") for kind in objects]
        cases: list[tuple[str, str, str, JsonObject, str]] = [
            *new,
            ("configmap", "other value", f"{there}=x --overwrite", {part: {there: "x"}}, ""),
            ("configmap", "removed", f"{there}-", {part: {there: None}}, ""),
            ("configmap", "removed where there is none", "absent-", {part: {"absent": None}}, ""),
            ("configmap", "no overwrite", f"{there}=x", {part: {there: "x"}, "overwrite": False}, "already_exists"),
            ("configmap", "not its name", "a/b/c=x", {part: {"a/b/c": "x"}}, "invalid"),
        ]
        for kind, case, argument, config, code in cases:
            yield Row(
                verb=verb,
                kind=kind,
                case=case,
                given=(marked(objects[kind]),),
                kubectl=f"{verb} {kind}/NAME {argument}",
                step={"action": verb, "resource_type": kind, "name": NAME, **config},
                refused=code,
            )
        yield Row(
            verb=verb,
            kind="configmap",
            case="missing",
            kubectl=f"{verb} configmap/NAME a=b",
            step={"action": verb, "resource_type": "configmap", "name": NAME, part: {"a": "b"}},
            refused="not_found",
        )
        selected: list[tuple[str, str, JsonObject, str]] = [
            ("by selector", "color=blue pick-", {part: {"color": "blue", "pick": None}}, ""),
            ("by selector, no overwrite", "tier=x", {part: {"tier": "x"}, "overwrite": False}, "already_exists"),
        ]
        for case, argument, config, code in selected[: 1 if verb == "annotate" else 2]:
            twins = picked(config_map())
            for twin, own in zip(twins, ({}, {"tier": "gold"}), strict=True):
                twin["metadata"]["labels"] |= {"keep": NAME, **own}
            yield Row(
                verb=verb,
                kind="configmap",
                case=case,
                given=twins,
                kubectl=f"{verb} configmap -l keep=NAME {argument}",
                step={"action": verb, "resource_type": "configmap", "selector": f"keep={NAME}", **config},
                left=f"configmap {NAME}-2" if code else "configmap -l keep=NAME",
                refused=code,
            )
    yield Row(
        verb="label",
        kind="configmap",
        case="not its value",
        given=(config_map(),),
        kubectl="label configmap/NAME 'a=two words'",
        step={"action": "label", "resource_type": "configmap", "name": NAME, "labels": {"a": "two words"}},
        refused="invalid",
    )


_SIDECAR = '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"app:1"}]}}}}'
_SIDE: JsonObject = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "app:1"}]}}}}


def patches() -> Iterator[Row]:
    revision: JsonObject = {"op": "replace", "path": "/spec/revisionHistoryLimit", "value": 3}
    wrong: JsonObject = {"op": "test", "path": "/spec/revisionHistoryLimit", "value": 99}
    limit = '{"op":"replace","path":"/spec/revisionHistoryLimit","value":3}'
    test = '{"op":"test","path":"/spec/revisionHistoryLimit","value":99}'
    web = empty("deployment")
    data = '{"data":{"color":"red","size":null}}'
    red: JsonObject = {"data": {"color": "red", "size": None}}
    spec: JsonObject = {"spec": {"size": "big"}}
    cases: list[tuple[str, str, Object | None, str, JsonObject, str]] = [
        ("deployment", "strategic", web, f"-p '{_SIDECAR}'", {"data": _SIDE}, ""),
        ("deployment", "merge", web, f"--type=merge -p '{_SIDECAR}'", {"data": _SIDE, "patch_type": "merge"}, ""),
        ("deployment", "json", web, f"--type=json -p '[{limit}]'", {"data": [revision]}, ""),
        ("configmap", "merge", config_map(color="blue", size="1"), f"--type=merge -p '{data}'", {"data": red}, ""),
        ("configmap", "strategic", config_map(color="blue", size="1"), f"-p '{data}'", {"data": red}, ""),
        ("configmap", "no change", config_map(), '-p \'{"data":{"color":"blue"}}\'', {"data": {"color": "blue"}}, ""),
        ("widget", "merge", WIDGET, '--type=merge -p \'{"spec":{"size":"big"}}\'', {"data": spec}, ""),
        (
            "widget",
            "strategic",
            WIDGET,
            '--type=strategic -p \'{"spec":{"size":"big"}}\'',
            {"data": spec, "patch_type": "strategic"},
            "not_supported",
        ),
        (
            "deployment",
            "failed test",
            web,
            f"--type=json -p '[{test},{limit}]'",
            {"data": [wrong, revision]},
            "invalid",
        ),
        ("deployment", "missing", None, f"-p '{_SIDECAR}'", {"data": _SIDE}, "not_found"),
        (
            "deployment",
            "selector can't change",
            web,
            '-p \'{"spec":{"selector":{"matchLabels":{"app":"other"}}}}\'',
            {"data": {"spec": {"selector": {"matchLabels": {"app": "other"}}}}},
            "immutable",
        ),
    ]
    for kind, case, given, flags, config, code in cases:
        yield Row(
            verb="patch",
            kind=kind,
            case=case,
            given=() if given is None else (given,),
            kubectl=f"patch {kind}/NAME {flags}",
            step={"action": "patch", "resource_type": kind, "name": NAME, **config},
            refused=code,
        )
    yield Row(
        verb="patch",
        kind="deployment",
        case="by selector; kubectl by names, as it has no -l",
        given=picked(web),
        kubectl=f"patch deployment NAME NAME-2 -p '{_SIDECAR}'",
        step={"action": "patch", "resource_type": "deployment", "selector": f"pick={NAME}", "data": _SIDE},
        left="deployment -l pick=NAME",
    )
