"""Rows of the verbs that wait: wait and rollout status."""

from __future__ import annotations

from collections.abc import Iterator

from tests.kubernetes.rows import (
    KINDS,
    ROLLING,
    config_map,
    empty,
    picked,
)
from tests.support.control_plane.manifests import Object, job, pod, workload
from tests.support.oracle import NAME, Row


def waits() -> Iterator[Row]:
    def row(kind: str, case: str, condition: str, given: Object | None, code: str = "", timeout: str = "60s") -> Row:
        ours = condition.removeprefix("condition=")
        return Row(
            verb="wait",
            kind=kind,
            case=case,
            given=() if given is None else (given,),
            kubectl=f"wait {kind}/NAME '--for={condition}' --timeout={timeout}",
            step={
                "action": "wait",
                "resource_type": kind,
                "name": NAME,
                "condition": ours,
                "timeout": timeout,
            },
            left="-",
            refused=code,
        )

    web = workload("Deployment", NAME, replicas=1)
    ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}=True'
    yield row("pod", "ready", "condition=Ready", pod(NAME))
    yield row("pod", "jsonpath", "jsonpath={.status.phase}=Running", pod(NAME))
    yield row("pod", "jsonpath with a filter", ready, pod(NAME))
    yield row("pod", "jsonpath that is there", "jsonpath={.status.podIP}", pod(NAME))
    yield row("deployment", "available", "condition=Available", web)
    yield row("deployment", "condition in small letters", "condition=available=true", web)
    yield row("job", "complete", "condition=Complete", job(NAME))
    yield row("pod", "created", "create", pod(NAME))
    yield row("pod", "missing", "condition=Ready", None, "not_found")
    yield row("pod", "deleted before", "delete", None)
    yield Row(
        verb="wait",
        kind="pod",
        case="by selector",
        given=picked(pod(NAME)),
        kubectl="wait pod -l pick=NAME --for=condition=Ready --timeout=60s",
        step={"action": "wait", "resource_type": "pod", "selector": f"pick={NAME}", "condition": "Ready"},
        left="-",
    )
    yield Row(
        verb="wait",
        kind="pod",
        case="none selected",
        kubectl="wait pod -l pick=NAME --for=condition=Ready --timeout=1s",
        step={"action": "wait", "resource_type": "pod", "selector": f"pick={NAME}", "timeout": "1s"},
        left="-",
        refused="not_found",
    )
    yield row("pod", "too late", "condition=Ready", pod(NAME, wishes={"unready": True}), code="timeout", timeout="1s")


def rollouts() -> Iterator[Row]:
    def row(kind: str, case: str, given: Object, code: str = "", timeout: str = "60s") -> Row:
        return Row(
            verb="rollout status",
            kind=kind,
            case=case,
            given=(given,),
            kubectl=f"rollout status {kind}/NAME --timeout={timeout}",
            step={"action": "wait", "resource_type": kind, "name": NAME, "condition": "rollout", "timeout": timeout},
            left="-",
            refused=code,
        )

    for kind in ROLLING:
        yield row(kind, "ends", workload(KINDS[kind], NAME, replicas=1))
    late = workload("Deployment", NAME, replicas=1, wishes={"unready": True}, progressDeadlineSeconds=1)
    yield row("deployment", "progress deadline", late, "failed")
    yield row("deployment", "too late", workload("Deployment", NAME, replicas=1, image="app:unready"), "timeout", "1s")
    for kind in ("statefulset", "daemonset"):
        yield row(kind, "OnDelete", empty(kind, updateStrategy={"type": "OnDelete"}), "not_supported")
    yield row("configmap", "no rollout", config_map(), "not_supported")
