"""The difference between two states of an object, its undoing, and the masking of secrets. Pure.

A change is `{"path": [...], "from": …, "to": …}`; `from` or `to` is missing where the field was or is not there. An
empty object counts as a missing one, as the API server drops those. Lists of equal length are compared item by item,
others are one value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from consumer.ports import JsonObject

MASK = "***"
#: What the server sets by itself; it is neither a difference to show nor one to undo.
_SERVER_OWNED = {
    "metadata": {
        "resourceVersion",
        "generation",
        "managedFields",
        "uid",
        "creationTimestamp",
        "selfLink",
        "deletionTimestamp",
    }
}
#: Holds a whole former object, values of a Secret included.
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

Change = dict[str, JsonValue]


class _Missing:
    """The value of a field that is not there."""


MISSING = _Missing()
_Value = JsonValue | _Missing


def desired(item: JsonObject) -> JsonObject:
    """The object without its status and what only the server sets."""
    cut: JsonObject = {key: value for key, value in item.items() if key != "status"}
    for part, names in _SERVER_OWNED.items():
        inner = cut.get(part)
        if isinstance(inner, dict):
            cut[part] = {key: value for key, value in inner.items() if key not in names}
    return cut


def between(before: JsonObject, after: JsonObject) -> list[Change]:
    """The changes of an object's wanted state."""
    return list(_walk(desired(before), desired(after), ()))


def of_values(before: JsonValue, after: JsonValue, path: Sequence[str | int] = ()) -> list[Change]:
    """The changes between two values that lie at `path`."""
    return list(_walk(before, after, tuple(path)))


def _walk(before: _Value, after: _Value, path: tuple[str | int, ...]) -> Iterator[Change]:
    if isinstance(before, dict | _Missing) and isinstance(after, dict | _Missing):
        left = before if isinstance(before, dict) else {}
        right = after if isinstance(after, dict) else {}
        for key in [*left, *(key for key in right if key not in left)]:
            yield from _walk(left.get(key, MISSING), right.get(key, MISSING), (*path, key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _walk(old, new, (*path, index))
    elif before != after or type(before) is not type(after):
        change: Change = {"path": list(path)}
        if not isinstance(before, _Missing):
            change["from"] = before
        if not isinstance(after, _Missing):
            change["to"] = after
        yield change


def change(path: Sequence[str | int], before: _Value, after: _Value) -> Change:
    """One change of one field."""
    made: Change = {"path": list(path)}
    if not isinstance(before, _Missing):
        made["from"] = before
    if not isinstance(after, _Missing):
        made["to"] = after
    return made


def path_of(made: Change) -> tuple[str | int, ...]:
    """Where the change is."""
    path = made["path"]
    assert isinstance(path, list)
    return tuple(step for step in path if isinstance(step, str | int))


def look(item: _Value, path: Sequence[str | int]) -> _Value:
    """The value at the path; MISSING where there is none."""
    value = item
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step, MISSING)
        elif isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
            value = value[step]
        else:
            return MISSING
    return value


def same(left: _Value, right: _Value) -> bool:
    """Whether two values are one for the API server: a missing field and an empty object are."""
    if _empty(left) and _empty(right):
        return True
    return type(left) is type(right) and left == right


def _empty(value: _Value) -> bool:
    return isinstance(value, _Missing) or value == {} or value is None


def reverse(item: JsonObject, changes: Sequence[Change]) -> tuple[list[JsonObject], list[Change]]:
    """The JSON patch that takes the changes back, and those changes that can't be: the field is neither old nor new.

    Each operation is guarded by a test of the value it replaces, so that a change made meanwhile is not overwritten.
    """
    operations: list[JsonObject] = []
    others: list[Change] = []
    made_again: set[tuple[str | int, ...]] = set()
    for made in reversed(changes):
        path = path_of(made)
        old, new, now = made.get("from", MISSING), made.get("to", MISSING), look(item, path)
        if same(now, old):
            continue
        if not same(now, new):
            others.append(made)
            continue
        for depth in range(1, len(path)):  # parents that went away with their last field
            parent = path[:depth]
            if isinstance(look(item, parent), _Missing) and parent not in made_again:
                made_again.add(parent)
                operations.append({"op": "add", "path": pointer(parent), "value": {}})
        operations += _operations(path, now, old)
    return operations, others


def _operations(path: tuple[str | int, ...], now: _Value, old: _Value) -> Iterator[JsonObject]:
    here = pointer(path)
    if isinstance(now, _Missing):
        assert not isinstance(old, _Missing)
        yield {"op": "add", "path": here, "value": old}
        return
    yield {"op": "test", "path": here, "value": now}
    if isinstance(old, _Missing):
        yield {"op": "remove", "path": here}
    else:
        yield {"op": "replace", "path": here, "value": old}


def pointer(path: Sequence[str | int]) -> str:
    """The path as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def dotted(path: Sequence[str | int]) -> str:
    """The path as users write it: `spec.containers[0].image`, `metadata.annotations['a.b/c']`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.replace("_", "").replace("-", "").isalnum():
            text += f".{step}" if text else step
        else:
            text += f"['{step}']"
    return text


def shown(changes: Sequence[Change], *, secret: bool) -> list[JsonValue]:
    """The changes for people and events: dotted paths, the values of a Secret masked."""
    lines: list[JsonValue] = []
    for made in changes:
        path = path_of(made)
        hide = secret and (path[:1] in (("data",), ("stringData",)) or LAST_APPLIED in path)
        line: JsonObject = {"path": dotted(path)}
        for side in ("from", "to"):
            line[side] = (MASK if hide else made[side]) if side in made else None
        lines.append(line)
    return lines


def masked(item: JsonObject) -> JsonObject:
    """The object with the values of a Secret masked and without managedFields."""
    cut: JsonObject = {key: value for key, value in item.items() if value is not None}
    metadata = cut.get("metadata")
    if isinstance(metadata, dict):
        metadata = {key: value for key, value in metadata.items() if key != "managedFields"}
        cut["metadata"] = metadata
    if item.get("kind") != "Secret":
        return cut
    for part in ("data", "stringData"):
        inner = cut.get(part)
        if isinstance(inner, dict):
            cut[part] = dict.fromkeys(inner, MASK)
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    if isinstance(annotations, dict) and isinstance(metadata, dict) and LAST_APPLIED in annotations:
        metadata["annotations"] = {**annotations, LAST_APPLIED: MASK}
    return cut
