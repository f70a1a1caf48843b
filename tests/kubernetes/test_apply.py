"""Server-side apply on a real control plane: what it makes, whom it asks, and the way back."""

from __future__ import annotations

import copy
import json

import pytest

from consumer.adapters.k8s.records import CREATED_BY
from consumer.errors import ConfigError, PermanentError
from consumer.ports import JsonObject
from tests.kubernetes.test_undo import manifests, there, wanted
from tests.support.control_plane import Space
from tests.support.control_plane.kubectl import Object
from tests.support.eventually import eventually
from tests.support.k8s_steps import FixedScope, Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]

#: What each kind's object is to become.
CHANGES: dict[str, JsonObject] = {
    "deployment": {"spec": {"replicas": 3, "minReadySeconds": 5}},
    "statefulset": {"spec": {"replicas": 3}},
    "daemonset": {"spec": {"minReadySeconds": 5}},
    "configmap": {"data": {"a": "2", "c": "3"}},
    "secret": {"data": {"password": "bmV3"}},
    "service": {"spec": {"sessionAffinity": "ClientIP"}},
    "networkpolicy": {"spec": {"podSelector": {"matchLabels": {"a": "b"}}}},
}
CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.wpk.test"},
    "spec": {
        "group": "wpk.test",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    }
                },
            }
        ],
    },
}


def partly(kind: str, change: JsonObject) -> JsonObject:
    """A manifest of only those fields."""
    whole = manifests()[kind]
    return {"apiVersion": whole["apiVersion"], "kind": whole["kind"], "metadata": {"name": "it"}, **change}


def applying(manifest: JsonObject | list[JsonObject], **more: bool | str) -> JsonObject:
    return {"action": "apply", "manifest": copy.deepcopy(manifest), **more}  # type: ignore[dict-item]


async def managers(space: Space, what: str) -> list[tuple[str, str]]:
    """Who owns fields of the object, and how."""
    item = await space.kubectl.json("get", what, "--namespace", space.name, "--show-managed-fields")
    return [(each["manager"], each["operation"]) for each in item["metadata"]["managedFields"]]


async def applied(space: Space, what: str) -> list[Object]:
    """The fields of the object that are ours by apply."""
    item = await space.kubectl.json("get", what, "--namespace", space.name, "--show-managed-fields")
    return [each["fieldsV1"] for each in item["metadata"]["managedFields"] if each["operation"] == "Apply"]


@pytest.mark.parametrize("kind", CHANGES)
async def test_an_object_that_is_not_there_is_created_once_and_its_undo_deletes_it(
    space: Space, steps: Steps, kind: str
) -> None:
    config = applying(manifests()[kind])
    assert (await steps.run(config))["created"] is True
    uid = await space.field(f"{kind}/it", "metadata.uid")
    assert (await steps.again(config))["created"] is False
    assert await space.field(f"{kind}/it", "metadata.uid") == uid
    output = await steps.undo()
    assert output["restored"] == [f"{kind} {space.name}/it deleted"]
    await eventually(lambda: _is_gone(space, f"{kind}/it"))


async def _is_gone(space: Space, what: str) -> bool:
    return await space.field(what, "metadata.name") == ""


@pytest.mark.parametrize("kind", CHANGES)
async def test_an_object_that_is_there_is_changed_and_comes_back_byte_for_byte_with_its_owners(
    space: Space, steps: Steps, kind: str
) -> None:
    what = await there(space, kind)
    before = await wanted(space, what)
    config = applying(partly(kind, CHANGES[kind]), force=True)
    output = await steps.run(config)
    assert output["created"] is False
    assert output["changed"]
    assert ("wpk-agent", "Apply") in await managers(space, what)
    done = await wanted(space, what)
    assert (await steps.again(config))["changed"] == []
    assert await wanted(space, what) == done
    await steps.undo()
    assert await wanted(space, what) == before
    assert ("wpk-agent", "Apply") not in await managers(space, what)
    assert (await steps.undo())["not_restored"] == []
    assert await wanted(space, what) == before


