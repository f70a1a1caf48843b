"""Who set which field of an object, as `metadata.managedFields` tells it. Pure.

The form of `fieldsV1` (`f:name`, `k:{"name":"main"}`, `v:"text"`, `i:0`, `.`) is that of
sigs.k8s.io/structured-merge-diff, `fieldpath/serialize-pe.go`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from consumer.adapters.k8s.client import FIELD_MANAGER
from consumer.ports import JsonObject

#: Parts of Kubernetes itself: what they set follows what others want, so it is nobody's work that could be lost.
_CONTROLLERS = frozenset({"kube-controller-manager", "cloud-controller-manager", "kube-scheduler", "kubelet"})


def entries(item: JsonObject) -> list[JsonObject]:
    """The object's managedFields."""
    metadata = item.get("metadata")
    found = metadata.get("managedFields") if isinstance(metadata, dict) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def applied(item: JsonObject) -> tuple[int, JsonObject] | None:
    """Where in managedFields stands what we own by server-side apply, and that entry; None where we own nothing."""
    for index, entry in enumerate(entries(item)):
        ours = entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
        if ours and not entry.get("subresource"):
            return index, entry
    return None


def others(item: JsonObject) -> list[str]:
    """Who else has set fields of the object's wanted state, as texts: `kubectl-edit at 2026-11-24T10:00:00Z`."""
    return [_signed(entry) for entry in _wanting(item) if entry.get("manager") not in {*_CONTROLLERS, FIELD_MANAGER}]


def last_other(item: JsonObject) -> str | None:
    """Who set a field of the wanted state last, other than we; for a field that is gone, as nobody owns it."""
    found = [entry for entry in _wanting(item) if entry.get("manager") != FIELD_MANAGER]
    latest = max(found, key=lambda entry: str(entry.get("time")), default=None)
    return None if latest is None else _signed(latest)


def owner(item: JsonObject, path: Sequence[str | int]) -> str | None:
    """Who set the value at the path, the last one where there are several; None where that is not known."""
    found = [entry for entry in _wanting(item) if _covers(entry.get("fieldsV1"), item, path)]
    latest = max(found, key=lambda entry: str(entry.get("time")), default=None)
    return None if latest is None else _signed(latest)


def given_up(item: JsonObject) -> list[JsonObject]:
    """The JSON patch by which nothing of the object is ours by apply any more, and no field changes.

    It changes managedFields, as the API server's own tools do it (k8s.io/client-go/util/csaupgrade); to apply nothing
    would take the fields away.
    """
    now = applied(item)
    if now is None or len(entries(item)) == 1:  # the last entry can't go: the API server would keep it
        return []
    return [_guard(*now), {"op": "remove", "path": f"/metadata/managedFields/{now[0]}"}]


def given_back(item: JsonObject, before: JsonObject) -> list[JsonObject]:
    """The JSON patch by which the fields of that entry are ours by apply, and not by an update as well.

    It must come after the values: what a request changes belongs to the one who makes it.
    """
    now = applied(item)
    if now is None or now[1].get("fieldsV1") == before.get("fieldsV1"):
        return []
    operations: list[JsonObject] = [
        _guard(*now),
        {"op": "replace", "path": f"/metadata/managedFields/{now[0]}", "value": {**now[1], **before}},
    ]
    for index, entry in enumerate(entries(item)):
        fields = entry.get("fieldsV1")
        ours = entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Update"
        if ours and not entry.get("subresource") and isinstance(fields, dict):
            rest = _without(fields, before.get("fieldsV1"))
            here = f"/metadata/managedFields/{index}"
            change: JsonObject = {"op": "replace", "path": f"{here}/fieldsV1", "value": rest}
            operations += [_guard(index, entry), change if rest else {"op": "remove", "path": here}]
            break
    return operations


def wishes(item: JsonObject) -> list[JsonObject]:
    """What of managedFields an undo record keeps: who wanted which fields to be so."""
    return [entry for entry in _wanting(item) if entry.get("manager") not in _CONTROLLERS]


