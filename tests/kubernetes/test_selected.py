"""Steps that change all that a selector finds: all of it or nothing, once, and back again."""

from __future__ import annotations

import base64
import json

import pytest

from consumer.errors import PermanentError
from consumer.ports import JsonObject
from schemas.wpk import ResourceLimits
from tests.support.control_plane import Space
from tests.support.control_plane.kubectl import Object
from tests.support.control_plane.manifests import workload
from tests.support.k8s_steps import Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]
SHOP = "app.kubernetes.io/part-of=shop"


def shop(item: Object, **labels: str) -> Object:
    item["metadata"]["labels"] = {"app.kubernetes.io/part-of": "shop", **labels}
    return item


async def there(space: Space, *items: Object) -> None:
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(items)})
    await space.kubectl("create", "--namespace", space.name, "-f", "-", stdin=document)


async def field(space: Space, kind: str, path: str) -> list[str]:
    """The field of each object of the shop, in the order of their names."""
    template = f'{{range .items[*]}}{path}{{"\\n"}}{{end}}'
    said = await space.kubectl("get", kind, "-n", space.name, "-l", SHOP, "-o", f"jsonpath={template}")
    return said.splitlines()


async def test_a_factor_is_taken_once_of_each_number_and_all_of_them_come_back(space: Space, steps: Steps) -> None:
    await there(space, *(shop(workload("Deployment", name, replicas=n)) for name, n in (("a", 2), ("b", 1))))
    config: JsonObject = {"action": "scale", "selector": SHOP, "scale_factor": 2}

    plan = await steps.plan(config)
    assert await field(space, "deployment", "{.spec.replicas}") == ["2", "1"]
    assert plan.changes
    assert "from 2 to 4" in plan.summary
    assert "from 1 to 2" in plan.summary

    output = await steps.run(config)
    assert await field(space, "deployment", "{.spec.replicas}") == ["4", "2"]
    assert output["count"] == 2

    await space.kubectl("scale", "deployment/b", "--replicas=1", "-n", space.name)  # as if a crash had come before it
    await steps.again(config)
    assert await field(space, "deployment", "{.spec.replicas}") == ["4", "2"]

    await steps.undo()
    assert await field(space, "deployment", "{.spec.replicas}") == ["2", "1"]


async def test_what_one_of_them_refuses_changes_none(space: Space, steps: Steps) -> None:
    tiers: tuple[tuple[str, dict[str, str]], ...] = (("a", {}), ("b", {"tier": "gold"}))
    config_maps: list[Object] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}} for name, _ in tiers
    ]
    await there(space, *(shop(item, **labels) for item, (_, labels) in zip(config_maps, tiers, strict=True)))
    config: JsonObject = {"action": "label", "resource_type": "configmap", "selector": SHOP, "labels": {"tier": "tin"}}

    with pytest.raises(PermanentError, match=r"configmap .*/b has"):
        await steps.run({**config, "overwrite": False})
    assert await field(space, "configmap", "{.metadata.name}={.metadata.labels.tier}") == ["a=", "b=gold"]
    assert steps.records == {}

    await steps.run(config)
    assert await field(space, "configmap", "{.metadata.name}={.metadata.labels.tier}") == ["a=tin", "b=tin"]
    await steps.undo()
    assert await field(space, "configmap", "{.metadata.name}={.metadata.labels.tier}") == ["a=", "b=gold"]


async def test_the_packages_limits_bound_what_a_selector_finds(space: Space, steps: Steps) -> None:
    await there(space, *(shop(workload("Deployment", name, replicas=1)) for name in ("a", "b")))
    steps.limits = ResourceLimits(max_replicas=2, max_pods=1)
    refused: list[JsonObject] = [
        {"action": "scale", "replicas": 3},
        {"action": "restart"},
        {"action": "rollback"},
        {"action": "delete", "resource_type": "deployment"},
    ]
    for config in refused:
        with pytest.raises(PermanentError) as error:
            await steps.run({"selector": SHOP, **config})
        assert error.value.code == "limit", config
    assert steps.records == {}
    assert await field(space, "deployment", "{.spec.replicas}") == ["1", "1"]
    await steps.run({"action": "scale", "selector": SHOP, "replicas": 2})


async def test_old_values_of_selected_secrets_are_sealed_and_come_back(space: Space, steps: Steps) -> None:
    old, new = (base64.b64encode(text).decode() for text in (b"old-password", b"new-password"))
    secrets: list[Object] = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"password": old}}
        for name in ("a", "b")
    ]
    await there(space, *map(shop, secrets))
    output = await steps.run(
        {"action": "patch", "resource_type": "secret", "selector": SHOP, "data": {"password": new}}
    )
    assert await field(space, "secret", "{.data.password}") == [new, new]
    shown = json.dumps([steps.records, steps.summaries, output])
    assert old not in shown
    assert new not in shown
    await steps.undo()
    assert await field(space, "secret", "{.data.password}") == [old, old]
