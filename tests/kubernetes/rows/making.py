"""Rows of the verbs that make and take away: create, job, apply, delete."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from consumer.ports import JsonObject
from tests.kubernetes.rows import (
    SEEN,
    WIDGET,
    config_map,
    empty,
    marked,
)
from tests.support.control_plane.manifests import Object, job, pod
from tests.support.oracle import NAME, Row


def creations() -> Iterator[Row]:
    job_now: JsonObject = {"action": "job", "name": NAME, "template": NAME}
    unknown, long = config_map(), config_map()
    unknown["colour"], long["metadata"] = "blue", {"name": "Not_A_Name"}
    elsewhere = config_map()
    elsewhere["metadata"]["namespace"] = "absent"
    cases: list[tuple[str, str, Object, tuple[Object, ...], str]] = [
        ("configmap", "new", config_map(), (), ""),
        ("deployment", "new", empty("deployment"), (), ""),
        ("widget", "new", WIDGET, (), ""),
        ("configmap", "there already", config_map(color="red"), (config_map(),), "already_exists"),
        ("configmap", "unknown field", unknown, (), "bad_request"),
        ("configmap", "not a name", long, (), "invalid"),
        ("gadget", "unknown kind", {**WIDGET, "kind": "Gadget"}, (), "unknown_kind"),
    ]
    for kind, case, manifest, given, code in cases:
        yield Row(
            verb="create",
            kind=kind,
            case=case,
            given=given,
            kubectl="create -f -",
            manifest=manifest,
            step={"action": "create", "manifest": manifest},
            left="-" if code and not given else "",
            refused=code,
        )
    schedule: Object = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": NAME}}
    schedule["spec"] = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job(NAME)["spec"]}}
    yield Row(
        verb="job",
        kind="job",
        case="of a cronjob",
        given=(schedule,),
        kubectl="create job NAME --from=cronjob/NAME",
        step=job_now,
    )
    yield Row(
        verb="job",
        kind="job",
        case="of no cronjob",
        kubectl="create job NAME --from=cronjob/NAME",
        step=job_now,
        refused="not_found",
    )


def applications() -> Iterator[Row]:
    sized, red = config_map(size="big"), config_map(color="red")
    side = empty("deployment")
    side["spec"]["template"]["spec"]["containers"] = [{"name": "side", "image": "app:1"}]
    del side["spec"]["template"]["metadata"]["annotations"]
    unknown = config_map()
    unknown["colour"] = "blue"
    wide = copy.deepcopy(WIDGET)
    wide["spec"] = {"size": "wide"}
    cases: list[tuple[str, str, Object, tuple[Object, ...], bool, str]] = [
        ("configmap", "new", config_map(), (), False, ""),
        ("configmap", "one field more", sized, (config_map(),), False, ""),
        ("configmap", "conflict", red, (config_map(),), False, "field_conflict"),
        ("configmap", "conflict, forced", red, (config_map(),), True, ""),
        ("configmap", "unknown field", unknown, (), False, "invalid"),
        ("deployment", "one container more", side, (empty("deployment"),), False, ""),
        ("widget", "one field more", wide, (WIDGET,), False, ""),
    ]
    for kind, case, manifest, given, force, code in cases:
        yield Row(
            verb="apply",
            kind=kind,
            case=case,
            given=given,
            kubectl=f"apply --server-side --field-manager=wpk-agent {'--force-conflicts' if force else ''} -f -",
            manifest=manifest,
            step={"action": "apply", "manifest": manifest, "force": force},
            refused=code,
        )


def deletions() -> Iterator[Row]:
    def row(
        kind: str, case: str, flags: str, config: JsonObject, *given: Object, left: str = "", refused: str = ""
    ) -> Row:
        return Row(
            verb="delete",
            kind=kind,
            case=case,
            given=given,
            before=(SEEN.format(kind=kind, generation=1),) if kind == "deployment" and given else (),
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
