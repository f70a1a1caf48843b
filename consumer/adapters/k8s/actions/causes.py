"""Why a workload's pods are not there or not ready: what `kubectl rollout status` leaves its user to look for."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue

from consumer.adapters.k8s import kinds, rollout, targets
from consumer.adapters.k8s.actions.reads import selector_query
from consumer.adapters.k8s.client import Cluster
from consumer.errors import StepError
from consumer.ports import JsonObject

_MAX_TEXT = 300
#: The most causes that are told.
MOST = 3
#: Reasons of a waiting container that are but its way to run.
_STARTING = frozenset({"ContainerCreating", "PodInitializing", ""})


async def causes(cluster: Cluster, kind: kinds.Kind, item: JsonObject) -> list[str]:
    """The causes, each once with the number of pods that it holds; empty where nothing tells one.

    It only explains, so what it may not read it leaves out.
    """
    try:
        found = list(_refused(item))
        if kind.name in kinds.WORKLOADS:
            found = found or await _events(cluster, kind, item)
            pods = await cluster.items(kinds.POD, rollout.text(item, "metadata", "namespace"), selector_query(item))
        else:
            pods = [item] if kind == kinds.POD else []
    except StepError:
        return []
    counts: dict[str, int] = {}
    for pod in pods:
        for why in _of_pod(pod):
            counts[why] = counts.get(why, 0) + 1
    found += [why if count == 1 else f"{why} ({count} pods)" for why, count in counts.items()]
    return [why if len(why) <= _MAX_TEXT else why[:_MAX_TEXT] + "…" for why in found[:MOST]]


def _refused(item: JsonObject) -> Iterator[str]:
    """What a deployment or a ReplicaSet says of pods that it may not make: a quota, PodSecurity, a webhook."""
    for condition in rollout.conditions(item):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            yield f"pods are refused: {_line(condition.get('message'))}"


async def _events(cluster: Cluster, kind: kinds.Kind, item: JsonObject) -> list[str]:
    """The same of kinds that have no such condition: by the newest event."""
    if kind.name not in ("StatefulSet", "DaemonSet", "Job"):
        return []
    if kind.name != "DaemonSet" and rollout.integer(item, "status", "replicas") >= _wanted(item):
        return []
    selector = f"involvedObject.uid={targets.uid_of(item)},reason=FailedCreate"
    namespace = rollout.text(item, "metadata", "namespace")
    events = await cluster.items(kinds.EVENT, namespace, {"fieldSelector": selector})
    newest = max(events, key=lambda event: rollout.text(event, "lastTimestamp"), default=None)
    return [] if newest is None else [f"pods are refused: {_line(newest.get('message'))}"]


def _wanted(item: JsonObject) -> int:
    return rollout.integer(item, "spec", "replicas", default=1)


def _of_pod(pod: JsonObject) -> Iterator[str]:
    """What keeps one pod from being ready."""
    for condition in rollout.conditions(pod):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield f"no node for it: {_line(condition.get('message'))}"
    for part in ("initContainerStatuses", "containerStatuses"):
        states = rollout.mapping(pod, "status").get(part)
        for state in states if isinstance(states, list) else []:
            if isinstance(state, dict) and (why := _of_container(state, first=part[0] == "i")) is not None:
                yield why


def _of_container(state: JsonObject, *, first: bool) -> str | None:
    name = f"{'init container' if first else 'container'} {state.get('name')}"
    waits, runs = rollout.mapping(state, "state", "waiting"), rollout.mapping(state, "state").get("running")
    reason = str(waits.get("reason") or "")
    ended = rollout.mapping(state, "state", "terminated") or rollout.mapping(state, "lastState", "terminated")
    code = rollout.integer(ended, "exitCode")
    if reason == "CrashLoopBackOff":  # its message says no more
        return f"{name}: {reason}" + (f", last ended with exit code {code} ({ended.get('reason')})" if ended else "")
    if reason not in _STARTING:
        return f"{name}: {reason}: {_line(waits.get('message'))}".removesuffix(": ")
    if runs is None:
        return f"{name} ended with exit code {code} ({ended.get('reason')})" if code else None
    return f"{name} runs and is not ready" if state.get("ready") is False and not first else None


def _line(value: JsonValue) -> str:
    return " ".join(str(value or "").split())
