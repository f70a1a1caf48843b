"""kubectl as the oracle, verb by verb: what it does, and what it refuses. The run ends with the table."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import JsonValue

from consumer.adapters.k8s import fields
from consumer.ports import JsonObject
from tests.support.control_plane.manifests import Object, job, pod, workload
from tests.support.oracle import NAME, PROPERTY, Oracle, Row, Said

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]

Recorder = Callable[[str, object], None]
ROLLING = ("deployment", "statefulset", "daemonset")
_KINDS = {"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}
ANNOTATIONS, LABELS = {"team": "core"}, {"tier": "gold"}


def empty(kind: str, **spec: Any) -> Object:
    """A workload without pods: what is asked of it is seen in its spec."""
    made = workload(_KINDS[kind], NAME, replicas=0)
    made["spec"] |= spec
    if kind == "daemonset":
        made["spec"]["template"]["spec"]["nodeSelector"] = {"there-is": "none"}
    return made


def config_map(**data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data or {"color": "blue"}}


def marked(item: Object) -> Object:
    """The object with a label and an annotation."""
    made = copy.deepcopy(item)
    made["metadata"] |= {"annotations": ANNOTATIONS, "labels": LABELS}
    return made


def replica_set(replicas: int = 0) -> Object:
    made = workload("Deployment", NAME, replicas=replicas)
    return made | {"kind": "ReplicaSet"}


GROUP = "oracle.wpk-agent.test"
WIDGET: Object = {"apiVersion": f"{GROUP}/v1", "kind": "Widget", "metadata": {"name": NAME}, "spec": {"replicas": 1}}
_SCHEMA = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
WIDGETS: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"widgets.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets", "singular": "widget", "shortNames": ["wdg"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": _SCHEMA, "status": _SCHEMA}}},
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
                },
            }
        ],
    },
}
#: Waits until a controller has seen the newest change of an object, so that its revision is in the history.
_SEEN = "wait {kind}/NAME --for=jsonpath={{.status.observedGeneration}}={generation} --timeout=60s"


def history(kind: str, images: int = 2) -> tuple[str, ...]:
    """The commands that give an object of `app:1` so many further revisions, `app:2` and so on."""
    done = [_SEEN.format(kind=kind, generation=1)]
    for number in range(2, images + 2):
        done += [f"set image {kind}/NAME main=app:{number}", _SEEN.format(kind=kind, generation=number)]
    return tuple(done)


# --- the verbs that roll ---------------------------------------------------------------------------------------------


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
    chosen = empty("deployment")
    chosen["metadata"]["labels"] = {"pick": NAME}
    other = copy.deepcopy(chosen)
    other["metadata"]["name"] = f"{NAME}-2"
    yield Row(
        verb="restart",
        kind="deployment",
        case="by selector",
        given=(chosen, other),
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
            _SEEN.format(kind="deployment", generation=1),
            "annotate deployment/NAME kubernetes.io/change-cause=first owner=core",
            _SEEN.format(kind="deployment", generation=2),
            "set image deployment/NAME main=app:2",
            _SEEN.format(kind="deployment", generation=3),
            "annotate deployment/NAME kubernetes.io/change-cause=second --overwrite",
            _SEEN.format(kind="deployment", generation=4),
        ),
        kubectl="rollout undo deployment/NAME",
        step={"action": "rollback", "name": NAME},
    )


# --- the verbs that change fields ------------------------------------------------------------------------------------


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
            "invalid",
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


# --- the verbs that make and take away -------------------------------------------------------------------------------


def deletions() -> Iterator[Row]:
    def row(
        kind: str, case: str, flags: str, config: JsonObject, *given: Object, left: str = "", refused: str = ""
    ) -> Row:
        return Row(
            verb="delete",
            kind=kind,
            case=case,
            given=given,
            before=(_SEEN.format(kind=kind, generation=1),) if kind == "deployment" and given else (),
            kubectl=f"delete {kind}/NAME {flags}",
            step={"action": "delete", "resource_type": kind, "name": NAME, **config},
            left=left,
            refused=refused,
        )

    owned = f"deployments,replicasets -l app={NAME}"
    web = empty("deployment")
    web["metadata"]["labels"] = {"app": NAME}
    yield row("configmap", "by name", "", {}, config_map())
    yield row("widget", "by name", "", {}, WIDGET)
    yield row("deployment", "background", "", {}, web, left=owned)
    yield row("deployment", "foreground", "--cascade=foreground", {"propagation": "foreground"}, web, left=owned)
    yield row("deployment", "orphan", "--cascade=orphan", {"propagation": "orphan"}, web, left=owned)
    yield row("pod", "grace period", "--grace-period=1", {"grace_period": "1s"}, pod(NAME, wishes={"stop-seconds": 9}))
    yield row("configmap", "missing", "", {}, refused="not_found")
    yield row("configmap", "missing is well", "--ignore-not-found", {"ignore_not_found": True})
    yield Row(
        verb="delete",
        kind="configmap",
        case="by selector",
        given=tuple(
            {**marked(config_map()), "metadata": {"name": n, "labels": {"pick": NAME}}} for n in (NAME, NAME + "-2")
        ),
        kubectl="delete configmap -l pick=NAME",
        step={"action": "delete", "resource_type": "configmap", "selector": f"pick={NAME}"},
        left="configmap -l pick=NAME",
    )


# --- the verbs that wait ---------------------------------------------------------------------------------------------


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
        yield row(kind, "ends", workload(_KINDS[kind], NAME, replicas=1))
    late = workload("Deployment", NAME, replicas=1, wishes={"unready": True}, progressDeadlineSeconds=1)
    yield row("deployment", "progress deadline", late, "failed")
    yield row("deployment", "too late", workload("Deployment", NAME, replicas=1, image="app:unready"), "timeout", "1s")
    for kind in ("statefulset", "daemonset"):
        yield row(kind, "OnDelete", empty(kind, updateStrategy={"type": "OnDelete"}), "not_supported")
    yield row("configmap", "no rollout", config_map(), "not_supported")


async def widgets(oracle: Oracle) -> None:
    """Has the cluster serve the custom kind."""
    await oracle.make(WIDGETS)
    await oracle.kubectl("wait", f"crd/widgets.{GROUP}", "--for=condition=Established", "--timeout=60s")


# --- the verbs that read ---------------------------------------------------------------------------------------------


def _lines(_: JsonObject, lines: list[str]) -> str:
    return "\n".join(lines)


def _prefixed(_: JsonObject, lines: list[str]) -> str:
    """`pod/container: line` as kubectl's --prefix has it."""
    return "\n".join(re.sub(r"^([^:]+): ", r"[pod/\1] ", line) for line in lines)


