"""Which pods of a node a drain evicts, leaves, or can't go on for. Pure.

The rules are kubectl's (`pkg/drain/filters.go`), in its order: the first that does not let a pod through decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from consumer.adapters.k8s import kinds, rollout, targets
from consumer.errors import PermanentError
from consumer.ports import JsonObject

_MIRROR = "kubernetes.io/config.mirror"
Fate = Literal["evict", "leave", "refuse"]
#: What a rule says of a pod: its fate and why; None: nothing, the next one counts.
_Rule = Callable[[JsonObject, "Options"], tuple[Fate, str] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the drain may do, and what it needs to know of the cluster."""

    ignore_daemonsets: bool
    delete_emptydir_data: bool
    force: bool
    daemonsets: Collection[tuple[str, str]]
    """Those that exist, by namespace and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of one pod."""

    ref: kinds.Ref
    uid: str
    fate: Fate
    why: str
    """Empty where nothing is to be said."""

    @property
    def name(self) -> str:
        """As outputs name the pod: `namespace/name`."""
        return f"{self.ref.namespace}/{self.ref.name}"


def judge(pods: Sequence[JsonObject], options: Options) -> list[Verdict]:
    """The verdict on each pod, in the order of their names."""
    verdicts = [_judge(pod, options) for pod in pods]
    return sorted(verdicts, key=lambda verdict: verdict.name)


def check(verdicts: Sequence[Verdict], node: str) -> None:
    """Raises PermanentError `refused`, with the remedies, where a pod keeps the node from being drained."""
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.fate == "refuse":
            reasons.setdefault(verdict.why, []).append(verdict.name)
    if not reasons:
        return
    parts = [f"{why}: {_some(names)}" for why, names in reasons.items()]
    raise PermanentError(f"node {node} can't be drained: {'; '.join(parts)}", code="refused")


def daemonset_of(pod: JsonObject) -> tuple[str, str] | None:
    """The namespace and name of the DaemonSet that the pod says it belongs to."""
    owner = _controller(pod)
    if owner is None or owner.get("kind") != "DaemonSet":
        return None
    return rollout.text(pod, "metadata", "namespace"), str(owner.get("name"))


def _judge(pod: JsonObject, options: Options) -> Verdict:
    ref = kinds.Ref(kinds.POD, rollout.text(pod, "metadata", "namespace"), targets.name_of(pod))
    notes: list[str] = []
    for rule in (_of_daemonset, _is_mirror, _has_local_data, _is_alone):
        said = rule(pod, options)
        if said is not None and said[0] != "evict":
            return Verdict(ref=ref, uid=targets.uid_of(pod), fate=said[0], why=said[1])
        notes += [said[1]] if said is not None else []
    return Verdict(ref=ref, uid=targets.uid_of(pod), fate="evict", why="; ".join(notes))


def _of_daemonset(pod: JsonObject, options: Options) -> tuple[Fate, str] | None:
    daemonset = daemonset_of(pod)
    if daemonset is None or _is_over(pod):
        return None
    if daemonset not in options.daemonsets:
        if options.force:
            return "evict", f"its DaemonSet {daemonset[1]} no longer exists"
        return "refuse", f"their DaemonSet {daemonset[1]} no longer exists (force: true evicts them)"
    if options.ignore_daemonsets:
        return "leave", "a DaemonSet's pod"
    return "refuse", "pods of DaemonSets (ignore_daemonsets: true leaves them)"


def _is_mirror(pod: JsonObject, options: Options) -> tuple[Fate, str] | None:
    """A static pod is the kubelet's own; the API has only its image."""
    return ("leave", "a static pod") if _MIRROR in rollout.mapping(pod, "metadata", "annotations") else None


def _has_local_data(pod: JsonObject, options: Options) -> tuple[Fate, str] | None:
    volumes = rollout.mapping(pod, "spec").get("volumes")
    has = isinstance(volumes, list) and any(
        isinstance(volume, dict) and volume.get("emptyDir") is not None for volume in volumes
    )
    if not has or _is_over(pod):
        return None
    if options.delete_emptydir_data:
        return "evict", "its emptyDir is lost"
    return "refuse", "pods with data in an emptyDir (delete_emptydir_data: true evicts them, the data is lost)"


def _is_alone(pod: JsonObject, options: Options) -> tuple[Fate, str] | None:
    if _is_over(pod) or _controller(pod) is not None:
        return None
    if options.force:
        return "evict", "it has no controller, nothing makes it again"
    return "refuse", "pods without a controller, which nothing makes again (force: true evicts them)"


def _is_over(pod: JsonObject) -> bool:
    return rollout.text(pod, "status", "phase") in ("Succeeded", "Failed")


def _controller(pod: JsonObject) -> JsonObject | None:
    owners = rollout.mapping(pod, "metadata").get("ownerReferences")
    entries = owners if isinstance(owners, list) else []
    return next((entry for entry in entries if isinstance(entry, dict) and entry.get("controller") is True), None)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
