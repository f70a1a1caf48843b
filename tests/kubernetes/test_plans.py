"""Plans on a real control plane: they change nothing, one can read them, and their digest changes if they do."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from consumer.ports import JsonObject, Plan
from schemas.canonical import digest
from tests.kubernetes.test_undo import NEW, OLD, manifests, there
from tests.support.control_plane import Space
from tests.support.control_plane.manifests import job
from tests.support.k8s_steps import Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]


def digest_of(plan: Plan) -> str:
    return digest({"plan": plan.summary, "changes": plan.changes, "detail": plan.detail})


async def state(space: Space) -> list[tuple[str, str, str]]:
    """The very state of all that the tests make: kind, name and resource version."""
    what = "deployments,statefulsets,daemonsets,configmaps,secrets,services,networkpolicies,jobs,pods"
    items = await space.kubectl.items(what, "--namespace", space.name)
    return sorted((i["kind"], i["metadata"]["name"], i["metadata"]["uid"]) for i in items if i["kind"] != "Pod")


def change(kind: str) -> list[JsonObject]:
    """Steps that change the object of that kind."""
    target: JsonObject = {"resource": f"{kind}/it"}
    steps: list[JsonObject] = [
        {"action": "patch", **target, "data": {"metadata": {"labels": {"tier": "web"}}}},
        {"action": "annotate", **target, "annotations": {"note": "two", "more": "x"}},
        {"action": "label", **target, "label": "app", "value": "other"},
        {"action": "delete", **target},
        {"action": "apply", "manifest": {**manifests()[kind], "metadata": {"name": "it", "labels": {"a": "b"}}}},
    ]
    if kind in ("deployment", "statefulset"):
        steps.append({"action": "scale", **target, "replicas": 5})
    if kind in ("deployment", "statefulset", "daemonset"):
        steps.append({"action": "restart", **target})
    return steps


@pytest.mark.parametrize("kind", manifests())
async def test_a_plan_changes_nothing_and_is_the_same_for_every_execution(
    space: Space, steps: Steps, kind: str
) -> None:
    what = await there(space, kind)
    if kind in ("deployment", "statefulset", "daemonset"):
        await space.rolled_out(what)
    before = await state(space)
    generation = await space.field(what, "metadata.generation")
    other = Steps(steps.adapter, execution="another")
    for config in change(kind):
        first, second = await steps.plan(config), await other.plan(config, "other")
        assert first.changes
        assert digest_of(first) == digest_of(second), config
        assert str(first.detail["diff"]).startswith(("change", "delete", "create"))
    assert await state(space) == before
    assert await space.field(what, "metadata.generation") == generation


@pytest.mark.parametrize("kind", [*manifests(), "job"])
@pytest.mark.parametrize("action", ["create", "apply"])
async def test_the_plan_of_a_new_object_is_the_same_though_the_server_draws_names_and_addresses(
    space: Space, steps: Steps, kind: str, action: str
) -> None:
    manifest: JsonObject = job("it") if kind == "job" else manifests()[kind]
    config: JsonObject = {"action": action, "manifest": manifest}
    first = await steps.plan(config)
    second = await Steps(steps.adapter, execution="another").plan(config, "other")
    assert digest_of(first) == digest_of(second)
    assert str(first.detail["diff"]).startswith(f"create {kind} {space.name}/it\n  + ")
    assert await space.field(f"{kind}/it", "metadata.name") == ""


async def test_a_generated_name_is_the_same_in_every_plan(space: Space, steps: Steps) -> None:
    config: JsonObject = {"action": "create", "manifest": {**job("x"), "metadata": {"generateName": "migrate-"}}}
    first = await steps.plan(config)
    second = await Steps(steps.adapter, execution="another").plan(config)
    assert digest_of(first) == digest_of(second)
    assert first.summary == f"create job {space.name}/migrate-(this step)"


async def test_the_digest_changes_with_the_step_and_with_the_object(space: Space, steps: Steps) -> None:
    what = await there(space, "deployment")
    config: JsonObject = {"action": "patch", "resource": what, "data": {"spec": {"minReadySeconds": 5}}}
    first = digest_of(await steps.plan(config))
    assert digest_of(await steps.plan({**config, "data": {"spec": {"minReadySeconds": 6}}})) != first
    await space("annotate", what, "unrelated=1")
    assert digest_of(await steps.plan(config)) == first
    await space("patch", what, "-p", '{"spec":{"minReadySeconds":1}}')
    assert digest_of(await steps.plan(config)) != first


async def test_a_plan_can_be_read(space: Space, steps: Steps) -> None:
    what = await there(space, "configmap")
    long = "one\ntwo\nthree\nfour\nfive\n"
    await space("patch", what, "-p", f'{{"data":{{"text":{long!r}}}}}'.replace("'", '"'))
    data: JsonObject = {"a": "2", "b": None, "c": "3", "text": long.replace("four", "vier")}
    plan = await steps.plan({"action": "patch", "resource": what, "data": data})
    assert plan.summary == f"patch configmap {space.name}/it: data.a, data.b, data.text, data.c"
    assert str(plan.detail["diff"]).splitlines() == [
        f"change configmap {space.name}/it",
        "  ~ data.a: 1 → 2",
        "  - data.b: 2",
        "  ~ data.text:",
        "    @@ -2,4 +2,4 @@",
        "     two",
        "     three",
        "    -four",
        "    +vier",
        "     five",
        "  + data.c: 3",
    ]
    assert plan.detail["changes"] == [
        {"path": "data.a", "from": "1", "to": "2"},
        {"path": "data.b", "from": "2"},
        {"path": "data.text", "from": long, "to": data["text"]},
        {"path": "data.c", "to": "3"},
    ]


async def test_a_plan_for_a_secret_names_its_keys_and_no_value(space: Space, steps: Steps) -> None:
    what = await there(space, "secret")
    configs: list[dict[str, JsonValue]] = [
        {"action": "patch", "resource": what, "data": {"password": NEW}},
        {"action": "apply", "manifest": {**manifests()["secret"], "data": {"password": NEW}}, "force": True},
        {"action": "create", "manifest": {**manifests()["secret"], "metadata": {"name": "new"}}},
    ]
    for config in configs:
        plan = await steps.plan(config)
        assert "data.password: ***" in str(plan.detail["diff"])
        assert OLD not in repr(plan)
        assert NEW not in repr(plan)


async def test_the_plan_of_an_undo_changes_nothing_and_says_what_comes_back(space: Space, steps: Steps) -> None:
    what = await there(space, "deployment")
    await steps.run({"action": "scale", "resource": what, "replicas": 5}, "scale")
    await steps.run({"action": "create", "manifest": manifests()["configmap"]}, "create")
    before = await state(space)
    scaled, created = await steps.plan_undo("scale"), await steps.plan_undo("create")
    assert scaled.summary == f"deployment {space.name}/it: spec.replicas 5 → 2"
    assert created.summary == f"configmap {space.name}/it: configmap {space.name}/it deleted"
    assert await state(space) == before
    assert await space.has(what, "spec.replicas", "5")
