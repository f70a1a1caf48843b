"""The difference between two states of an object, its undoing, and the masking of secrets. Pure.

A change is `{"path": [...], "from": …, "to": …}`; `from` or `to` is missing where the field was or is not there, and
`born` is the length of the shortest part of the path that was not there before. An empty object is a value
(`emptyDir: {}` says something), but where one and no field at all are told apart by nothing else they are the same.
Lists of equal length are compared item by item, others are one value.
"""

from __future__ import annotations

import copy
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
#: Annotations that follow what the object is, set by the API server and by controllers: to write them back is wrong.
FOLLOWING = frozenset({"deployment.kubernetes.io/revision", "deprecated.daemonset.template.generation"})
#: Holds a whole former object, values of a Secret included.
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

_ANNOTATIONS = ("metadata", "annotations")

Change = dict[str, JsonValue]


class Missing:
    """The value of a field that is not there."""


MISSING = Missing()
_Value = JsonValue | Missing


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
    changes = _walk(desired(before), desired(after), ())
    return [made for made in changes if not (path_of(made)[:2] == _ANNOTATIONS and path_of(made)[-1] in FOLLOWING)]


def of_values(before: JsonValue, after: JsonValue, path: Sequence[str | int] = ()) -> list[Change]:
    """The changes between two values that lie at `path`."""
    return list(_walk(before, after, tuple(path)))


def _walk(before: _Value, after: _Value, path: tuple[str | int, ...], born: int | None = None) -> Iterator[Change]:
    if _both_objects(before, after):
        if isinstance(before, Missing) and born is None:
            born = len(path)
        left = before if isinstance(before, dict) else {}
        right = after if isinstance(after, dict) else {}
        for key in [*left, *(key for key in right if key not in left)]:
            yield from _walk(left.get(key, MISSING), right.get(key, MISSING), (*path, key), born)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _walk(old, new, (*path, index), born)
    elif before != after or type(before) is not type(after):
        made = change(path, before, after)
        if born is not None:
            made["born"] = born
        yield made


def _both_objects(before: _Value, after: _Value) -> bool:
    """Whether the two are compared field by field; one of them may be missing if the other has fields."""
    if isinstance(before, dict) and isinstance(after, dict):
        return True
    return (isinstance(before, Missing) and isinstance(after, dict) and bool(after)) or (
        isinstance(after, Missing) and isinstance(before, dict) and bool(before)
    )


def change(path: Sequence[str | int], before: _Value, after: _Value) -> Change:
    """One change of one field."""
    made: Change = {"path": list(path)}
    if not isinstance(before, Missing):
        made["from"] = before
    if not isinstance(after, Missing):
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


def text(item: _Value, path: Sequence[str | int]) -> str:
    """The text at the path; empty where there is none."""
    value = look(item, path)
    return value if isinstance(value, str) else ""


def same(left: _Value, right: _Value) -> bool:
    """Whether two values are one for the API server: a missing field and an empty object are."""
    if _empty(left) and _empty(right):
        return True
    return _exactly(left, right)


def _exactly(left: _Value, right: _Value) -> bool:
    return type(left) is type(right) and left == right


def _empty(value: _Value) -> bool:
    return isinstance(value, Missing) or value == {} or value is None


def reverse(
    item: JsonObject, changes: Sequence[Change], *, overwrite: bool = False
) -> tuple[list[JsonObject], list[Change]]:
    """The JSON patch that takes the changes back, and those changes that somebody else has changed since.

    Each operation is guarded by a test of the value it replaces, so that a change made meanwhile is not overwritten.
    With `overwrite` the others go back as well, guarded by the value that they have now.
    """
    work = copy.deepcopy(item)
    operations: list[JsonObject] = []
    others: list[Change] = []
    for made in reversed(changes):
        path = path_of(made)
        old, new, now = made.get("from", MISSING), made.get("to", MISSING), look(work, path)
        if _exactly(now, old) or (same(now, old) and not _exactly(now, new)):
            continue
        foreign = not same(now, new)
        if foreign:
            others.append(made)
        if (foreign and not overwrite) or not _reachable(work, path):
            if not foreign:
                others.append(made)
            continue
        for operation in _operations(work, path, old, made.get("born")):
            _carry_out(work, operation[0], operation[1], operation[2])
            operations.append({"op": operation[0], "path": pointer(operation[1]), **operation[3]})
    return operations, others


_Operation = tuple[str, tuple[str | int, ...], JsonValue, JsonObject]


def _operations(item: JsonObject, path: tuple[str | int, ...], old: _Value, born: JsonValue) -> Iterator[_Operation]:
    now = look(item, path)
    if isinstance(now, Missing):
        for depth in range(1, len(path)):  # parents that went away with their last field
            if isinstance(look(item, path[:depth]), Missing):
                yield "add", path[:depth], {}, {"value": {}}
        assert not isinstance(old, Missing)
        yield "add", path, old, {"value": old}
        return
    yield "test", path, None, {"value": copy.deepcopy(now)}
    if not isinstance(old, Missing):
        yield "replace", path, old, {"value": old}
        return
    yield "remove", path, None, {}
    for depth in range(len(path) - 1, born - 1 if isinstance(born, int) else len(path), -1):
        if look(item, path[:depth]) != {}:  # parents that came with the change go with it
            return
        yield "test", path[:depth], None, {"value": {}}
        yield "remove", path[:depth], None, {}


def _carry_out(item: JsonObject, operation: str, path: tuple[str | int, ...], value: JsonValue) -> None:
    parent = look(item, path[:-1])
    last = path[-1]
    if operation == "remove":
        del parent[last]  # type: ignore[union-attr, arg-type]
    elif operation != "test":
        parent[last] = copy.deepcopy(value)  # type: ignore[index]


def _reachable(item: JsonObject, path: tuple[str | int, ...]) -> bool:
    """Whether the path's missing parents are objects' fields, which can be made again; items of lists can't."""
    value: _Value = item
    for step in path[:-1]:
        if isinstance(value, Missing):
            if isinstance(step, int):
                return False
            continue
        value = look(value, (step,))
        if isinstance(value, Missing) and isinstance(step, int):
            return False
    return isinstance(value, dict | list | Missing)


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
    """The changes for people and events: dotted paths, the values of a Secret masked.

    `from` or `to` is missing where the field was or will not be there.
    """
    lines: list[JsonValue] = []
    for made in changes:
        path = path_of(made)
        hide = secret and (path[:1] in (("data",), ("stringData",)) or LAST_APPLIED in path)
        line: JsonObject = {"path": dotted(path)}
        line |= {side: MASK if hide else made[side] for side in ("from", "to") if side in made}
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
