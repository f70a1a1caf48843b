"""Rows of the verbs that roll: restart, scale, rollback."""

from __future__ import annotations

from collections.abc import Iterator

from consumer.ports import JsonObject
from tests.kubernetes.rows import (
    ROLLING,
    SEEN,
    WIDGET,
    config_map,
    empty,
    history,
    picked,
    replica_set,
)
from tests.support.control_plane.manifests import Object, workload
from tests.support.oracle import NAME, Row


def restarts() -> Iterator[Row]:
    for kind in ROLLING:
        yield Row(
            verb="restart",
            kind=kind,
            case="by name",
            given=(empty(kind),),
            kubectl=f"rollout restart {kind}/NAME",
            step={"action": "restart", "resource_type": kind, "name": NAME},
        )
    yield Row(
        verb="restart",
        kind="deployment",
        case="by selector",
        given=picked(empty("deployment")),
        kubectl="rollout restart deployment -l pick=NAME",
        step={"action": "restart", "resource_type": "deployment", "selector": f"pick={NAME}"},
        left="deployment -l pick=NAME",
    )
    refusals: list[tuple[str, str, tuple[Object, ...], str]] = [
        ("deployment", "paused", (empty("deployment", paused=True),), "paused"),
        ("deployment", "missing", (), "not_found"),
        ("configmap", "no pods", (config_map(),), "not_supported"),
        ("replicaset", "no rollout", (replica_set(),), "not_supported"),
    ]
    for kind, case, given, code in refusals:
        yield Row(
            verb="restart",
            kind=kind,
            case=case,
            given=given,
            kubectl=f"rollout restart {kind}/NAME",
            step={"action": "restart", "resource_type": kind, "name": NAME},
            refused=code,
        )


def scales() -> Iterator[Row]:
    cases: list[tuple[str, str, Object | None, str, JsonObject, str]] = [
        ("deployment", "up", empty("deployment"), "--replicas=1", {"replicas": 1}, ""),
        ("deployment", "to the same", empty("deployment"), "--replicas=0", {"replicas": 0}, ""),
        ("deployment", "to 0", workload("Deployment", NAME, replicas=1), "--replicas=0", {"replicas": 0}, ""),
        ("statefulset", "up", empty("statefulset"), "--replicas=1", {"replicas": 1}, ""),
        ("replicaset", "up", replica_set(), "--replicas=1", {"replicas": 1}, ""),
        ("widget", "up", WIDGET, "--replicas=3", {"replicas": 3}, ""),
        ("deployment", "missing", None, "--replicas=1", {"replicas": 1}, "not_found"),
        ("daemonset", "no scale", empty("daemonset"), "--replicas=1", {"replicas": 1}, "not_supported"),
        ("configmap", "no scale", config_map(), "--replicas=1", {"replicas": 1}, "not_supported"),
        (
            "deployment",
            "from what is expected",
            empty("deployment"),
            "--current-replicas=0 --replicas=1",
            {"current_replicas": 0, "replicas": 1},
            "",
        ),
        (
            "deployment",
            "from another number than expected",
            empty("deployment"),
            "--current-replicas=2 --replicas=1",
            {"current_replicas": 2, "replicas": 1},
            "conflict",
        ),
    ]
    for kind, case, given, flags, config, code in cases:
        yield Row(
            verb="scale",
            kind=kind,
            case=case,
            given=() if given is None else (given,),
            kubectl=f"scale {kind}/NAME {flags}",
            step={"action": "scale", "resource_type": kind, "name": NAME, **config},
            refused=code,
        )
    both: list[tuple[str, tuple[Object, ...], str, JsonObject, str]] = [
        ("by selector", picked(empty("deployment")), "--replicas=1", {"replicas": 1}, ""),
        ("by selector to the same", picked(empty("deployment")), "--replicas=0", {"replicas": 0}, ""),
        ("none selected", (), "--replicas=1", {"replicas": 1}, "not_found"),
    ]
    for case, some, flags, config, code in both:
        yield Row(
            verb="scale",
            kind="deployment",
            case=case,
            given=some,
            kubectl=f"scale deployment -l pick=NAME {flags}",
            step={"action": "scale", "selector": f"pick={NAME}", **config},
            left="deployment -l pick=NAME",
            refused=code,
        )


def rollbacks() -> Iterator[Row]:
    for kind in ROLLING:
        cases: list[tuple[str, str, JsonObject, int, str]] = [
            ("previous", "", {}, 2, ""),
            ("to a number", "--to-revision=1", {"revision": 1}, 2, ""),
            ("to where it is", "--to-revision=3", {"revision": 3}, 2, ""),
            ("missing revision", "--to-revision=9", {"revision": 9}, 1, "not_found"),
            ("no history", "", {}, 0, "no_history"),
        ]
        for case, flags, config, images, code in cases:
            yield Row(
                verb="rollback",
                kind=kind,
                case=case,
                given=(empty(kind),),
                before=history(kind, images),
                kubectl=f"rollout undo {kind}/NAME {flags}",
                step={"action": "rollback", "resource_type": kind, "name": NAME, **config},
                refused=code,
            )
    once = history("deployment", 1)
    yield Row(
        verb="rollback",
        kind="deployment",
        case="by selector",
        given=picked(empty("deployment")),
        before=(*once, *(text.replace(NAME, f"{NAME}-2") for text in once)),
        kubectl="rollout undo deployment -l pick=NAME",
        step={"action": "rollback", "selector": f"pick={NAME}"},
        left="deployment -l pick=NAME",
    )
    yield Row(
        verb="rollback",
        kind="deployment",
        case="paused",
        given=(empty("deployment"),),
        before=(*history("deployment", 1), "rollout pause deployment/NAME"),
        kubectl="rollout undo deployment/NAME",
        step={"action": "rollback", "name": NAME},
        refused="paused",
    )
    yield Row(
        verb="rollback",
        kind="deployment",
        case="annotations of the revision",
        given=(empty("deployment"),),
        before=(
            SEEN.format(kind="deployment", generation=1),
            "annotate deployment/NAME kubernetes.io/change-cause=first owner=core",
            SEEN.format(kind="deployment", generation=2),
            "set image deployment/NAME main=app:2",
            SEEN.format(kind="deployment", generation=3),
            "annotate deployment/NAME kubernetes.io/change-cause=second --overwrite",
            SEEN.format(kind="deployment", generation=4),
        ),
        kubectl="rollout undo deployment/NAME",
        step={"action": "rollback", "name": NAME},
    )
