"""The k8s adapter against an API server over real HTTP: objects and fields that are changed, and the way back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.errors import PermanentError
from consumer.ports import JsonObject
from tests.support.eventually import eventually
from tests.support.k8s_api import Fault, K8sApi, k8s_api
from tests.support.k8s_steps import FixedScope, Steps, available, job, rolled_out, running_steps

API = {"resource_type": "deployment", "name": "api"}


@pytest.fixture
async def api() -> AsyncIterator[K8sApi]:
    async with k8s_api() as server:
        yield server


@pytest.fixture
async def steps(api: K8sApi, tmp_path: Path) -> AsyncIterator[Steps]:
    async with running_steps(api, tmp_path) as running:
        yield running


SECRET = "c3dvcmRmaXNo"


def images(api: K8sApi, name: str = "api") -> list[str]:
    return [c["image"] for c in api.get("Deployment", name)["spec"]["template"]["spec"]["containers"]]


async def changed_image(api: K8sApi, steps: Steps, image: str, name: str = "deploy") -> None:
    containers = [{"name": "main", "image": image}]
    data = {"spec": {"template": {"spec": {"containers": containers}}}}
    await steps.run({"action": "patch", **API, "data": data}, name)
    await eventually(lambda: available(api))


# --- patch, annotate, label -------------------------------------------------------------------------------------


async def test_undo_of_a_patch_restores_the_fields_it_touched_and_no_others(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    await changed_image(api, steps, "api:2")
    api.store.touch(api.get("Deployment", "api"), spec={"replicas": 5})
    output = await steps.undo("deploy")
    assert output["restored"] == ["spec.template.spec.containers[0].image api:2 → api:1"]
    assert images(api) == ["api:1"]
    assert api.get("Deployment", "api")["spec"]["replicas"] == 5


async def test_no_value_of_a_secret_leaves_the_adapter_and_the_undo_record_is_sealed(api: K8sApi, steps: Steps) -> None:
    api.create("Secret", "payments", {"metadata": {"name": "db"}, "data": {"password": SECRET, "user": "cm9vdA=="}})
    target = {"resource_type": "secret", "name": "db"}
    config = {"action": "patch", **target, "data": {"password": "bmV1"}}
    plan = await steps.plan(config)
    output = await steps.run(config)
    assert output["changed"] == ["data.password"]
    assert api.get("Secret", "db")["data"] == {"password": "bmV1", "user": "cm9vdA=="}
    whole = await steps.run({"action": "get", **target}, "get")
    assert whole["data"] == {"password": "***", "user": "***"}
    undone = await steps.undo()
    assert undone["restored"] == ["data.password"]
    assert api.get("Secret", "db")["data"]["password"] == SECRET
    said = repr((plan, output, whole, undone, steps.lines, steps.summaries, steps.records))
    assert SECRET not in said
    assert "bmV1" not in said
    one = await steps.run({"action": "get", **target, "field": "data.password"}, "one")
    assert one["value"] == SECRET
    part = await steps.run({"action": "get", **target, "field": "data"}, "part")
    assert part["value"] == {"password": "***", "user": "***"}


async def test_a_sealed_record_that_was_changed_is_refused(api: K8sApi, steps: Steps) -> None:
    api.create("Secret", "payments", {"metadata": {"name": "db"}, "data": {"password": SECRET}})
    await steps.run({"action": "patch", "resource": "secret/db", "data": {"password": "bmV1"}})
    steps.records["step"]["about"] = []  # what it is about can be read, but not be exchanged
    with pytest.raises(PermanentError, match="was changed since it was made"):
        await steps.undo()
    assert api.get("Secret", "db")["data"] == {"password": "bmV1"}


async def test_an_invalid_value_for_a_secret_is_not_quoted_in_the_error(api: K8sApi, steps: Steps) -> None:
    api.create("Secret", "payments", {"metadata": {"name": "db"}})
    config = {"action": "patch", "resource_type": "secret", "name": "db", "data": {"password": "no base64!"}}
    with pytest.raises(PermanentError) as caught:
        await steps.run(config)
    assert "no base64!" not in str(caught.value)


async def test_a_field_that_the_kind_does_not_have_is_refused(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    with pytest.raises(PermanentError, match="unknown field"):
        await steps.run({"action": "patch", **API, "data": {"spec": {"replcas": 5}}})
    assert api.get("Deployment", "api")["metadata"]["generation"] == 1


async def test_annotate_counts_up_and_loses_no_count_that_comes_at_the_same_time(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    config = {"action": "annotate", **API, "annotation": "wpk.example/restarts", "value": "increment"}
    assert (await steps.run(config, "first"))["value"] == "1"
    api.faults.append(Fault("PATCH", "deployments/api$", 409))
    assert (await steps.run(config, "second"))["value"] == "2"
    assert api.get("Deployment", "api")["metadata"]["annotations"]["wpk.example/restarts"] == "2"
    assert not steps.adapter.prepare(config, FixedScope()).repeatable
    assert (await steps.again(config, "second"))["value"] == "2"
    await steps.undo("second")
    assert api.get("Deployment", "api")["metadata"]["annotations"]["wpk.example/restarts"] == "1"


async def test_a_count_by_somebody_else_is_not_taken_for_the_steps_own(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    config = {"action": "annotate", **API, "annotation": "n", "value": "increment"}
    context = steps.context()

    async def capture(record: JsonObject, summary: str) -> None:
        """Between the step's look and its change."""
        await context.capture(record, summary)
        api.store.touch(api.get("Deployment", "api"), metadata={"annotations": {"n": "1"}})

    with pytest.raises(PermanentError, match="this step has counted nothing"):
        await steps.adapter.prepare(config, FixedScope()).run(replace(context, capture=capture))
    assert api.get("Deployment", "api")["metadata"]["annotations"]["n"] == "1"