def reads() -> Iterator[Row]:
    talks = {"log": "{container} says so", "log-repeat": 3}
    ready, ran = (
        "wait pod/NAME --for=condition=Ready --timeout=60s",
        "{.status.containerStatuses[0].lastState.terminated}",
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


ROWS = [*restarts(), *scales(), *rollbacks(), *marks(), *patches(), *deletions(), *waits(), *rollouts(), *reads()]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_the_adapter_does_what_kubectl_does(row: Row, oracle: Oracle, record_property: Recorder) -> None:
    said = ("", "")
    try:
        if row.kind == "widget":
            await widgets(oracle)
        said = await oracle.hold(row)
    finally:
        record_property(PROPERTY, (row, said))


PATHS = (
    "{.kind}",
    "{.spec.replicas}",
    "{.spec.template.spec.containers[0].image}",
    "{.spec.template.spec.containers[-1].name}",
    "{.spec.template.spec.containers[*].name}",
    "{.spec.template.spec.containers[0:1].name}",
    "{.spec.template.spec.containers[1:].name}",
    "{.spec.template.spec.containers[0:3:2].name}",
    "{.spec.template.spec.containers[0,2].name}",
    "{.spec.template.spec.containers[0]['name','image']}",
    '{.spec.template.spec.containers[?(@.name=="side")].image}',
    '{.spec.template.spec.containers[?(@.name!="side")].name}',
    "{.spec.template.spec.containers[?(@.env)].name}",
    '{.spec.template.spec.containers[?(@.image>="app:2")].name}',
    "{.spec.template.spec.containers[?(@.ports[0].containerPort>80)].name}",
    "{.spec.template.spec.containers[?(@.ports[0].containerPort==80)].name}",
    "{.spec.template.spec.containers[*].ports[*].containerPort}",
    "{..containerPort}",
    "{.spec..image}",
    "{.spec.template.metadata.labels.app}",
    "{.spec.template.metadata.labels}",
    r"{.metadata.annotations.example\.org/owner}",
    r"{.metadata.annotations['example\.org/owner']}",
    "{['metadata.name','spec.replicas']}",
    "{.spec.nothing.at.all}",
    "{.spec.template.spec.containers[?(@.name=='absent')].image}",
    "{.spec.paused}",
)


async def test_a_path_reads_what_kubectl_reads(oracle: Oracle, record_property: Recorder) -> None:
    row = Row(verb="get", kind="deployment", case=f"{len(PATHS)} JSONPaths", kubectl="", step={}, left="-")
    item = empty("deployment", paused=True)
    item["metadata"]["annotations"] = {"example.org/owner": "core"}
    more = [{"name": "side", "image": "app:2", "ports": [{"containerPort": 8080}]}, {"name": "last", "image": "app:3"}]
    containers = item["spec"]["template"]["spec"]["containers"]
    containers[0] |= {"ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "b"}]}
    containers += more
    try:
        await oracle.make(row.named(item))
        template = '{"\\n"}'.join(PATHS)
        said = await oracle.kubectl("-n", oracle.ours, "get", "deployment", row.name, "-o", f"jsonpath={template}")
        config: JsonObject = {"action": "get", "resource_type": "deployment", "name": row.name}
        found = [(await oracle.steps.run({**config, "field": path}))["value"] for path in PATHS]
        assert dict(zip(PATHS, map(printed, found), strict=True)) == dict(zip(PATHS, said.split("\n"), strict=True))
    finally:
        record_property(PROPERTY, (row, ("", "")))


def printed(value: JsonValue) -> str:
    """The value as kubectl prints it; several ones with a space between."""
    if value is None:
        return ""
    return " ".join(map(fields.text_of, value)) if isinstance(value, list) else fields.text_of(value)


def test_each_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in ROWS]
    assert sorted(names) == sorted(set(names))
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?", name) for name in names)
