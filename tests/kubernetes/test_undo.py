"""The way back on a real control plane: byte for byte, past the work of others, and without showing a secret."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from pydantic import JsonValue

from consumer.adapters.k8s.sealing import KEY_NAME
from consumer.errors import PermanentError
from consumer.ports import JsonObject
from schemas.canonical import canonical
from tests.support.control_plane import KubernetesCluster, Space
from tests.support.control_plane.kubectl import Object
from tests.support.control_plane.manifests import workload
from tests.support.eventually import eventually
from tests.support.k8s_real import steps_on
from tests.support.k8s_steps import FixedScope, Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]

#: Annotations that follow the object, and are no one's wish.
FOLLOWING = {"deployment.kubernetes.io/revision", "deprecated.daemonset.template.generation"}
WORKLOADS = ["Deployment", "StatefulSet", "DaemonSet"]
OLD, NEW = base64.b64encode(b"old-password").decode(), base64.b64encode(b"new-password").decode()


def manifests() -> dict[str, Object]:
    """One object of each kind that the tests change, named by its kind's word."""
    named = {"metadata": {"name": "it", "labels": {"app": "it"}, "annotations": {"note": "one"}}}
    volumes = [{"name": "scratch", "emptyDir": {}}]
    found = {kind.lower(): workload(kind, "it") for kind in WORKLOADS}
    for item in found.values():
        item["metadata"] |= named["metadata"]
        item["spec"]["template"]["spec"]["volumes"] = volumes
    ports = [{"port": 80, "name": "http"}]
    return {
        **found,
        "configmap": {"apiVersion": "v1", "kind": "ConfigMap", **named, "data": {"a": "1", "b": "2"}},
        "secret": {"apiVersion": "v1", "kind": "Secret", **named, "data": {"password": OLD}},
        "service": {
            "apiVersion": "v1",
            "kind": "Service",
            **named,
            "spec": {"selector": {"app": "it"}, "ports": ports},
        },
        "networkpolicy": {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            **named,
            "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]},
        },
    }


async def wanted(space: Space, what: str) -> bytes:
    """All of an object that somebody wanted to be so: its labels, annotations and spec or data."""
    item = await space.kubectl.json("get", what, "--namespace", space.name)
    metadata = item["metadata"]
    annotations = {k: v for k, v in metadata.get("annotations", {}).items() if k not in FOLLOWING}
    rest = {key: value for key, value in item.items() if key not in ("metadata", "status")}
    return canonical({"labels": metadata.get("labels"), "annotations": annotations, **rest})


async def there(space: Space, kind: str) -> str:
    """The object of that kind, made; gives its name as kubectl takes it."""
    await space.kubectl("create", "--namespace", space.name, "-f", "-", stdin=json.dumps(manifests()[kind]))
    return f"{kind}/it"


async def undone(space: Space, steps: Steps, what: str, config: JsonObject) -> None:
    """Runs the step, undoes it, and finds everything as it was; to undo it once more changes nothing."""
    before = await wanted(space, what)
    await steps.run(config)
    assert await wanted(space, what) != before
    await steps.undo()
    assert await wanted(space, what) == before
    again = await steps.undo()
    assert again["not_restored"] == []
    assert await wanted(space, what) == before


# --- every action --------------------------------------------------------------------------------------------------

PATCHES: dict[str, JsonValue] = {
    "deployment": {
        "metadata": {"labels": {"tier": "web"}, "annotations": {"note": None}},
        "spec": {
            "replicas": 1,
            "minReadySeconds": 5,
            "template": {
                "spec": {
                    "containers": [{"name": "main", "image": "app:2", "resources": {"limits": {"cpu": "1"}}}],
                    "securityContext": {"runAsUser": 1000},
                }
            },
        },
    },
    "statefulset": {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "app:1"}]}}}},
    "daemonset": {"spec": {"template": {"metadata": {"annotations": {"note": "two"}}}}},
    "configmap": {"data": {"a": "2", "c": "3", "b": None}},
    "secret": {"data": {"password": NEW, "user": NEW}},
    "service": {"spec": {"ports": [{"port": 443, "name": "https"}], "sessionAffinity": "ClientIP"}},
    "networkpolicy": {"spec": {"podSelector": {"matchLabels": {"a": "b"}}}},
}


@pytest.mark.parametrize("kind", PATCHES)
async def test_a_strategic_patch_is_undone_byte_for_byte(space: Space, steps: Steps, kind: str) -> None:
    what = await there(space, kind)
    await undone(space, steps, what, {"action": "patch", "resource": what, "data": PATCHES[kind]})