def returned(item: JsonObject, before: Sequence[JsonObject]) -> list[JsonObject]:
    """The JSON patch by which fields belong again to those who owned them before, and not to us.

    What we put back is ours by update, and the next server-side apply of its former owner would be in conflict with us.
    Given back is only what we own now: so it is there. `before`: as `wishes` gave it. It must come after the values.
    """
    now = entries(item)
    mine = next((index for index, entry in enumerate(now) if _key(entry) == _OURS), None)
    held = now[mine].get("fieldsV1") if mine is not None else None
    if mine is None or not isinstance(held, dict):
        return []
    operations: list[JsonObject] = []
    kept = _both(held, next((entry.get("fieldsV1") for entry in before if _key(entry) == _OURS), None))
    given: JsonObject = {}
    for entry in before:
        some = _both(held, entry.get("fieldsV1"))
        if not some or entry.get("manager") == FIELD_MANAGER:
            continue
        given = _either(given, some)
        index = next((place for place, other in enumerate(now) if _key(other) == _key(entry)), None)
        if index is None:
            operations.append({"op": "add", "path": "/metadata/managedFields/-", "value": {**entry, "fieldsV1": some}})
        elif (merged := _either(now[index].get("fieldsV1"), some)) != now[index].get("fieldsV1"):
            path = f"/metadata/managedFields/{index}/fieldsV1"
            operations += [_guard(index, now[index]), {"op": "replace", "path": path, "value": merged}]
    rest = _either(_without(held, given), kept)
    if rest != held:
        here = f"/metadata/managedFields/{mine}"
        change: JsonObject = {"op": "replace", "path": f"{here}/fieldsV1", "value": rest}
        operations += [_guard(mine, now[mine]), change if rest else {"op": "remove", "path": here}]
    return operations


def _key(entry: JsonObject) -> tuple[str, str, str]:
    """What managedFields has one entry for, but for the API version."""
    return str(entry.get("manager")), str(entry.get("operation")), str(entry.get("subresource") or "")


#: What we change belongs to us so.
_OURS = (FIELD_MANAGER, "Update", "")


def _both(fields: JsonValue, others: JsonValue) -> JsonObject:
    """The fields that are in both sets."""
    found: JsonObject = {}
    if not isinstance(fields, dict) or not isinstance(others, dict):
        return found
    for name in fields.keys() & others.keys():
        inner = _both(fields[name], others[name])
        if inner or (not fields[name] and not others[name]):
            found[name] = inner
    return found


def _either(fields: JsonValue, others: JsonValue) -> JsonObject:
    """The fields that are in one of the sets."""
    found: JsonObject = dict(fields) if isinstance(fields, dict) else {}
    for name, inner in others.items() if isinstance(others, dict) else ():
        found[name] = _either(found.get(name), inner)
    return found


def _guard(index: int, entry: JsonObject) -> JsonObject:
    return {"op": "test", "path": f"/metadata/managedFields/{index}/fieldsV1", "value": entry.get("fieldsV1")}


def _without(fields: JsonObject, others: JsonValue) -> JsonObject:
    """A set of fields without those of another set."""
    if not isinstance(others, dict):
        return fields
    rest: JsonObject = {}
    for name, inner in fields.items():
        if name not in others:
            rest[name] = inner
        elif isinstance(inner, dict) and (left := _without(inner, others[name])) and set(left) != {"."}:
            rest[name] = left
    return rest


def _wanting(item: JsonObject) -> Iterator[JsonObject]:
    return (entry for entry in entries(item) if entry.get("subresource") != "status")


def _signed(entry: JsonObject) -> str:
    subresource = f" through {entry['subresource']}" if entry.get("subresource") else ""
    time = f" at {entry['time']}" if entry.get("time") else ""
    return f"{str(entry.get('manager'))[:80]}{subresource}{time}"


def _covers(fields: JsonValue, value: JsonValue, path: Sequence[str | int]) -> bool:
    """Whether a set of fields holds the path, one above it as a whole, or anything in it."""
    for step in path:
        if not isinstance(fields, dict):
            return False
        if not set(fields) - {"."}:
            return True  # a leaf: all below belongs to it
        name = _name(fields, value, step)
        if name is None:
            return False
        fields = fields[name]
        value = _inner(value, step)
    return True


def _name(fields: JsonObject, value: JsonValue, step: str | int) -> str | None:
    """The set's name of the field or item."""
    if isinstance(step, str):
        return f"f:{step}" if f"f:{step}" in fields else None
    item = _inner(value, step)
    for name in fields:
        kind, _, text = name.partition(":")
        if kind == "i" and text == str(step):
            return name
        if kind == "v" and json.loads(text) == item:
            return name
        if kind == "k" and isinstance(item, dict):
            keys = json.loads(text)
            if all(item.get(key) == wanted for key, wanted in keys.items()):
                return name
    return None


def _inner(value: JsonValue, step: str | int) -> JsonValue:
    if isinstance(value, dict) and isinstance(step, str):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
        return value[step]
    return None