async def test_a_custom_resource_is_applied_and_undone_byte_for_byte(space: Space, steps: Steps) -> None:
    await space.apply(CRD)
    await space.kubectl("wait", "--for=condition=Established", "crd/widgets.wpk.test", "--timeout=60s")
    widget: JsonObject = {"apiVersion": "wpk.test/v1", "kind": "Widget", "metadata": {"name": "it"}}
    made = {**widget, "spec": {"empty": {}, "list": [{"a": 1}, {}], "size": 1}}
    await space.kubectl("create", "--namespace", space.name, "-f", "-", stdin=json.dumps(made))
    before = await wanted(space, "widgets.wpk.test/it")
    change: JsonObject = {"empty": {"now": {"full": True}}, "size": 2, "list": [{"a": 1}], "born": {"here": {}}}
    await steps.run(applying({**widget, "spec": change}, force=True))
    assert await space.has("widgets.wpk.test/it", "spec.empty.now.full", "true")
    await steps.undo()
    assert await wanted(space, "widgets.wpk.test/it") == before


async def test_a_field_that_another_manager_owns_is_named_with_its_owner_and_taken_only_by_force(
    space: Space, steps: Steps
) -> None:
    what = await there(space, "deployment")
    await space("scale", what, "--replicas=4")
    manifest = partly("deployment", {"spec": {"replicas": 6}})
    before = await wanted(space, what)
    for ask in (steps.plan, steps.run):
        with pytest.raises(PermanentError, match=r"spec\.replicas \(of \"kubectl\".*force: true") as caught:
            await ask(applying(manifest))
        assert caught.value.code == "field_conflict"
    assert await wanted(space, what) == before
    assert steps.records == {}
    assert (await steps.run(applying(manifest, force=True)))["changed"] == ["spec.replicas"]


async def test_what_is_so_already_is_applied_without_a_change_and_its_ownership_given_up_by_undo(
    space: Space, steps: Steps
) -> None:
    what = await there(space, "configmap")
    before = await wanted(space, what)
    config = applying(partly("configmap", {"data": {"a": "1"}}))
    assert not (await steps.plan(config)).changes
    assert (await steps.run(config))["changed"] == []
    assert ("wpk-agent", "Apply") in await managers(space, what)
    version = await space.field(what, "metadata.resourceVersion")
    assert (await steps.run(config, "other"))["changed"] == []
    assert await space.field(what, "metadata.resourceVersion") == version
    await steps.undo()
    assert ("wpk-agent", "Apply") not in await managers(space, what)
    assert await wanted(space, what) == before


async def test_a_field_that_the_next_manifest_leaves_out_goes_and_comes_back_by_undo(
    space: Space, steps: Steps
) -> None:
    await steps.run(applying(partly("configmap", {"data": {"a": "1", "b": "2"}})), "first")
    before, owned = await wanted(space, "configmap/it"), await applied(space, "configmap/it")
    assert "data.b" in str((await steps.run(applying(partly("configmap", {"data": {"a": "1"}})), "second"))["changed"])
    assert await space.field("configmap/it", "data.b") == ""
    await steps.undo("second")
    assert await wanted(space, "configmap/it") == before
    assert await applied(space, "configmap/it") == owned
    output = await steps.run(applying(partly("configmap", {"data": {"a": "1"}})), "third")
    assert "data.b" in str(output["changed"])  # it was ours alone again, so it goes with the manifest that omits it


async def test_a_list_is_applied_in_its_order_and_undone_in_reverse(space: Space, steps: Steps) -> None:
    what = await there(space, "configmap")
    before = await wanted(space, what)
    config = applying([partly("configmap", {"data": {"a": "2"}}), manifests()["service"]], force=True)
    output = await steps.run(config)
    assert [each["created"] for each in output["applied"]] == [False, True]  # type: ignore[union-attr,index,call-overload]
    again = await steps.again(config)
    assert [each["changed"] for each in again["applied"]] == [[], []]  # type: ignore[union-attr,index,call-overload]
    output = await steps.undo()
    assert output["restored"] == [f"service {space.name}/it deleted", "data.a 2 → 1"]
    assert await wanted(space, what) == before


