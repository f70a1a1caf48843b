"""Rows of the verbs that read: logs and get."""

from __future__ import annotations

import re
from collections.abc import Iterator

from consumer.adapters.k8s import rollout
from consumer.ports import JsonObject
from tests.kubernetes.rows import config_map, picked
from tests.support.control_plane.manifests import Object, job, pod
from tests.support.oracle import NAME, Row, Said


def _lines(_: JsonObject, lines: list[str]) -> str:
    return "\n".join(lines)


def _prefixed(_: JsonObject, lines: list[str]) -> str:
    """`pod/container: line` as kubectl's --prefix has it."""
    return "\n".join(re.sub(r"^([^:]+): ", r"[pod/\1] ", line) for line in lines)


def _names(output: JsonObject, _: list[str]) -> str:
    """What was found, as `-o name` has it."""
    items = output.get("items")
    found = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else [output]
    return "\n".join(f"{str(item['kind']).lower()}/{rollout.text(item, 'metadata', 'name')}" for item in found)


def reads() -> Iterator[Row]:
    talks: dict[str, str | float | bool] = {"log": "{container} says so", "log-repeat": 3}
    ready, ran = (
        "wait pod/NAME --for=condition=Ready --timeout=60s",
        "wait pod/NAME --for=jsonpath={.status.containerStatuses[0].lastState.terminated} --timeout=60s",
    )
    several = pod(NAME, wishes=talks, initContainers=[{"name": "first", "image": "app:1"}])
    several["spec"]["containers"].append({"name": "side", "image": "app:1"})
    job_of = job(NAME, wishes=talks)
    ended = "wait job/NAME --for=condition=Complete --timeout=60s"
    crash = pod(NAME, image="app:crash", wishes=talks)
    cases: list[tuple[str, str, Object | None, str, str, JsonObject, Said | None, str]] = [
        ("pod", "whole", pod(NAME, wishes=talks), ready, "", {}, _lines, ""),
        ("pod", "newest lines", pod(NAME, wishes=talks), ready, "--tail=2", {"lines": 2}, _lines, ""),
        ("pod", "since", pod(NAME, wishes=talks), ready, "--since=1h", {"since": "1h"}, _lines, ""),
        ("pod", "one container", several, ready, "-c side", {"container": "side"}, _lines, ""),
        ("pod", "init container", several, ready, "-c first", {"container": "first"}, _lines, ""),
        ("pod", "all containers", several, ready, "--all-containers --prefix", {}, _prefixed, ""),
        ("pod", "previous", crash, ran, "-p", {"previous": True}, _lines, ""),
        ("job", "whole", job_of, ended, "", {}, _lines, ""),
        ("pod", "missing", None, "", "", {}, None, "not_found"),
        ("pod", "no such container", pod(NAME), ready, "-c other", {"container": "other"}, None, "not_found"),
    ]
    for kind, case, given, before, flags, config, said, code in cases:
        yield Row(
            verb="logs",
            kind=kind,
            case=case,
            given=() if given is None else (given,),
            before=(before,) if before else (),
            kubectl=f"logs {kind}/NAME {flags}",
            step={"action": "logs", "resource_type": kind, "name": NAME, **config},
            left="-",
            said=said,
            refused=code,
        )
    for verb, kind, code in (("get", "pod", "not_found"), ("get", "gadget", "unknown_kind")):
        yield Row(
            verb=verb,
            kind=kind,
            case="missing",
            kubectl=f"{verb} {kind} NAME",
            step={"action": verb, "resource_type": kind, "name": NAME},
            left="-",
            refused=code,
        )
    talking = picked(pod(NAME, wishes=talks))
    yield Row(
        verb="logs",
        kind="pod",
        case="by selector",
        given=talking,
        before=(ready, ready.replace(NAME, f"{NAME}-2")),
        kubectl="logs -l pick=NAME --prefix --tail=-1",
        step={"action": "logs", "resource_type": "pod", "selector": f"pick={NAME}"},
        left="-",
        said=_prefixed,
    )
    for case, given, flags, config in (
        ("by name", (config_map(),), "NAME", {"name": NAME}),
        ("by selector", picked(config_map()), "-l pick=NAME", {"selector": f"pick={NAME}"}),
        ("none selected", (), "-l pick=NAME", {"selector": f"pick={NAME}"}),
    ):
        yield Row(
            verb="get",
            kind="configmap",
            case=case,
            given=given,
            kubectl=f"get configmap {flags} -o name",
            step={"action": "get", "resource_type": "configmap", **config},
            left="-",
            said=_names,
        )
