"""How an API server merges: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge. Pure.

Written from the documents, not from the adapter, so that the two can disagree.
"""

from __future__ import annotations

import copy
from typing import Any

Json = Any

#: The key by which strategic merge tells the items of a list (the `patchMergeKey` of the API types). Other lists are
#: replaced as a whole.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "ownerReferences": "uid",
    "conditions": "type",
    "topologySpreadConstraints": "topologyKey",
    "ports": "containerPort",
}
#: Lists of texts that are merged instead of replaced.
MERGED_SETS = {"finalizers"}


class PatchError(Exception):
    """The patch can't be applied. `status` is the HTTP status of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def merge(target: Json, patch: Json) -> Json:
    """A merge patch: null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def strategic(target: Json, patch: Json) -> Json:
    """A strategic merge patch of an object: as a merge patch, but lists with a merge key are merged by it."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key.startswith(("$setElementOrder/", "$retainKeys", "$patch")):
            continue
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.split("/", 1)[1]
            result[name] = [item for item in result.get(name, []) if item not in value]
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, list):
            result[key] = _strategic_list(key, result.get(key), value)
        else:
            result[key] = strategic(result.get(key), value)
    return result


def _strategic_list(name: str, target: Json, patch: list[Json]) -> list[Json]:
    if name in MERGED_SETS:
        return [*(target or []), *(item for item in patch if item not in (target or []))]
    key = MERGE_KEYS.get(name)
    if name == "ports" and any(isinstance(item, dict) and "port" in item for item in patch):
        key = "port"  # of a Service
    if key is None:
        return copy.deepcopy(patch)
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if item.get("$patch") != "replace"]
    result = [dict(item) for item in target or []]
    for item in patch:
        if key not in item:
            raise PatchError(400, f"map: map[] does not contain declared merge key: {key}")
        index = next((i for i, old in enumerate(result) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if index is not None:
                del result[index]
        elif index is None:
            result.append(strategic({}, item))
        else:
            result[index] = strategic(result[index], item)
    return result


def json_patch(target: Json, operations: Json) -> Json:
    """A JSON patch. Raises PatchError: 422 where it can't be applied, as the API server answers."""
    if not isinstance(operations, list):
        raise PatchError(400, "cannot unmarshal object into Go value of type jsonpatch.Patch")
    document = copy.deepcopy(target)
    for operation in operations:
        document = _apply(document, operation)
    return document


def _apply(document: Json, operation: dict[str, Json]) -> Json:
    kind = operation.get("op")
    if kind in ("move", "copy"):
        value = copy.deepcopy(_look(document, _parts(operation["from"])))
        if kind == "move":
            document = _apply(document, {"op": "remove", "path": operation["from"]})
        return _apply(document, {"op": "add", "path": operation["path"], "value": value})
    parts = _parts(operation["path"])
    if kind == "test":
        try:
            found = _look(document, parts)
        except PatchError:
            found = None
        if found != operation.get("value"):
            raise PatchError(422, f"testing value {operation['path']} failed: test failed")
        return document
    if not parts:
        return copy.deepcopy(operation["value"])
    parent = _look(document, parts[:-1])
    _change(parent, parts[-1], operation)
    return document


def _change(parent: Json, last: str, operation: dict[str, Json]) -> None:
    kind, path = operation.get("op"), operation["path"]
    if isinstance(parent, list):
        index = len(parent) if last == "-" and kind == "add" else int(last)
        if index > len(parent) or (index == len(parent) and kind != "add"):
            raise PatchError(422, f"{kind} operation does not apply: doc is missing path: {path}")
        if kind == "add":
            parent.insert(index, copy.deepcopy(operation["value"]))
        elif kind == "replace":
            parent[index] = copy.deepcopy(operation["value"])
        else:
            del parent[index]
        return
    if not isinstance(parent, dict) or (kind in ("replace", "remove") and last not in parent):
        raise PatchError(422, f"{kind} operation does not apply: doc is missing key: {path}")
    if kind == "remove":
        del parent[last]
    else:
        parent[last] = copy.deepcopy(operation["value"])


def _parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _look(document: Json, parts: list[str]) -> Json:
    for part in parts:
        try:
            document = document[int(part)] if isinstance(document, list) else document[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise PatchError(422, f"doc is missing path: /{'/'.join(parts)}: missing value") from None
    return document