async def test_an_object_that_others_have_put_fields_into_is_not_deleted_by_undo(space: Space, steps: Steps) -> None:
    await steps.run(applying(manifests()["configmap"]))
    await space("patch", "configmap/it", "--field-manager=ann", "-p", '{"data":{"more":"1"}}')
    with pytest.raises(PermanentError, match="has fields set by ann"):
        await steps.undo()
    assert await space.has("configmap/it", "data.more", "1")


async def test_another_run_that_changes_the_object_takes_it_over_from_the_one_that_created_it(
    space: Space, steps: Steps
) -> None:
    await steps.run(applying(manifests()["configmap"]), "first")
    assert (await steps.run(applying(manifests()["configmap"]), "same"))["changed"] == []
    key = f"metadata.annotations.{CREATED_BY.replace('.', chr(92) + '.')}"
    assert await space.field("configmap/it", key)
    await steps.run(applying({**manifests()["configmap"], "data": {"a": "7"}}), "second")
    with pytest.raises(PermanentError, match="not the one that the step created"):
        await steps.undo("first")
    await steps.undo("second")
    assert (await steps.undo("first"))["restored"] == [f"configmap {space.name}/it deleted"]


async def test_an_object_of_a_namespace_that_is_not_there_is_refused_by_the_namespaces_name(
    space: Space, steps: Steps
) -> None:
    manifest = {**manifests()["configmap"], "metadata": {"name": "it", "namespace": f"{space.name}-not"}}
    for config in (applying(manifest), {"action": "create", "manifest": manifest}):
        with pytest.raises(PermanentError, match=f"there is no namespace {space.name}-not") as caught:
            await steps.run(config)
        assert caught.value.code == "no_namespace"


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"name": "it", "managedFields": [{"manager": "kubectl"}]}, "set by the API server; leave it out"),
        ({"generateName": "it-"}, "give metadata.name"),
    ],
)
async def test_a_manifest_that_can_not_be_applied_is_refused_before_anything_runs(
    steps: Steps, metadata: JsonObject, told: str
) -> None:
    config = applying({**manifests()["configmap"], "metadata": metadata})
    with pytest.raises(ConfigError, match=told):
        await steps.run(config)
    assert any(told in problem.message for problem in steps.adapter.check(config, FixedScope()))


@pytest.mark.parametrize("change", ["patch", "apply by force", "label"])
async def test_after_an_undo_fields_belong_to_who_owned_them_before(space: Space, steps: Steps, change: str) -> None:
    owned: Object = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "it", "labels": {"tier": "gold"}},
        "data": {"a": "1", "b": "2"},
    }

    async def deploys(**data: str) -> None:
        """The owner's own server-side apply, which has a conflict where somebody else owns what it changes."""
        item = {**owned, "data": {**owned["data"], **data}}
        flags = ("--server-side", "--field-manager=deployer", "--namespace", space.name)
        await space.kubectl("apply", *flags, "-f", "-", stdin=json.dumps(item))

    async def managers() -> list[Object]:
        item = await space.kubectl.json("get", "configmap/it", "--show-managed-fields", "--namespace", space.name)
        return [{**entry, "time": None} for entry in item["metadata"]["managedFields"]]

    await deploys()
    before = await managers()
    manifest: JsonObject = {**owned, "metadata": {"name": "it"}, "data": {"a": "7"}}
    configs: dict[str, JsonObject] = {
        "patch": {"action": "patch", "name": "configmap/it", "data": {"data": {"a": "7", "c": "8"}}},
        "apply by force": {"action": "apply", "manifest": manifest, "force": True},
        "label": {"action": "label", "name": "configmap/it", "labels": {"tier": "tin"}},
    }
    await steps.run(configs[change])
    assert [entry["manager"] for entry in await managers()] == ["deployer", "wpk-agent"]
    await steps.undo()
    assert await managers() == before
    await steps.undo()
    assert await managers() == before
    await deploys(a="9")
