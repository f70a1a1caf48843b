"""Undo records: what a step keeps of the state before it, and how that state comes back.

The forms, told apart by `op`: `fields` (an object's fields, put back where they still are what the step made of them),
`create` (the object is deleted if it is still the step's), `delete` (the objects are made again where that is
possible), and `many` (several of those). Values of Secrets are in the record only, never in a summary or an output.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pydantic import JsonValue

from consumer.adapters.k8s import diff, kinds, targets
from consumer.adapters.k8s.client import Cluster
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext

#: On an object that a step created: the step's idempotency key.
CREATED_BY = "wpk-agent/created-by"
_TRIES = 4
#: Kinds that are not made again: the object alone would not be what was deleted.
_NOT_MADE_AGAIN = {
    "Pod": "a bare pod that was deleted does not come back",
    "Job": "making a job again would run it again",
    "Namespace": "all that was in it is gone",
    "CustomResourceDefinition": "all objects of its kind are gone",
    "PersistentVolume": "its data may be gone",
    "PersistentVolumeClaim": "its data may be gone",
}


async def remember(step: StepContext, record: JsonObject, summary: str) -> JsonObject:
    """Makes the record durable before the change; an earlier attempt's record stays and is given back."""
    if step.captured is not None:
        return step.captured
    await step.capture(record, summary)
    return record


def fields_record(
    ref: kinds.Ref,
    item: JsonObject,
    changes: Sequence[diff.Change],
    *,
    whole: bool = False,
    subresource: str = "",
    extra: JsonObject | None = None,
) -> JsonObject:
    """A record of changed fields. `whole`: all of them go back or none, as parts would be a state that never was."""
    made: list[JsonValue] = [dict(change) for change in changes]
    return {
        "op": "fields",
        "ref": ref.record(),
        "uid": targets.uid_of(item),
        "changes": made,
        "whole": whole,
        "subresource": subresource,
        **(extra or {}),
    }


def changes_of(record: JsonObject) -> list[diff.Change]:
    """The changes that a `fields` record holds."""
    return [change for change in _objects(record.get("changes")) if "path" in change]


def many_record(records: Sequence[JsonObject]) -> JsonObject:
    """Several records as one, as a step may capture but once."""
    return {"op": "many", "records": list(records)}


def create_record(ref: kinds.Ref, key: str) -> JsonObject:
    """A record of an object that is about to be created."""
    return {"op": "create", "ref": ref.record(), "key": key}


def delete_record(found: Sequence[tuple[kinds.Ref, JsonObject]]) -> JsonObject:
    """A record of objects that are about to be deleted."""
    return {
        "op": "delete",
        "objects": [
            {"ref": ref.record(), "uid": targets.uid_of(item), "object": _kept(ref, item)} for ref, item in found
        ],
    }


def _kept(ref: kinds.Ref, item: JsonObject) -> JsonObject | None:
    """What is needed to make the object again; None for what is not made again."""
    if _why_not(ref, item) is not None:
        return None
    return {"apiVersion": ref.kind.api_version, "kind": ref.kind.name, **diff.desired(item)}


def _why_not(ref: kinds.Ref, item: JsonObject) -> str | None:
    """Why an object is not made again; None if it can be."""
    metadata = item.get("metadata")
    owners = metadata.get("ownerReferences") if isinstance(metadata, dict) else None
    if isinstance(owners, list) and owners:
        return "its controller makes another one"
    return _NOT_MADE_AGAIN.get(ref.kind.name)