@pytest.mark.parametrize("kind", ["deployment", "networkpolicy"])
async def test_a_merge_patch_is_undone_byte_for_byte(space: Space, steps: Steps, kind: str) -> None:
    data: dict[str, JsonValue] = {
        "deployment": {"spec": {"template": {"spec": {"volumes": [{"name": "scratch", "hostPath": {"path": "/a"}}]}}}},
        "networkpolicy": {"spec": {"ingress": None, "policyTypes": ["Egress"], "egress": [{}]}},
    }
    what = await there(space, kind)
    await undone(space, steps, what, {"action": "patch", "resource": what, "patch_type": "merge", "data": data[kind]})


async def test_a_json_patch_is_undone_byte_for_byte(space: Space, steps: Steps) -> None:
    what = await there(space, "deployment")
    data: JsonValue = [
        {"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "side", "image": "app:1"}},
        {"op": "remove", "path": "/metadata/annotations/note"},
        {"op": "replace", "path": "/spec/template/spec/volumes/0/emptyDir", "value": {"medium": "Memory"}},
    ]
    await undone(space, steps, what, {"action": "patch", "resource": what, "data": data})


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("deployment", {"action": "scale", "replicas": 5}),
        ("statefulset", {"action": "scale", "scale_factor": 2}),
        ("deployment", {"action": "restart"}),
        ("statefulset", {"action": "restart"}),
        ("daemonset", {"action": "restart"}),
        ("deployment", {"action": "annotate", "annotations": {"note": "two", "other": "x"}}),
        ("configmap", {"action": "annotate", "annotations": {"note": None}}),
        ("service", {"action": "label", "labels": {"app": None, "tier": "web"}}),
        ("secret", {"action": "label", "label": "tier", "value": "web"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["action"],
)
async def test_an_action_is_undone_byte_for_byte(space: Space, steps: Steps, kind: str, config: JsonObject) -> None:
    what = await there(space, kind)
    await undone(space, steps, what, {**config, "resource": what})


@pytest.mark.parametrize("kind", [word.lower() for word in WORKLOADS])
async def test_a_rollback_to_an_older_revision_is_undone_byte_for_byte(space: Space, steps: Steps, kind: str) -> None:
    what = await there(space, kind)
    await space.rolled_out(what)
    await space("set", "image", what, "main=app:2")
    await space.rolled_out(what)
    await undone(space, steps, what, {"action": "rollback", "resource": what})


@pytest.mark.parametrize("kind", manifests())
async def test_a_deleted_object_is_made_again_byte_for_byte(space: Space, steps: Steps, kind: str) -> None:
    what = await there(space, kind)
    before = await wanted(space, what)
    await steps.run({"action": "delete", "resource": what})
    assert await space.field(what, "metadata.name") == ""
    output = await steps.undo()
    assert await wanted(space, what) == before
    assert output["not_restored"] == []
    assert (await steps.undo())["not_restored"] == []


async def test_a_created_object_is_deleted(space: Space, steps: Steps) -> None:
    await steps.run({"action": "create", "manifest": manifests()["deployment"]})
    await space.rolled_out("deployment/it")
    output = await steps.undo()
    assert output["not_restored"] == []
    await eventually(lambda: _is_gone(space, "deployment/it"))


async def _is_gone(space: Space, what: str) -> bool:
    return await space.field(what, "metadata.name") == ""


async def test_the_steps_of_a_run_are_undone_in_reverse_also_past_a_deletion(space: Space, steps: Steps) -> None:
    what = await there(space, "configmap")
    before = await wanted(space, what)
    await steps.run({"action": "patch", "resource": what, "data": {"a": "2"}}, "first")
    await steps.run({"action": "delete", "resource": what}, "second")
    for name in ("second", "first"):
        context = steps.context(name, phase="rollback", originals=steps.records)
        assert (await steps.adapter.undo(steps.records[name], context))["not_restored"] == []
    assert await wanted(space, what) == before


# --- the work of others ------------------------------------------------------------------------------------------


async def test_a_field_that_someone_else_changed_stops_the_undo_which_says_who_and_when(
    space: Space, steps: Steps
) -> None:
    what = await there(space, "deployment")
    await steps.run({"action": "patch", "resource": what, "data": {"spec": {"minReadySeconds": 5, "replicas": 3}}})
    await space("patch", what, "--field-manager=ann", "-p", '{"spec":{"minReadySeconds":7}}')
    found = await wanted(space, what)
    with pytest.raises(PermanentError, match=r"spec\.minReadySeconds is 7 and not 5, set by ann at 20\d\d-") as caught:
        await steps.undo()
    assert caught.value.code == "foreign_change"
    with pytest.raises(PermanentError, match="set by ann"):
        await steps.plan_undo()
    assert await wanted(space, what) == found


async def test_an_undo_may_skip_what_others_changed_or_overwrite_it(space: Space, steps: Steps) -> None:
    what = await there(space, "deployment")
    before = await wanted(space, what)
    data: JsonObject = {"spec": {"minReadySeconds": 5, "replicas": 3}}
    for policy in ("skip", "overwrite"):
        config: JsonObject = {"action": "patch", "resource": what, "data": data, "on_foreign_change": policy}
        await steps.run(config, policy)
        await space("patch", what, "--field-manager=ann", "-p", '{"spec":{"minReadySeconds":7}}')
        output = await steps.undo(policy)
        if policy == "skip":
            assert output["restored"] == ["spec.replicas 3 → 2"]
            assert "spec.minReadySeconds is 7 and not 5, set by ann" in str(output["not_restored"])
            assert await space.has(what, "spec.minReadySeconds", "7")
            await space("patch", what, "-p", '{"spec":{"minReadySeconds":0}}')
        else:
            assert output["not_restored"] == []
            assert await wanted(space, what) == before


async def test_an_image_that_someone_deployed_since_is_named_by_its_container(space: Space, steps: Steps) -> None:
    what = await there(space, "deployment")
    containers: JsonValue = [{"name": "main", "image": "app:2"}]
    data: JsonObject = {"spec": {"template": {"spec": {"containers": containers}}}}
    await steps.run({"action": "patch", "resource": what, "data": data})
    await space("set", "image", what, "main=app:1", "--field-manager=bob")
    assert (await steps.undo())["restored"] == []  # it is as it was before
    await space("set", "image", what, "main=app:7", "--field-manager=bob")
    with pytest.raises(PermanentError, match=r"containers\[0\]\.image is app:7 and not app:2, set by bob"):
        await steps.undo()


async def test_a_number_of_replicas_that_someone_else_set_is_kept_and_he_is_named(space: Space, steps: Steps) -> None:
    what = await there(space, "deployment")
    await steps.run({"action": "scale", "resource": what, "replicas": 4})
    await space("scale", what, "--replicas=6")
    with pytest.raises(PermanentError, match=r"spec\.replicas is 6 and not 4, set by kubectl\S* through scale"):
        await steps.undo()
    assert await space.has(what, "spec.replicas", "6")


async def test_a_restart_that_someone_made_since_is_kept(space: Space, steps: Steps) -> None:
    what = await there(space, "daemonset")
    await steps.run({"action": "restart", "resource": what})
    stamp = '{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"now"}}}}}'
    await space("patch", what, "--field-manager=ann", "-p", stamp)
    with pytest.raises(PermanentError, match="set by ann"):
        await steps.undo()


async def test_an_object_that_the_step_created_and_someone_changed_is_not_deleted(space: Space, steps: Steps) -> None:
    await steps.run({"action": "create", "manifest": manifests()["configmap"]})
    await space("patch", "configmap/it", "--field-manager=ann", "-p", '{"data":{"a":"7"}}')
    with pytest.raises(PermanentError, match="has fields set by ann at"):
        await steps.undo()
    assert await space.has("configmap/it", "data.a", "7")


async def test_an_object_that_is_there_again_is_left_to_who_made_it(space: Space, steps: Steps) -> None:
    what = await there(space, "configmap")
    await steps.run({"action": "delete", "resource": what})
    await space("create", "configmap", "it", "--from-literal=new=1", "--field-manager=ann")
    with pytest.raises(PermanentError, match="exists again, made or changed by ann"):
        await steps.undo()
    assert await space.has(what, "data.new", "1")


async def test_where_one_of_several_objects_was_changed_none_is_undone(space: Space, steps: Steps) -> None:
    for name in ("one", "two"):
        await space.apply({**manifests()["deployment"], "metadata": {"name": name, "labels": {"app": "it"}}})
    await steps.run({"action": "restart", "resource_type": "deployment", "selector": "app=it"})
    stamp = '{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"now"}}}}}'
    await space("patch", "deployment/one", "-p", stamp)
    found = await wanted(space, "deployment/two")
    with pytest.raises(PermanentError, match="deployment"):
        await steps.undo()
    assert await wanted(space, "deployment/two") == found


# --- secrets, and what is too large --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [{"action": "patch", "data": {"password": NEW}}, {"action": "delete"}],
    ids=lambda config: config["action"],
)
async def test_a_secrets_old_values_lie_nowhere_in_clear_and_come_back(
    space: Space, steps: Steps, config: JsonObject
) -> None:
    what = await there(space, "secret")
    plan = await steps.plan({**config, "resource": what})
    output = await steps.run({**config, "resource": what})
    undoing = await steps.plan_undo()
    done = await steps.undo()
    assert await space.has(what, "data.password", OLD)
    said = repr((plan, output, undoing, done, steps.records, steps.lines, steps.summaries))
    for value in (OLD, NEW, "old-password", "new-password"):
        assert value not in said


async def test_a_secret_whose_key_was_deleted_can_not_be_put_back_and_that_is_said(space: Space, steps: Steps) -> None:
    what = await there(space, "secret")
    await steps.run({"action": "patch", "resource": what, "data": {"password": NEW}})
    await space("delete", "secret", KEY_NAME)
    with pytest.raises(PermanentError, match="is gone, and with it the key") as caught:
        await steps.undo()
    assert caught.value.code == "no_undo_key"
    await steps.run({"action": "label", "resource": what, "label": "a", "value": "b"}, "other")  # makes a new key
    with pytest.raises(PermanentError, match="sealed with another key"):
        await steps.undo()


async def test_without_a_key_a_secret_is_changed_only_where_nothing_is_to_be_kept(
    control_plane: KubernetesCluster, space: Space, tmp_path_factory: pytest.TempPathFactory
) -> None:
    what = await there(space, "secret")
    rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "patch"]}]
    kubeconfig = await control_plane.restricted(space.name, rules)
    config: JsonObject = {"action": "patch", "resource": what, "data": {"password": NEW}}
    async with steps_on(kubeconfig, space.name, tmp_path_factory.mktemp("home")) as steps:
        for attempt in (steps.plan, steps.run):
            ask: Callable[[JsonObject], Awaitable[object]] = attempt
            with pytest.raises(PermanentError, match="let the agent get and create secrets in namespace") as caught:
                await ask(config)
            assert caught.value.code == "no_undo_key"
        assert await space.has(what, "data.password", OLD)
        await steps.run({**config, "undo": False}, "bold")
        assert await space.has(what, "data.password", NEW)
        output = await steps.undo("bold")
        assert "told to keep nothing" in str(output["not_restored"])


