"""The k8s adapter against an API server over real HTTP: scaling, restarting and rolling back, and the way back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.errors import PermanentError
from schemas.wpk import ResourceLimits
from tests.support.eventually import eventually
from tests.support.k8s_api import K8sApi, k8s_api
from tests.support.k8s_steps import FixedScope, Steps, available, deployment, rolled_out, running_steps

API = {"resource_type": "deployment", "name": "api"}


@pytest.fixture
async def api() -> AsyncIterator[K8sApi]:
    async with k8s_api() as server:
        yield server


@pytest.fixture
async def steps(api: K8sApi, tmp_path: Path) -> AsyncIterator[Steps]:
    async with running_steps(api, tmp_path) as running:
        yield running


def images(api: K8sApi, name: str = "api") -> list[str]:
    return [c["image"] for c in api.get("Deployment", name)["spec"]["template"]["spec"]["containers"]]


# --- scale ------------------------------------------------------------------------------------------------------


async def test_scale_goes_through_the_scale_subresource_and_says_from_what_to_what(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    output = await steps.run({"action": "scale", "name": "api", "replicas": 5})
    assert output == {"resource": "deployment payments/api", "from": 3, "to": 5, "replicas": 5}
    (patch,) = api.sent("PATCH")
    assert patch.path.endswith("/deployments/api/scale")
    assert patch.content_type == "application/merge-patch+json"
    assert api.get("Deployment", "api")["spec"]["replicas"] == 5


async def test_undo_of_a_scale_brings_back_the_number_before_it(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    await steps.run({"action": "scale", "name": "api", "replicas": 5})
    plan = await steps.plan_undo()
    assert plan.changes
    assert api.get("Deployment", "api")["spec"]["replicas"] == 5
    output = await steps.undo()
    assert output["restored"] == ["spec.replicas 5 → 3"]
    assert api.get("Deployment", "api")["spec"]["replicas"] == 3
    again = await steps.undo()
    assert again["not_restored"] == []
    assert api.get("Deployment", "api")["spec"]["replicas"] == 3


async def test_undo_of_a_scale_leaves_a_number_that_someone_else_set(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    await steps.run({"action": "scale", "name": "api", "replicas": 5, "on_foreign_change": "skip"})
    api.store.touch(api.get("Deployment", "api"), spec={"replicas": 7})
    output = await steps.undo()
    assert output["restored"] == []
    assert output["not_restored"] == ["spec.replicas is 7 and not 5"]
    assert api.get("Deployment", "api")["spec"]["replicas"] == 7


async def test_a_repeated_attempt_does_not_apply_a_scale_factor_twice(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    config = {"action": "scale", "name": "api", "scale_factor": 1.5, "max_replicas": 10}
    assert (await steps.run(config))["to"] == 5
    assert (await steps.again(config))["to"] == 5
    assert api.get("Deployment", "api")["spec"]["replicas"] == 5


async def test_scale_to_original_brings_back_what_the_first_scaling_step_found(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    await steps.run({"action": "scale", "name": "api", "replicas": 4}, "up")
    await steps.run({"action": "scale", "name": "api", "replicas": 6}, "up-more")
    config = {"action": "scale", "name": "api", "replicas": "original"}
    action = steps.adapter.prepare(config, FixedScope())
    output = await action.run(steps.context("back", phase="rollback", originals=dict(steps.records)))
    assert output["to"] == 3
    with pytest.raises(PermanentError, match="no original number"):
        await action.run(steps.context("back", phase="rollback"))


async def test_scale_above_the_packages_limit_is_refused_before_anything_is_changed(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    steps.limits = ResourceLimits(max_replicas=4)
    with pytest.raises(PermanentError, match="max_replicas is 4") as caught:
        await steps.run({"action": "scale", "name": "api", "replicas": 5})
    assert caught.value.code == "limit"
    assert api.sent("PATCH") == []


async def test_a_plan_of_a_scale_asks_the_server_and_changes_nothing(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    plan = await steps.plan({"action": "scale", "name": "api", "replicas": 5})
    assert plan.summary == "scale deployment payments/api from 3 to 5"
    assert plan.detail["changes"] == [{"path": "spec.replicas", "from": 3, "to": 5}]
    assert [seen.query.get("dryRun") for seen in api.sent("PATCH")] == ["All"]
    assert api.get("Deployment", "api")["spec"]["replicas"] == 3


# --- restart ----------------------------------------------------------------------------------------------------


async def test_restart_replaces_all_pods_and_a_repeated_attempt_is_no_second_restart(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    before = {pod["metadata"]["uid"] for pod in api.store.all("Pod")}
    config = {"action": "restart", "name": "api"}
    output = await steps.run(config)
    assert output["already"] is False
    await eventually(lambda: available(api))
    after = {pod["metadata"]["uid"] for pod in api.store.all("Pod")}
    assert len(after) == 3
    assert not before & after
    template = api.get("Deployment", "api")["spec"]["template"]
    assert template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] == output["restarted_at"]
    again = await steps.again(config)
    assert again["already"] is True
    assert api.get("Deployment", "api")["spec"]["template"] == template


async def test_undo_of_a_restart_goes_back_to_the_same_pods_template(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    template = api.get("Deployment", "api")["spec"]["template"]
    await steps.run({"action": "restart", "name": "api"})
    await eventually(lambda: available(api))
    output = await steps.undo()
    assert output["not_restored"] == []
    assert api.get("Deployment", "api")["spec"]["template"] == template
    await eventually(lambda: available(api))
    revision = api.get("Deployment", "api")["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
    assert (len(api.store.all("ReplicaSet")), revision) == (2, "3")  # the first ReplicaSet again


async def test_a_paused_deployment_is_not_restarted(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    api.store.touch(api.get("Deployment", "api"), spec={"paused": True})
    with pytest.raises(PermanentError, match="is paused"):
        await steps.run({"action": "restart", "name": "api"})
    assert api.sent("PATCH") == []


async def test_restart_of_pods_deletes_them_for_their_controller_to_replace(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    before = {pod["metadata"]["name"] for pod in api.store.all("Pod")}
    config = {"action": "restart", "resource_type": "pod", "selector": "app=api", "grace_period": "5s"}
    await steps.run(config)
    await eventually(lambda: available(api) and not before & {p["metadata"]["name"] for p in api.store.all("Pod")})
    assert {seen.body["gracePeriodSeconds"] for seen in api.sent("DELETE")} == {5}
    deletions = len(api.sent("DELETE"))
    replaced = {pod["metadata"]["uid"] for pod in api.store.all("Pod")}
    await steps.again(config)  # deletes at most the old ones, which are gone
    assert {pod["metadata"]["uid"] for pod in api.store.all("Pod")} == replaced
    assert len(api.sent("DELETE")) == 2 * deletions
    undone = await steps.undo()
    assert undone["restored"] == []
    assert len(undone["not_restored"]) == 3


async def test_a_bare_pod_is_not_restarted_as_nothing_would_replace_it(api: K8sApi, steps: Steps) -> None:
    api.create("Pod", "payments", {"metadata": {"name": "bare"}, "spec": {"containers": [{"name": "a", "image": "a"}]}})
    with pytest.raises(PermanentError, match="no controller"):
        await steps.run({"action": "restart", "resource_type": "pod", "name": "bare"})


# --- rollback ---------------------------------------------------------------------------------------------------


async def changed_image(api: K8sApi, steps: Steps, image: str, name: str = "deploy") -> None:
    containers = [{"name": "main", "image": image}]
    data = {"spec": {"template": {"spec": {"containers": containers}}}}
    await steps.run({"action": "patch", **API, "data": data}, name)
    await eventually(lambda: available(api))


async def test_rollback_goes_to_the_previous_revision_once_however_often_it_is_tried(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    await changed_image(api, steps, "api:2")
    config = {"action": "rollback", "name": "api"}
    output = await steps.run(config, "back")
    assert output == {
        "resource": "deployment payments/api",
        "from_revision": 2,
        "to_revision": 1,
        "unchanged": False,
    }
    assert images(api) == ["api:1"]
    await eventually(lambda: available(api))
    again = await steps.again(config, "back")
    assert again["unchanged"] is True
    assert images(api) == ["api:1"]
    undone = await steps.undo("back")
    assert undone["not_restored"] == []
    assert images(api) == ["api:2"]


async def test_rollback_to_a_revision_that_is_not_there_names_those_that_are(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    await changed_image(api, steps, "api:2")
    with pytest.raises(PermanentError, match=r"no revision 9; it has 1, 2"):
        await steps.run({"action": "rollback", "name": "api", "revision": 9}, "back")
    with pytest.raises(PermanentError, match="no earlier revision"):
        await rolled_out(api, "fresh")
        await steps.run({"action": "rollback", "name": "fresh"}, "back-fresh")


async def test_a_plan_of_a_rollback_shows_the_difference(api: K8sApi, steps: Steps) -> None:
    await rolled_out(api)
    await changed_image(api, steps, "api:2")
    plan = await steps.plan({"action": "rollback", "name": "api"}, "back")
    assert plan.summary == "roll deployment payments/api back from revision 2 to 1"
    path = "spec.template.spec.containers[0].image"
    assert plan.detail["changes"] == [{"path": path, "from": "api:2", "to": "api:1"}]
    assert images(api) == ["api:2"]


async def test_rollback_of_a_statefulset_takes_the_template_of_its_controller_revision(
    api: K8sApi, steps: Steps
) -> None:
    manifest = {**deployment("db", replicas=1, image="db:1"), "kind": "StatefulSet"}
    api.create("StatefulSet", "payments", manifest)
    target = {"resource_type": "statefulset", "name": "db"}
    await steps.run({"action": "wait", **target}, "ready")
    data = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "db:2"}]}}}}
    await steps.run({"action": "patch", **target, "data": data}, "deploy")
    await steps.run({"action": "wait", **target, "condition": "rollout"}, "rolled")
    output = await steps.run({"action": "rollback", **target}, "back")
    assert (output["from_revision"], output["to_revision"]) == (2, 1)
    containers = api.get("StatefulSet", "db")["spec"]["template"]["spec"]["containers"]
    assert [container["image"] for container in containers] == ["db:1"]