class Undo:
    """What `undo` does with a record, or would do."""

    def __init__(self, cluster: Cluster, step: StepContext, *, dry_run: bool) -> None:
        self._cluster = cluster
        self._step = step
        self._dry_run = dry_run
        self._restored: list[JsonValue] = []
        self._not_restored: list[JsonValue] = []
        self._secret = False

    async def run(self, record: JsonObject) -> JsonObject:
        """Restores; gives `{resource, restored, not_restored}`, texts for people. Repeatable. Raises StepError."""
        handlers: dict[str, Callable[[JsonObject], Awaitable[str]]] = {
            "fields": self._fields,
            "create": self._create,
            "delete": self._delete,
            "many": self._many,
        }
        handler = handlers.get(str(record.get("op")))
        if handler is None:
            raise PermanentError(f"the undo record has the unknown form {record.get('op')!r}", code="invalid_record")
        resource = await handler(record)
        return {"resource": resource, "restored": self._restored, "not_restored": self._not_restored}

    async def plan(self, record: JsonObject) -> Plan:
        """What `run` would do."""
        detail = await self.run(record)
        parts = [str(text) for text in self._restored] + [f"not: {text}" for text in self._not_restored]
        what = "; ".join(parts[:5]) + ("; …" if len(parts) > 5 else "") if parts else "nothing to restore"
        return Plan(summary=f"{detail['resource']}: {what}", changes=bool(self._restored), detail=detail)

    async def _many(self, record: JsonObject) -> str:
        names = [str((await self.run(each))["resource"]) for each in reversed(_objects(record.get("records")))]
        return ", ".join(names)

    # --- fields ----------------------------------------------------------------------------------------------

    async def _fields(self, record: JsonObject) -> str:
        ref = _ref(record)
        secret = ref.kind == kinds.SECRET
        changes = changes_of(record)
        for attempt in range(1, _TRIES + 1):
            item = await self._same_object(ref, record)
            if item is None:
                return str(ref)
            operations, others = diff.reverse(item, changes)
            if others and record.get("whole"):
                paths = ", ".join(diff.dotted(diff.path_of(change)) for change in others[:3])
                self._not_restored.append(f"{ref} was changed since ({paths}); it is left as it is")
                return str(ref)
            if not operations:
                break
            try:
                await self._apply(ref, operations, changes, str(record.get("subresource") or ""))
                break
            except (PermanentError, TemporaryError) as error:
                # A guard failed: the object changed between the read and the patch. Look again.
                if error.code not in ("invalid", "conflict"):
                    raise
                if attempt == _TRIES:
                    raise TemporaryError(f"{ref} is changed all the time by someone else", code="conflict") from error
        back = [change for change in changes if change not in others] if operations else []
        self._restored += [_shown(change, back=True, secret=secret) for change in back]
        self._not_restored += [f"{_shown(c, back=False, secret=secret)} was changed since" for c in others]
        return str(ref)

    async def _apply(
        self, ref: kinds.Ref, operations: list[JsonObject], changes: Sequence[diff.Change], subresource: str
    ) -> None:
        if subresource == "scale":  # what scaled through the subresource goes back through it: same permission
            body: JsonObject = {"spec": {"replicas": changes[0]["from"]}}
            await self._cluster.patch(ref, body, "merge", subresource="scale", dry_run=self._dry_run)
            return
        patch: list[JsonValue] = [dict(operation) for operation in operations]
        await self._cluster.patch(ref, patch, "json", dry_run=self._dry_run)

    async def _same_object(self, ref: kinds.Ref, record: JsonObject) -> JsonObject | None:
        """The object that the record is about; None (and said so) where it is gone or another."""
        item = await self._cluster.find(ref, str(record.get("subresource") or ""))
        if item is None:
            self._not_restored.append(f"{ref} no longer exists")
        elif targets.uid_of(item) != record.get("uid"):
            self._not_restored.append(f"{ref} is another object of that name now")
            return None
        return item

    # --- objects ---------------------------------------------------------------------------------------------

    async def _create(self, record: JsonObject) -> str:
        ref = _ref(record)
        item = await self._cluster.find(ref)
        if item is None:
            return str(ref)
        if annotation(item, CREATED_BY) != record.get("key"):
            self._not_restored.append(f"{ref} is not the one that the step created; it is left as it is")
            return str(ref)
        try:
            options: JsonObject = {
                "propagationPolicy": "Background",
                "preconditions": {"uid": targets.uid_of(item)},
            }
            await self._cluster.delete(ref, options, dry_run=self._dry_run)
        except PermanentError as error:
            if error.code != "not_found":
                raise
        self._restored.append(f"{ref} deleted")
        return str(ref)

    async def _delete(self, record: JsonObject) -> str:
        names: list[str] = []
        for entry in _objects(record.get("objects")):
            ref = _ref(entry)
            names.append(str(ref))
            await self._make_again(ref, entry)
        return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")

    async def _make_again(self, ref: kinds.Ref, entry: JsonObject) -> None:
        item = await self._cluster.find(ref)
        manifest = entry.get("object")
        if item is not None and targets.uid_of(item) == entry.get("uid"):
            if _is_ending(item):
                self._not_restored.append(f"{ref} is still being deleted")
            return
        if not isinstance(manifest, dict):
            why = _why_not(ref, {}) or "its controller makes another one"
            self._not_restored.append(f"{ref}: {why}")
            return
        key = self._step.idempotency_key
        if item is not None:
            if annotation(item, CREATED_BY) != key:
                self._not_restored.append(f"{ref} exists again, made by someone else; it is left as it is")
            return
        await self._cluster.create(ref, with_annotation(manifest, CREATED_BY, key), dry_run=self._dry_run)
        self._restored.append(f"{ref} made again")


def annotation(item: JsonObject, name: str) -> JsonValue:
    """The value of an object's annotation; None where it has none."""
    value = diff.look(item, ("metadata", "annotations", name))
    return value if isinstance(value, str) else None


def with_annotation(manifest: JsonObject, name: str, value: str) -> JsonObject:
    """The manifest with one more annotation."""
    metadata = manifest.get("metadata")
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    annotations = metadata.get("annotations")
    metadata["annotations"] = {**(annotations if isinstance(annotations, dict) else {}), name: value}
    return {**manifest, "metadata": metadata}


def _is_ending(item: JsonObject) -> bool:
    return isinstance(diff.look(item, ("metadata", "deletionTimestamp")), str)


def _shown(change: diff.Change, *, back: bool, secret: bool) -> str:
    """`spec.replicas 5 → 3`; no values for a Secret, nor for what is no scalar."""
    path = diff.dotted(diff.path_of(change))
    if secret or not back:
        return path
    sides = [change.get("to"), change.get("from")]
    if any(isinstance(side, dict | list) for side in sides):
        return path
    old, new = ("(none)" if side is None else str(side)[:100] for side in sides)
    return f"{path} {old} → {new}"


def _ref(record: JsonObject) -> kinds.Ref:
    ref = record.get("ref")
    if not isinstance(ref, dict):
        raise PermanentError("the undo record names no object", code="invalid_record")
    return kinds.Ref.of_record(ref)


def _objects(value: JsonValue) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