async def test_values_of_the_agents_own_secrets_are_sealed_wherever_they_are_put(space: Space, steps: Steps) -> None:
    what = await there(space, "configmap")
    config: JsonObject = {"action": "patch", "resource": what, "data": {"a": "${secrets.TOKEN}"}}
    before = await wanted(space, what)
    action = steps.adapter.prepare(config, FixedScope({"secrets.TOKEN": "s3cr3t-token"}))
    await action.run(steps.context())
    assert await space.has(what, "data.a", "s3cr3t-token")
    assert "s3cr3t-token" not in repr(steps.records)
    await steps.undo()
    assert await wanted(space, what) == before


async def test_what_is_too_large_to_be_kept_is_refused_before_anything_is_changed(space: Space, steps: Steps) -> None:
    large = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "it"}, "data": {"a": "x" * 1_000_000}}
    await space.kubectl("create", "--namespace", space.name, "-f", "-", stdin=json.dumps(large))
    config: JsonObject = {"action": "delete", "resource": "configmap/it"}
    with pytest.raises(PermanentError, match="nothing was changed") as caught:
        await steps.run(config)
    assert caught.value.code == "undo_too_large"
    assert await space.field("configmap/it", "metadata.name") == "it"
    await steps.run({"action": "annotate", "resource": "configmap/it", "annotation": "n", "value": "1"}, "small")
    await steps.run({**config, "undo": False}, "bold")
    assert await space.field("configmap/it", "metadata.name") == ""


async def test_an_attempt_after_a_crash_goes_on_with_what_the_first_one_sealed(space: Space, steps: Steps) -> None:
    what = await there(space, "secret")
    before = await wanted(space, what)
    config: JsonObject = {"action": "patch", "resource": what, "data": {"password": NEW}}
    context = steps.context()

    async def crash(record: JsonObject, summary: str) -> None:
        await context.capture(record, summary)
        raise ConnectionError("the agent died here")

    with pytest.raises(ConnectionError):
        await steps.adapter.prepare(config, FixedScope()).run(replace(context, capture=crash))
    assert await wanted(space, what) == before
    assert (await steps.again(config))["changed"] == ["data.password"]
    assert await space.has(what, "data.password", NEW)
    await steps.undo()
    assert await wanted(space, what) == before
