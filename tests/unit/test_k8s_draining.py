"""Which pods a drain evicts, leaves, or refuses to go on for: kubectl's rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.adapters.k8s.draining import Options, check, judge
from consumer.errors import PermanentError
from consumer.ports import JsonObject

NOTHING = Options(ignore_daemonsets=False, delete_emptydir_data=False, force=False, daemonsets=())
ALL = Options(ignore_daemonsets=True, delete_emptydir_data=True, force=True, daemonsets=())
AGENT = ("payments", "agent")


def pod(
    owner: str | None = "ReplicaSet/web", *, phase: str = "Running", emptydir: bool = False, mirror: bool = False
) -> JsonObject:
    metadata: JsonObject = {"name": "web-1", "namespace": "payments", "uid": "u1"}
    if owner is not None:
        kind, _, name = owner.partition("/")
        metadata["ownerReferences"] = [{"kind": kind, "name": name, "uid": "o1", "controller": True}]
    if mirror:
        metadata["annotations"] = {"kubernetes.io/config.mirror": "hash"}
    volumes = [{"name": "data", "emptyDir": {}}] if emptydir else [{"name": "data", "configMap": {"name": "c"}}]
    return {"metadata": metadata, "spec": {"volumes": list(volumes)}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("item", "options", "fate"),
    [
        (pod(), NOTHING, "evict"),
        (pod(None), NOTHING, "refuse"),
        (pod(None), ALL, "evict"),
        (pod(emptydir=True), NOTHING, "refuse"),
        (pod(emptydir=True), replace(NOTHING, force=True), "refuse"),
        (pod(emptydir=True), replace(NOTHING, delete_emptydir_data=True), "evict"),
        (pod("DaemonSet/agent"), replace(NOTHING, daemonsets=[AGENT]), "refuse"),
        (pod("DaemonSet/agent"), replace(ALL, daemonsets=[AGENT]), "leave"),
        (pod("DaemonSet/agent", emptydir=True), replace(NOTHING, ignore_daemonsets=True, daemonsets=[AGENT]), "leave"),
        (pod("DaemonSet/agent"), replace(ALL, force=False), "refuse"),
        (pod("DaemonSet/agent"), ALL, "evict"),
        (pod("Node/node-1", mirror=True, emptydir=True), NOTHING, "leave"),
    ],
)
def test_a_pod_is_judged_as_kubectl_does(item: JsonObject, options: Options, fate: str) -> None:
    (verdict,) = judge([item], options)
    assert verdict.fate == fate


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize("owner", [None, "DaemonSet/agent", "Job/once"])
def test_a_pod_that_is_over_is_evicted_whatever_it_was(phase: str, owner: str | None) -> None:
    item = pod(owner, phase=phase, emptydir=True)
    (verdict,) = judge([item], replace(NOTHING, daemonsets=[AGENT]))
    assert verdict.fate == "evict"


def test_a_refusal_names_each_reason_once_with_its_pods_and_the_remedy() -> None:
    alone = [pod(None) for _ in range(7)]
    for number, item in enumerate(alone):
        item["metadata"]["name"] = f"web-{number}"
    with pytest.raises(PermanentError) as caught:
        check(judge([*alone, pod(emptydir=True)], NOTHING), "node-1")
    text = str(caught.value)
    assert caught.value.code == "refused"
    assert text.count("force: true") == 1 and text.count("delete_emptydir_data: true") == 1
    assert "payments/web-0" in text and "and 2 more" in text


def test_what_an_eviction_costs_is_said() -> None:
    (verdict,) = judge([pod(None, emptydir=True)], ALL)
    assert "emptyDir is lost" in verdict.why and "no controller" in verdict.why
