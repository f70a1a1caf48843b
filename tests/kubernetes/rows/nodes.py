"""Rows of the verbs for nodes."""

from __future__ import annotations

from collections.abc import Iterator

from consumer.ports import JsonObject
from tests.support.oracle import NAME, NODE, Row


def nodes() -> Iterator[Row]:
    chosen: JsonObject = {"pod_selector": f"app={NAME}"}
    cases: list[tuple[str, str, str, str, JsonObject]] = [
        ("cordon", "free", "uncordon", "", {}),
        ("cordon", "cordoned", "cordon", "", {}),
        ("uncordon", "free", "uncordon", "", {}),
        ("uncordon", "cordoned", "cordon", "", {}),
        ("drain", "no pods", "uncordon", "--pod-selector=app=NAME", chosen),
        ("annotate", "new", "uncordon", "oracle=yes", {"resource_type": "node", "annotations": {"oracle": "yes"}}),
        ("label", "new", "uncordon", "oracle=yes", {"resource_type": "node", "labels": {"oracle": "yes"}}),
    ]
    for verb, case, before, flags, config in cases:
        yield Row(
            verb=verb,
            kind="node",
            case=case,
            before=(f"{before} NODE",),
            kubectl=f"{verb} node NODE {flags}" if verb in ("annotate", "label") else f"{verb} NODE {flags}",
            step={"action": verb, "name": NODE, **config},
            left="node NODE",
        )
    for verb in ("cordon", "drain"):
        yield Row(
            verb=verb,
            kind="node",
            case="missing",
            kubectl=f"{verb} absent",
            step={"action": verb, "name": "absent"},
            left="-",
            refused="not_found",
        )
