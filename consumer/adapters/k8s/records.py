"""Undo records: what a step keeps of the state before it, made durable before it changes anything.

The forms, told apart by `op`: `fields` (an object's fields, put back where they still are what the step made of them),
`create` (the object is deleted if it is still the step's), `delete` (the objects are made again where that is
possible), `many` (several of those), `nothing` (the step was told to keep nothing), and `sealed` (one of those that
holds what nobody may read). `on_foreign_change` stands beside `op`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import orjson
from pydantic import JsonValue

from consumer.adapters.k8s import diff, kinds, owners, sealing, targets
from consumer.adapters.k8s.client import Cluster
from consumer.errors import PermanentError
from consumer.ports import JsonObject, StepContext

#: On an object that a step created: the step's idempotency key.
CREATED_BY = "wpk-agent/created-by"
#: What a record may have (bytes): the state topic takes records of about a megabyte.
_MAX_BYTES = 800_000
#: Kinds that are not made again: the object alone would not be what was deleted.
_NOT_MADE_AGAIN = {
    "Pod": "a bare pod that was deleted does not come back",
    "Job": "making a job again would run it again",
    "Namespace": "all that was in it is gone",
    "CustomResourceDefinition": "all objects of its kind are gone",
    "PersistentVolume": "its data may be gone",
    "PersistentVolumeClaim": "its data may be gone",
}


class Policy(Protocol):
    """What a step's config says of its undo."""

    @property
    def on_foreign_change(self) -> Literal["stop", "skip", "overwrite"]: ...


async def keep(
    cluster: Cluster, step: StepContext, record: JsonObject, summary: str, policy: Policy, *, private: bool = False
) -> JsonObject:
    """Makes the record durable before the change; an earlier attempt's record stays and is given back.

    It gets what the config says of the undo, and is sealed where it holds a secret.
    `private`: the step's values come from the agent's own secrets. Raises PermanentError `undo_too_large`,
    `no_undo_key`; nothing is changed then.
    """
    if step.captured is not None:
        return await sealing.opened(cluster, step.captured)
    full: JsonObject = {**record, "on_foreign_change": policy.on_foreign_change}
    size = len(orjson.dumps(full))
    hidden = private or holds_secret(full) or step.shows_secret(full)
    if size * (4 / 3 if hidden else 1) > _MAX_BYTES:
        raise PermanentError(
            f"to undo this, {size} bytes of what was there before would have to be kept, and at most {_MAX_BYTES} can "
            "be; nothing was changed. Take fewer or smaller objects in one step, or set `undo: false` where the action "
            "has it",
            code="undo_too_large",
        )
    await step.capture(await sealing.seal(cluster, full, about(full)) if hidden else full, summary)
    return full


async def captured(cluster: Cluster, step: StepContext) -> JsonObject | None:
    """What an earlier attempt of the step kept, readable; None where there is none."""
    return None if step.captured is None else await sealing.opened(cluster, step.captured)


def about(record: JsonObject) -> list[JsonObject]:
    """The objects that a record is about: `{ref, uid}` each."""
    if record.get("op") == "sealed":
        return objects(record.get("about"))
    if record.get("op") == "many":
        return [each for inner in objects(record.get("records")) for each in about(inner)]
    entries = objects(record.get("objects")) if record.get("op") == "delete" else [record]
    return [{"ref": entry["ref"], "uid": entry.get("uid")} for entry in entries if "ref" in entry]


def holds_secret(record: JsonObject) -> bool:
    """Whether old or new values of a Secret are in the record."""
    if record.get("op") in ("create", "nothing"):
        return False
    if record.get("op") == "many":
        return any(holds_secret(inner) for inner in objects(record.get("records")))
    refs = [each["ref"] for each in about(record)]
    return any(isinstance(ref, dict) and ref.get("kind") == "Secret" and not ref.get("group") for ref in refs)


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
        "managers": list[JsonValue](owners.wishes(item)),
        **(extra or {}),
    }


def changes_of(record: JsonObject) -> list[diff.Change]:
    """The changes that a `fields` record holds."""
    return [change for change in objects(record.get("changes")) if "path" in change]


def many_record(records: Sequence[JsonObject]) -> JsonObject:
    """Several records as one, as a step may capture but once."""
    return {"op": "many", "records": list(records)}


def nothing_record(found: Sequence[tuple[kinds.Ref, JsonObject]]) -> JsonObject:
    """The record of a step that was told to keep nothing: which objects it was about to change."""
    entries: list[JsonValue] = [{"ref": ref.record(), "uid": targets.uid_of(item)} for ref, item in found]
    return {"op": "nothing", "objects": entries}


def create_record(ref: kinds.Ref, key: str) -> JsonObject:
    """A record of an object that is about to be created."""
    return {"op": "create", "ref": ref.record(), "key": key}


def delete_record(found: Sequence[tuple[kinds.Ref, JsonObject]], *, keep_objects: bool = True) -> JsonObject:
    """A record of objects that are about to be deleted; without the objects where they are not to be kept."""
    return {
        "op": "delete",
        "kept": keep_objects,
        "objects": [
            {
                "ref": ref.record(),
                "uid": targets.uid_of(item),
                "object": _kept(ref, item) if keep_objects else None,
            }
            for ref, item in found
        ],
    }


def _kept(ref: kinds.Ref, item: JsonObject) -> JsonObject | None:
    """What is needed to make the object again; None for what is not made again."""
    if why_not(ref, item) is not None:
        return None
    return {"apiVersion": ref.kind.api_version, "kind": ref.kind.name, **diff.desired(item)}


def why_not(ref: kinds.Ref, item: JsonObject) -> str | None:
    """Why an object is not made again; None if it can be."""
    metadata = item.get("metadata")
    owners = metadata.get("ownerReferences") if isinstance(metadata, dict) else None
    if isinstance(owners, list) and owners:
        return "its controller makes another one"
    return _NOT_MADE_AGAIN.get(ref.kind.name)


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


def ref_of(record: JsonObject) -> kinds.Ref:
    """The object that a record, or an entry of one, is about. Raises PermanentError `invalid_record`."""
    ref = record.get("ref")
    if not isinstance(ref, dict):
        raise PermanentError("the undo record names no object", code="invalid_record")
    return kinds.Ref.of_record(ref)


def objects(value: JsonValue) -> list[JsonObject]:
    """The objects of a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
