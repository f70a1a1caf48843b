"""Tiny controllers and a tiny kubelet for the tests' API server: deployments roll, pods become ready or crash.

One round makes one step of everything, so that watchers see the way and not only the end.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
from collections import defaultdict
from contextlib import suppress

from tests.support.k8s_kinds import BY_KIND, Json, Object
from tests.support.k8s_store import Store, now

REVISION = "deployment.kubernetes.io/revision"
HASH = "pod-template-hash"
_NOT_COPIED = {REVISION, "kubectl.kubernetes.io/last-applied-configuration"}
_ROUND = 0.01


class Controllers:
    """Runs while there is something to do, then sleeps until the store changes. `broken_images` crash."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.broken_images: set[str] = set()
        self.held = False
        """True: nothing moves on; what is changed stays as it was written."""
        self.logs: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        self.previous_logs: dict[tuple[str, str, str], list[str]] = {}

    async def run(self) -> None:
        while True:
            await self.store.wake.wait()
            self.store.wake.clear()
            async with self.store.changed:
                self.store.changed.notify_all()
            await asyncio.sleep(_ROUND)
            if not self.held:
                self.round()

    def release(self) -> None:
        self.held = False
        self.store.wake.set()

    def round(self) -> None:
        """One step of everything."""
        self._collect_garbage()
        for deployment in self.store.all("Deployment"):
            self._deployment(deployment)
        for replica_set in self.store.all("ReplicaSet"):
            self._replicas(replica_set, replica_set["spec"].get("replicas", 1), replica_set["spec"]["template"])
        for stateful in self.store.all("StatefulSet"):
            self._revisioned(stateful, stateful["spec"].get("replicas", 1))
        for daemon in self.store.all("DaemonSet"):
            self._revisioned(daemon, 1)
        for job in self.store.all("Job"):
            self._job(job)
        for pod in self.store.all("Pod"):
            self._kubelet(pod)

    def _fresh(self, item: Object) -> Object | None:
        metadata = item["metadata"]
        return self.store.get(item["kind"], metadata.get("namespace", ""), metadata["name"])

    def _collect_garbage(self) -> None:
        uids = {o["metadata"]["uid"] for table in self.store.objects.values() for o in table.values()}
        for table in list(self.store.objects.values()):
            for item in list(table.values()):
                owners = item["metadata"].get("ownerReferences", [])
                if owners and not any(owner["uid"] in uids for owner in owners):
                    self.store.remove(item)

    # --- deployments -----------------------------------------------------------------------------------------

    def _deployment(self, deployment: Object) -> None:
        spec, metadata = deployment["spec"], deployment["metadata"]
        sets = self.store.owned("ReplicaSet", deployment)
        newest = next((s for s in sets if _same_template(s["spec"]["template"], spec["template"])), None)
        if newest is None and not spec.get("paused"):
            newest = self._new_set(deployment, sets)
            sets = [*sets, newest]
        if newest is None:
            return
        top = max(_revision(s) for s in sets)
        if _revision(newest) < top:
            self._annotate(newest, REVISION, str(top + 1))
            newest = self._fresh(newest) or newest
        if metadata.get("annotations", {}).get(REVISION) != str(_revision(newest)):
            self._annotate(deployment, REVISION, str(_revision(newest)))
        self._roll(deployment, newest, [s for s in sets if s["metadata"]["uid"] != newest["metadata"]["uid"]])
        self._deployment_status(self._fresh(deployment) or deployment, newest)

    def _annotate(self, item: Object, name: str, value: str) -> None:
        item = self._fresh(item) or item
        self.store.touch(item, metadata={"annotations": {**item["metadata"].get("annotations", {}), name: value}})

    def _new_set(self, deployment: Object, sets: list[Object]) -> Object:
        metadata, template = deployment["metadata"], copy.deepcopy(deployment["spec"]["template"])
        digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        template["metadata"]["labels"][HASH] = digest
        annotations = {k: v for k, v in metadata.get("annotations", {}).items() if k not in _NOT_COPIED}
        annotations[REVISION] = str(max([_revision(s) for s in sets], default=0) + 1)
        selector = {"matchLabels": {**deployment["spec"]["selector"]["matchLabels"], HASH: digest}}
        manifest = {
            "metadata": {
                "name": f"{metadata['name']}-{digest}",
                "labels": template["metadata"]["labels"],
                "annotations": annotations,
                "ownerReferences": [_owner(deployment)],
            },
            "spec": {"replicas": 0, "selector": selector, "template": template},
        }
        self.store.create(BY_KIND["ReplicaSet"], metadata["namespace"], manifest)
        made = self.store.get("ReplicaSet", metadata["namespace"], manifest["metadata"]["name"])
        assert made is not None
        return made

    def _roll(self, deployment: Object, newest: Object, old: list[Object]) -> None:
        """One more at a time, one less where a new one is ready: never fewer ready than wanted."""
        wanted = deployment["spec"]["replicas"]
        there = sum(s["spec"]["replicas"] for s in old)
        room = wanted if there == 0 else min(wanted, wanted + 1 - there)
        if newest["spec"]["replicas"] != room and (room > newest["spec"]["replicas"] or there == 0):
            self.store.touch(newest, spec={"replicas": room})
        surplus = sum(self._ready(s) for s in [newest, *old]) - wanted
        for each in old:
            replicas = each["spec"]["replicas"]
            unready = replicas - self._ready(each)
            less = min(replicas, max(0, surplus) + unready)
            if less > 0:
                self.store.touch(each, spec={"replicas": replicas - less})
                surplus -= max(0, less - unready)

    def _ready(self, owner: Object) -> int:
        return sum(_is_ready(pod) for pod in self.store.owned("Pod", owner))

    def _deployment_status(self, deployment: Object, newest: Object) -> None:
        sets = self.store.owned("ReplicaSet", deployment)
        pods = [pod for s in sets for pod in self.store.owned("Pod", s)]
        updated = self.store.owned("Pod", newest)
        ready, wanted = sum(map(_is_ready, pods)), deployment["spec"]["replicas"]
        done = len(updated) == wanted == len(pods) and sum(map(_is_ready, updated)) == wanted
        crashing = any(_is_crashing(pod) for pod in updated)
        progressing = ("True", "NewReplicaSetAvailable") if done else ("True", "ReplicaSetUpdated")
        if crashing and deployment["spec"]["progressDeadlineSeconds"] <= 1:
            progressing = ("False", "ProgressDeadlineExceeded")
        available = ("True", "MinimumReplicasAvailable") if ready >= wanted else ("False", "MinimumReplicasUnavailable")
        status: Object = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(pods),
            "updatedReplicas": len(updated),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": max(0, len(pods) - ready),
            "conditions": [
                {"type": "Available", "status": available[0], "reason": available[1]},
                {"type": "Progressing", "status": progressing[0], "reason": progressing[1]},
            ],
        }
        self.store.touch(deployment, status=status)

    # --- pods of others --------------------------------------------------------------------------------------

    def _replicas(self, owner: Object, wanted: int, template: Object) -> None:
        pods = [p for p in self.store.owned("Pod", owner) if not p["metadata"].get("deletionTimestamp")]
        for number in range(len(pods), wanted):
            suffix = hashlib.sha256(f"{owner['metadata']['uid']}{self.store.version}{number}".encode()).hexdigest()[:5]
            self._pod(owner, f"{owner['metadata']['name']}-{suffix}", template)
        for pod in sorted(pods, key=_is_ready)[: max(0, len(pods) - wanted)]:
            self.store.remove(pod)
        self._count(owner)

    def _count(self, owner: Object, **more: Json) -> None:
        owner = self._fresh(owner) or owner
        ready = self._ready(owner)
        status = {
            "observedGeneration": owner["metadata"]["generation"],
            "replicas": len(self.store.owned("Pod", owner)),
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        self.store.touch(owner, status={**status, **more})

    def _revisioned(self, owner: Object, wanted: int) -> None:
        """StatefulSets and DaemonSets: a ControllerRevision for each template; pods of an old one are replaced."""
        template, metadata = owner["spec"]["template"], owner["metadata"]
        revisions = self.store.owned("ControllerRevision", owner)
        data = {"spec": {"template": {**template, "$patch": "replace"}}}
        current = next((r for r in revisions if r["data"] == data), None)
        top = max([r["revision"] for r in revisions], default=0)
        if current is None:
            name = f"{metadata['name']}-{hashlib.sha256(json.dumps(data).encode()).hexdigest()[:10]}"
            labels = template["metadata"]["labels"]
            body = {"metadata": {"name": name, "labels": labels, "ownerReferences": [_owner(owner)]}, "data": data}
            self.store.create(BY_KIND["ControllerRevision"], metadata["namespace"], {**body, "revision": top + 1})
            current = self.store.get("ControllerRevision", metadata["namespace"], name)
            assert current is not None
        elif current["revision"] < top:
            changed = {**copy.deepcopy(current), "revision": top + 1}
            self.store.update(BY_KIND["ControllerRevision"], current, changed)
        revision = current["metadata"]["name"]
        for number in range(wanted):
            name = f"{metadata['name']}-{number}"
            pod = self.store.get("Pod", metadata["namespace"], name)
            if pod is None:
                labelled = copy.deepcopy(template)
                labelled["metadata"]["labels"]["controller-revision-hash"] = revision
                self._pod(owner, name, labelled)
            elif pod["metadata"]["labels"].get("controller-revision-hash") != revision and self._ready(owner) == wanted:
                self.store.remove(pod)
                break
        for pod in self.store.owned("Pod", owner):
            if int(pod["metadata"]["name"].rpartition("-")[2]) >= wanted:
                self.store.remove(pod)
        pods = self.store.owned("Pod", owner)
        updated = [p for p in pods if p["metadata"]["labels"].get("controller-revision-hash") == revision]
        done = len(updated) == wanted == sum(map(_is_ready, updated))
        if owner["kind"] == "DaemonSet":
            numbers = {"desiredNumberScheduled": wanted, "updatedNumberScheduled": len(updated)}
            self._count(owner, numberAvailable=self._ready(owner), **numbers)
            return
        before = owner.get("status", {}).get("currentRevision", revision)
        self._count(
            owner,
            updatedReplicas=len(updated),
            updateRevision=revision,
            currentRevision=revision if done else before,
        )

    def _job(self, job: Object) -> None:
        if job.get("status", {}).get("conditions"):
            return
        pods = self.store.owned("Pod", job)
        if not pods:
            template = copy.deepcopy(job["spec"]["template"])
            template.setdefault("metadata", {}).setdefault("labels", {})["job-name"] = job["metadata"]["name"]
            self._pod(job, f"{job['metadata']['name']}-{job['metadata']['uid'][:5]}", template)
            return
        phase = pods[0]["status"]["phase"]
        if phase == "Succeeded":
            condition = {"type": "Complete", "status": "True", "reason": "CompletionsReached"}
            self.store.touch(job, status={"succeeded": 1, "conditions": [condition]})
        elif phase == "Failed":
            condition = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
            self.store.touch(job, status={"failed": 1, "conditions": [condition]})

    def _pod(self, owner: Object, name: str, template: Object) -> None:
        metadata = template.get("metadata", {})
        manifest = {
            "metadata": {
                "name": name,
                "labels": metadata.get("labels", {}),
                "annotations": metadata.get("annotations", {}),
                "ownerReferences": [_owner(owner)],
            },
            "spec": template["spec"],
        }
        namespace = owner["metadata"]["namespace"]
        self.store.create(BY_KIND["Pod"], namespace, manifest)
        pod = self.store.get("Pod", namespace, name)
        assert pod is not None
        self.store.touch(pod, status={"phase": "Pending"})

    # --- the kubelet -----------------------------------------------------------------------------------------

    def _kubelet(self, pod: Object) -> None:
        if pod["metadata"].get("deletionTimestamp"):
            self.store.remove(pod)
            return
        status = pod.get("status", {})
        if status.get("phase", "Pending") != "Pending" or status.get("containerStatuses"):
            return
        containers = pod["spec"]["containers"]
        broken = [c["name"] for c in containers if c["image"] in self.broken_images]
        runs_once = any(o["kind"] == "Job" for o in pod["metadata"].get("ownerReferences", []))
        phase = "Running" if not runs_once else "Failed" if broken else "Succeeded"
        states = [_container_status(c["name"], crashed=c["name"] in broken) for c in containers]
        ready = "False" if broken or runs_once else "True"
        conditions = [{"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": ready}]
        self.store.touch(pod, status={"phase": phase, "containerStatuses": states, "conditions": conditions})
        key = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        for container in containers:
            self.logs[(*key, container["name"])].append(f"{container['name']} {container['image']} started")
        for name in broken:
            self.previous_logs[(*key, name)] = [f"{name} panics"]
            self.event(pod, "Warning", "BackOff", f"Back-off restarting failed container {name}", count=3)

    def event(self, about: Object, kind: str, reason: str, message: str, count: int = 1) -> None:
        """An event of an object, as the kubelet and the controllers write them."""
        metadata = about["metadata"]
        body = {
            "metadata": {"name": f"{metadata['name']}.{self.store.version:x}"},
            "involvedObject": {
                "kind": about["kind"],
                "apiVersion": about["apiVersion"],
                "name": metadata["name"],
                "namespace": metadata.get("namespace", ""),
                "uid": metadata["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "count": count,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "source": {"component": "tests"},
        }
        self.store.create(BY_KIND["Event"], metadata.get("namespace") or "default", body)


def _container_status(name: str, *, crashed: bool) -> Object:
    if not crashed:
        return {"name": name, "ready": True, "restartCount": 0, "state": {"running": {"startedAt": now()}}}
    waiting = {"reason": "CrashLoopBackOff", "message": f"back-off 10s restarting failed container={name}"}
    return {"name": name, "ready": False, "restartCount": 3, "state": {"waiting": waiting}}


def _is_ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def _is_crashing(pod: Object) -> bool:
    return any("waiting" in s["state"] for s in pod.get("status", {}).get("containerStatuses", []))


def _revision(item: Object) -> int:
    return int(item["metadata"].get("annotations", {}).get(REVISION, "0"))


def _same_template(of_set: Object, wanted: Object) -> bool:
    stripped = copy.deepcopy(of_set)
    stripped["metadata"]["labels"].pop(HASH, None)
    with suppress(KeyError):
        if not stripped["metadata"]["annotations"]:
            del stripped["metadata"]["annotations"]
    return bool(stripped == wanted)


def _owner(item: Object) -> Object:
    metadata = item["metadata"]
    return {
        "apiVersion": item["apiVersion"],
        "kind": item["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
