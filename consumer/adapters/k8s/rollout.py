"""What is known of rollouts: their state, their history, and the template they would go back to. Pure.

The rules are kubectl's (`pkg/polymorphichelpers/rollout_status.go`, `rollback.go`, `objectrestarter.go`), so that
`wait`, `rollback` and `restart` mean the same here and there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from consumer.errors import PermanentError
from consumer.ports import JsonObject

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
#: Holds the idempotency key of the step that restarted last, so that a repeated attempt is no second restart.
RESTARTED_BY = "wpk-agent/restarted-by"
REVISION = "deployment.kubernetes.io/revision"
HASH_LABEL = "pod-template-hash"
#: Annotations that stay the deployment's own when its template goes back; the others come with the old ReplicaSet.
_OWN_ANNOTATIONS = (
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
)


@dataclass(frozen=True, slots=True)
class Status:
    """Whether a rollout has ended, and what it waits for."""

    done: bool
    message: str
    failed: bool = False
    """It will not end by itself."""


def mapping(item: JsonValue, *path: str) -> JsonObject:
    """The object at the path; empty where there is none."""
    value = item
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def integer(item: JsonValue, *path: str, default: int = 0) -> int:
    """The number at the path."""
    value = mapping(item, *path[:-1]).get(path[-1])
    return value if isinstance(value, int) else default


def text(item: JsonValue, *path: str) -> str:
    """The text at the path; empty where there is none."""
    value = mapping(item, *path[:-1]).get(path[-1])
    return value if isinstance(value, str) else ""


def conditions(item: JsonValue) -> list[JsonObject]:
    """The status conditions of an object."""
    found = mapping(item, "status").get("conditions")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def status(item: JsonObject) -> Status:
    """The state of a rollout. Raises PermanentError for a kind or a strategy that has none."""
    kind = text(item, "kind")
    if kind not in _STATUS:
        raise PermanentError(f"a {kind.lower()} has no rollout; wait for ready or a condition", code="not_supported")
    strategy = "updateStrategy" if kind != "Deployment" else "strategy"
    if kind != "Deployment" and text(item, "spec", strategy, "type") not in ("", "RollingUpdate"):
        raise PermanentError(
            f"{kind.lower()} {text(item, 'metadata', 'name')} has the update strategy "
            f"{text(item, 'spec', strategy, 'type')}; a rollout can be waited for only with RollingUpdate",
            code="not_supported",
        )
    return _STATUS[kind](item)


def _deployment(item: JsonObject) -> Status:
    state = mapping(item, "status")
    if integer(item, "metadata", "generation") > integer(state, "observedGeneration"):
        return Status(False, "the change is not yet seen by its controller")
    for condition in conditions(item):
        if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return Status(False, "the rollout exceeded its progress deadline", failed=True)
    wanted = integer(item, "spec", "replicas", default=1)
    replicas, updated = integer(state, "replicas"), integer(state, "updatedReplicas")
    available = integer(state, "availableReplicas")
    if updated < wanted:
        return Status(False, f"{updated} of {wanted} replicas updated")
    if replicas > updated:
        return Status(False, f"{replicas - updated} old replicas are pending termination")
    if available < updated:
        return Status(False, f"{available} of {updated} updated replicas available")
    return Status(True, f"{updated} of {wanted} replicas updated and available")


def _statefulset(item: JsonObject) -> Status:
    state = mapping(item, "status")
    seen = integer(state, "observedGeneration")
    if seen == 0 or integer(item, "metadata", "generation") > seen:
        return Status(False, "the change is not yet seen by its controller")
    wanted = integer(item, "spec", "replicas", default=1)
    ready, updated = integer(state, "readyReplicas"), integer(state, "updatedReplicas")
    if ready < wanted:
        return Status(False, f"{ready} of {wanted} pods ready")
    partition = integer(item, "spec", "updateStrategy", "rollingUpdate", "partition")
    if partition:
        done = updated >= wanted - partition
        return Status(done, f"{updated} of {wanted - partition} pods of the partition updated")
    if text(state, "updateRevision") != text(state, "currentRevision"):
        return Status(False, f"{updated} of {wanted} pods updated")
    return Status(True, f"{ready} of {wanted} pods updated and ready")


def _daemonset(item: JsonObject) -> Status:
    state = mapping(item, "status")
    if integer(item, "metadata", "generation") > integer(state, "observedGeneration"):
        return Status(False, "the change is not yet seen by its controller")
    wanted = integer(state, "desiredNumberScheduled")
    updated, available = integer(state, "updatedNumberScheduled"), integer(state, "numberAvailable")
    if updated < wanted:
        return Status(False, f"{updated} of {wanted} pods updated")
    if available < wanted:
        return Status(False, f"{available} of {wanted} updated pods available")
    return Status(True, f"{available} of {wanted} pods updated and available")


_STATUS = {"Deployment": _deployment, "StatefulSet": _statefulset, "DaemonSet": _daemonset}


# --- history ----------------------------------------------------------------------------------------------------


def owned(items: Sequence[JsonObject], owner: JsonObject) -> list[JsonObject]:
    """Those items whose controller is the owner."""
    uid = text(owner, "metadata", "uid")

    def belongs(item: JsonObject) -> bool:
        references = mapping(item, "metadata").get("ownerReferences")
        entries = references if isinstance(references, list) else []
        return any(isinstance(e, dict) and e.get("uid") == uid and e.get("controller") for e in entries)

    return [item for item in items if belongs(item)]


def revision_of(item: JsonObject) -> int:
    """The revision of a deployment, a ReplicaSet or a ControllerRevision; 0 where it has none."""
    if text(item, "kind") == "ControllerRevision":
        return integer(item, "revision")
    value = text(item, "metadata", "annotations", REVISION)
    return int(value) if value.isdecimal() else 0


def choose(history: Sequence[JsonObject], wanted: int | None, subject: str) -> JsonObject:
    """The entry of the wanted revision; None: the one before the newest, as kubectl chooses. Raises PermanentError."""
    entries = sorted(history, key=revision_of)
    if not entries:
        raise PermanentError(f"{subject} has no rollout history", code="no_history")
    if wanted is None:
        if len(entries) < 2:
            raise PermanentError(f"{subject} has no earlier revision to go back to", code="no_history")
        return entries[-2]
    for entry in entries:
        if revision_of(entry) == wanted:
            return entry
    known = ", ".join(str(revision_of(entry)) for entry in entries)
    raise PermanentError(f"{subject} has no revision {wanted}; it has {known}", code="not_found")


def template_of(replica_set: JsonObject) -> JsonObject:
    """A ReplicaSet's pod template as the deployment had it: without the hash label."""
    template = dict(mapping(replica_set, "spec", "template"))
    metadata = dict(mapping(template, "metadata"))
    labels = {key: value for key, value in mapping(metadata, "labels").items() if key != HASH_LABEL}
    metadata["labels"] = labels
    template["metadata"] = metadata
    return template


def annotations_back(deployment: JsonObject, replica_set: JsonObject) -> JsonObject:
    """The deployment's annotations once its template is the ReplicaSet's."""
    own, old = mapping(deployment, "metadata", "annotations"), mapping(replica_set, "metadata", "annotations")
    kept = {key: own[key] for key in _OWN_ANNOTATIONS if key in own}
    return {**{key: value for key, value in old.items() if key not in _OWN_ANNOTATIONS}, **kept}