async def test_a_patch_that_tests_what_it_changes_is_not_refused_when_it_is_repeated(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    path = "/spec/replicas"
    patch = [{"op": "test", "path": path, "value": 3}, {"op": "replace", "path": path, "value": 5}]
    config = {"action": "patch", **API, "data": patch}
    first = await steps.run(config)
    assert await steps.again(config) == first
    api.store.touch(api.get("Deployment", "api"), spec={"replicas": 4})
    with pytest.raises(PermanentError) as caught:  # somebody else has changed it since: that is for people to see
        await steps.again(config)
    assert caught.value.code == "invalid"


async def test_undo_of_labels_removes_added_ones_and_restores_changed_ones(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    output = await steps.run({"action": "label", **API, "labels": {"tier": "gold", "app": None}})
    assert output["changed"] == ["metadata.labels.tier", "metadata.labels.app"]
    assert api.get("Deployment", "api")["metadata"]["labels"] == {"tier": "gold"}
    await steps.undo()
    assert api.get("Deployment", "api")["metadata"]["labels"] == {"app": "api"}


# --- create, delete ---------------------------------------------------------------------------------------------


async def test_a_job_is_created_once_waited_for_and_deleted_by_undo(api: K8sApi, steps: Steps) -> None:
    config = {"action": "create", "manifest": job(generateName="migrate-")}
    made = await steps.run(config)
    again = await steps.again(config)
    assert (made["already"], again["already"], again["uid"]) == (False, True, made["uid"])
    assert len(api.store.all("Job")) == 1
    waited = await steps.run({"action": "wait", "resource_type": "job", "name": made["name"]}, "wait")
    assert waited["condition"] == "complete"
    output = await steps.undo()
    assert output["restored"] == [f"job payments/{made['name']} deleted"]
    assert api.store.all("Job") == []
    assert (await steps.undo())["not_restored"] == []


async def test_undo_of_a_create_does_not_delete_what_someone_else_made(api: K8sApi, steps: Steps) -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "flags"}, "data": {"a": "1"}}
    await steps.run({"action": "create", "manifest": manifest})
    api.store.remove(api.get("ConfigMap", "flags"))
    api.create("ConfigMap", "payments", manifest)
    with pytest.raises(PermanentError, match="not the one that the step created"):
        await steps.undo()
    assert api.get("ConfigMap", "flags")
    with pytest.raises(PermanentError, match="already exists"):
        await steps.run({"action": "create", "manifest": manifest}, "other")


async def test_a_failed_job_ends_the_wait_at_once(api: K8sApi, steps: Steps) -> None:
    api.controllers.broken_images.add("job:1")
    made = await steps.run({"action": "create", "manifest": job(name="broken")})
    with pytest.raises(PermanentError, match="the job failed") as caught:
        await steps.run({"action": "wait", "resource_type": "job", "name": made["name"]}, "wait")
    assert caught.value.code == "failed"


async def test_a_deleted_object_is_made_again_by_undo_and_a_job_is_not(api: K8sApi, steps: Steps) -> None:
    api.create("ConfigMap", "payments", {"metadata": {"name": "flags", "labels": {"a": "b"}}, "data": {"x": "1"}})
    await steps.run({"action": "delete", "resource_type": "configmap", "name": "flags"})
    assert api.store.get("ConfigMap", "payments", "flags") is None
    output = await steps.undo()
    assert output["restored"] == ["configmap payments/flags made again"]
    assert api.get("ConfigMap", "flags")["data"] == {"x": "1"}
    assert (await steps.undo())["not_restored"] == []
    await steps.run({"action": "create", "manifest": job(name="once")}, "create")
    await steps.run({"action": "delete", "resource_type": "job", "name": "once"}, "delete")
    output = await steps.undo("delete")
    assert output["restored"] == []
    assert "run it again" in str(output["not_restored"])


async def test_a_repeated_deletion_spares_a_new_object_of_the_same_name(api: K8sApi, steps: Steps) -> None:
    api.create("ConfigMap", "payments", {"metadata": {"name": "flags"}})
    config = {"action": "delete", "resource_type": "configmap", "name": "flags"}
    await steps.run(config)
    api.create("ConfigMap", "payments", {"metadata": {"name": "flags"}, "data": {"new": "1"}})
    await steps.again(config)
    assert api.get("ConfigMap", "flags")["data"] == {"new": "1"}
