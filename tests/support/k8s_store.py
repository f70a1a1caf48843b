"""The objects of the tests' API server: versions, conflicts, and the history that watches follow."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.support.k8s_kinds import BY_KIND, ApiError, Json, Object, Resource, bad_request, invalid
from tests.support.k8s_rules import check, default, prune

#: Kinds whose objects count the changes of their spec.
_GENERATED = {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "Pod", "Widget"}


@dataclass(slots=True)
class Entry:
    """One change, as watches see it."""

    version: int
    type: str
    resource: Resource
    object: Object
    before: Object | None = None


@dataclass(slots=True)
class Store:
    """All objects. Every change gets the next resource version and is kept for watches."""

    version: int = 1000
    objects: dict[tuple[str, str], dict[tuple[str, str], Object]] = field(default_factory=dict)
    history: list[Entry] = field(default_factory=list)
    compacted: int = 0
    """Watches from an older version get 410, as after etcd's compaction."""
    era: int = 0
    """Rises to end the watches of the era before."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def table(self, resource: Resource) -> dict[tuple[str, str], Object]:
        return self.objects.setdefault((resource.group, resource.plural), {})

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """The object itself, not a copy; for controllers and tests."""
        return self.table(BY_KIND[kind]).get((namespace if BY_KIND[kind].namespaced else "", name))

    def all(self, kind: str, namespace: str | None = None) -> list[Object]:
        table = self.table(BY_KIND[kind])
        return [o for (ns, _), o in sorted(table.items()) if namespace in (None, "", ns)]

    def owned(self, kind: str, owner: Object) -> list[Object]:
        """The objects whose controller is the owner."""
        uid = owner["metadata"]["uid"]
        return [o for o in self.all(kind) if any(r["uid"] == uid for r in o["metadata"].get("ownerReferences", []))]

    def create(self, resource: Resource, namespace: str, manifest: Object, *, dry_run: bool = False) -> Object:
        item = copy.deepcopy(manifest)
        metadata = item.setdefault("metadata", {})
        if metadata.get("generateName") and not metadata.get("name"):
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        if not metadata.get("name"):
            raise invalid(resource, "", "metadata.name", "Required value: name or generateName is required")
        if resource.namespaced:
            if metadata.get("namespace", namespace) != namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            metadata["namespace"] = namespace
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        key = (metadata.get("namespace", ""), metadata["name"])
        if key in self.table(resource):
            message = f'{resource.qualified} "{metadata["name"]}" already exists'
            raise ApiError(409, "AlreadyExists", message, name=metadata["name"], kind=resource.plural)
        item |= {"apiVersion": resource.api_version, "kind": resource.kind}
        default(item)
        check(resource, item)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = now()
        if resource.kind in _GENERATED:
            metadata["generation"] = 1
        item.pop("status", None) if resource.kind != "Node" else None
        if not dry_run:
            self._put("ADDED", resource, key, item)
        return copy.deepcopy(item)

    def update(self, resource: Resource, item: Object, changed: Object, *, dry_run: bool = False) -> Object:
        """The object's new state (without its status); what the server owns stays as it is."""
        old, new = item["metadata"], changed.setdefault("metadata", {})
        sent = new.get("resourceVersion")
        if sent and sent != old["resourceVersion"]:
            message = (
                f'Operation cannot be fulfilled on {resource.qualified} "{old["name"]}": the object has been modified; '
                "please apply your changes to the latest version and try again"
            )
            raise ApiError(409, "Conflict", message, name=old["name"], kind=resource.plural)
        if new.get("name", old["name"]) != old["name"] or new.get("uid", old["uid"]) != old["uid"]:
            raise ApiError(409, "Conflict", "Precondition failed: UID or name in object meta differs")
        for name in ("name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion"):
            if name in old:
                new[name] = old[name]
        changed |= {"apiVersion": resource.api_version, "kind": resource.kind}
        changed["status"] = copy.deepcopy(item.get("status"))
        if changed["status"] is None:
            del changed["status"]
        prune(changed)
        default(changed)
        check(resource, changed, item)
        if changed.get("spec") != item.get("spec") and resource.kind in _GENERATED:
            new["generation"] = old.get("generation", 1) + 1
        if changed != item and not dry_run:
            self._put("MODIFIED", resource, (old.get("namespace", ""), old["name"]), changed, item)
        return copy.deepcopy(changed)

    def touch(self, item: Object, **parts: Json) -> None:
        """What a controller does: sets `status`, `metadata` or `spec` of an object, if that changes anything."""
        resource = BY_KIND[item["kind"]]
        changed = copy.deepcopy(item)
        for name, value in parts.items():
            changed[name] = {**changed.get(name, {}), **copy.deepcopy(value)}
        if changed.get("spec") != item.get("spec"):
            changed["metadata"]["generation"] = item["metadata"].get("generation", 1) + 1
        if changed != item:
            key = (item["metadata"].get("namespace", ""), item["metadata"]["name"])
            self._put("MODIFIED", resource, key, changed, item)

    def remove(self, item: Object) -> None:
        resource = BY_KIND[item["kind"]]
        key = (item["metadata"].get("namespace", ""), item["metadata"]["name"])
        if key in self.table(resource):
            del self.table(resource)[key]
            self._record(Entry(self._next(), "DELETED", resource, copy.deepcopy(item)))

    def _put(
        self, kind: str, resource: Resource, key: tuple[str, str], item: Object, before: Object | None = None
    ) -> None:
        version = self._next()
        item["metadata"]["resourceVersion"] = str(version)
        self.table(resource)[key] = item
        self._record(Entry(version, kind, resource, copy.deepcopy(item), before))

    def _next(self) -> int:
        self.version += 1
        return self.version

    def _record(self, entry: Entry) -> None:
        entry.object["metadata"]["resourceVersion"] = str(entry.version)
        self.history.append(entry)
        self.wake.set()

    def since(self, version: int) -> Iterator[Entry]:
        return (entry for entry in self.history if entry.version > version)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
