"""A pod's status from its containers, by a kubelet's rules (kubelet_pods.go, getPhase, and its conditions)."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.kubelet.api import Object
from tests.support.kubelet.container import Container, now


def phase(policy: str, initial: Sequence[Container], containers: Sequence[Container], *, ended: bool) -> str:
    """The pod's phase; `ended` where its containers will not run (again)."""
    codes = [container.last_code if container.waiting else container.code for container in containers]
    if ended:
        return "Succeeded" if all(code == 0 for code in codes) else "Failed"
    if policy == "Never" and any(container.code for container in initial):
        return "Failed"
    if not initialized(initial) or any(each.waiting and each.last_code is None for each in containers):
        return "Pending"
    if policy == "Always" or any(container.running for container in containers):
        return "Running"
    if all(code == 0 for code in codes):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def initialized(initial: Sequence[Container]) -> bool:
    """Whether all init containers came to a good end."""
    return all(container.code == 0 for container in initial)


class Conditions:
    """The pod's conditions, each with the time of its last change."""

    def __init__(self) -> None:
        self._known: dict[str, Object] = {}

    def of(self, phase: str, initial: Sequence[Container], unready: Sequence[str]) -> list[Object]:
        """The conditions of a pod whose containers `unready` are not ready."""
        over = phase in ("Succeeded", "Failed")
        missing = f"containers with unready status: [{' '.join(unready)}]"
        why = ("PodCompleted", "") if phase == "Succeeded" else ("ContainersNotReady", missing)
        ready = not unready and not over
        waiting = ("ContainersNotInitialized", "containers with incomplete status")
        self._set("PodReadyToStartContainers", not over)
        self._set("Initialized", initialized(initial), *waiting)
        self._set("ContainersReady", ready, *why)
        self._set("Ready", ready, *why)
        return list(self._known.values())

    def _set(self, name: str, true: bool, reason: str = "", message: str = "") -> None:
        value: Object = {"type": name, "status": str(true)}
        # A strategic merge keeps what is not named, so a reason that holds no more is taken out by name.
        value |= {"reason": None, "message": None} if true else {"reason": reason or None, "message": message or None}
        before = self._known.get(name, {})
        changed = now() if before.get("status") != value["status"] else before["lastTransitionTime"]
        self._known[name] = {**value, "lastTransitionTime": changed}
