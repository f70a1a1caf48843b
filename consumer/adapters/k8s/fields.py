"""Field paths, as users write them in `field`: `spec.replicas`, `{.spec.template.spec.containers[0].image}`,
`metadata.annotations['a.b/c']`, `status.conditions[?(@.type=="Ready")].status`, `items[*].metadata.name`. Pure.

It is the part of kubectl's JSONPath that names values: fields, indexes, slices, unions, wildcards, filters and
recursive descent. Its text templates (`{range}`, quoted text) are not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import JsonValue

T = TypeVar("T", str, float)
_SYNTAX = "write a path like spec.replicas, spec.containers[0].image or metadata.annotations['a.b/c']"


@dataclass(frozen=True, slots=True)
class Filter:
    """Those items of a list whose field compares so with a value, or (no comparison) have the field."""

    path: Path
    comparison: str = ""
    value: str | Path = ""
    """A text, or a path in the same item."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Some items of a list, as in Python: `[1:3]`, `[-2:]`, `[::2]`."""

    start: int | None
    stop: int | None
    step: int | None


@dataclass(frozen=True, slots=True)
class Quoted:
    """A name in quotes: that field, or (kubectl's way) the path that it spells: `['metadata.name']`."""

    name: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Union:
    """What several steps name, one after the other: `['name','image']`, `[0,2]`."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Deep:
    """The value and all objects and lists in it: `..`."""


#: A field's name, an index, None for all items, or one of the above.
Step = str | int | Filter | Slice | Quoted | Union | Deep | None
Path = tuple[Step, ...]

_NAME = re.compile(r"\.?((?:[^.\[\]{}()'\"\\\s]|\\.)+)")
_TEXT = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_INDEX = re.compile(r"-?\d+")
_SLICE = re.compile(r"(-?\d+)?\s*:\s*(-?\d+)?\s*(?::\s*([1-9]\d*)?)?")
_COMPARISON = re.compile(r"==|!=|<=|>=|<|>")
_WORD = re.compile(r"[\w.+-]+")
_OPENING, _CLOSING = "[(", "])"
#: Signs of the difference with which a comparison holds.
_ORDERS: Mapping[str, tuple[int, ...]] = {"<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (0, 1), "==": (0,), "!=": (-1, 1)}


def parse(text: str) -> Path:
    """The path. Raises ValueError with the remedy."""
    body = text.strip()
    if body.startswith("{") and body.endswith("}"):
        body = body[1:-1].strip()
    try:
        return _path(body.removeprefix("$"))
    except _NoPath as error:
        raise ValueError(f'"{text[:200]}" is no field path (at "{str(error)[:20]}"); {_SYNTAX}') from None


class _NoPath(Exception):
    """Says where it is no path."""


def _path(body: str) -> Path:
    if body in ("", "."):
        return ()
    steps: list[Step] = []
    position = 0
    while position < len(body):
        step, position = _step(body, position)
        steps.append(step)
    if isinstance(steps[-1], Deep):
        raise _NoPath(body[-2:])
    return tuple(steps)


def _step(body: str, position: int) -> tuple[Step, int]:
    if body.startswith("..", position):
        following = body[position + 2 : position + 3]
        return Deep(), position + (2 if following == "[" else 1)
    if body[position] == "[":
        end = _closing(body, position)
        return _bracket(body[position + 1 : end].strip()), end + 1
    if body.startswith((".*", "*"), position):
        return None, position + (2 if body[position] == "." else 1)
    match = _NAME.match(body, position)
    if match is None or (position > 0 and body[position] != "."):
        raise _NoPath(body[position:])
    return _unescape(match[1]), match.end()


def _closing(body: str, position: int) -> int:
    """Where the bracket that opens at `position` closes."""
    for place, character in _bare(body, position + 1):
        if character == "]":
            return place
    raise _NoPath(body[position:])


def _bare(body: str, position: int = 0) -> Iterator[tuple[int, str]]:
    """The characters that stand in no quotes and in no brackets that open after `position`, with their places."""
    depth = 0
    while position < len(body):
        if body[position] in "'\"":
            match = _TEXT.match(body, position)
            if match is None:
                raise _NoPath(body[position:])
            position = match.end()
            continue
        character = body[position]
        if depth == 0:
            yield position, character
        depth += (character in _OPENING) - (character in _CLOSING)
        position += 1


def _bracket(content: str) -> Step:
    if content.startswith("?(") and content.endswith(")"):
        return _filter(content[2:-1].strip())
    commas = [place for place, character in _bare(content) if character == ","]
    starts = [0, *(place + 1 for place in commas)]
    parts = [content[start:end].strip() for start, end in zip(starts, [*commas, len(content)], strict=True)]
    steps = tuple(_chosen(part) for part in parts)
    return steps[0] if len(steps) == 1 else Union(steps)


def _chosen(part: str) -> Step:
    if part == "*":
        return None
    if match := _TEXT.fullmatch(part):
        raw = match[1] if match[1] is not None else match[2]
        name, path = _unescape(raw), tuple(_unescape(word) for word in re.split(r"(?<!\\)\.", raw.removeprefix(".")))
        return name if len(path) == 1 else Quoted(name, path)
    if _INDEX.fullmatch(part):
        return int(part)
    if match := _SLICE.fullmatch(part):
        start, stop, step = (None if group is None else int(group) for group in match.groups())
        return Slice(start, stop, step)
    raise _NoPath(f"[{part}]")


def _filter(content: str) -> Filter:
    for place, _ in _bare(content):
        if match := _COMPARISON.match(content, place):
            left, right = content[:place].strip(), content[match.end() :].strip()
            return Filter(_at(left), match[0], _at(right) if right.startswith("@") else _literal(right))
    return Filter(_at(content))


def _at(text: str) -> Path:
    if not text.startswith("@"):
        raise _NoPath(text)
    return _path(text[1:])


def _literal(text: str) -> str:
    if match := _TEXT.fullmatch(text):
        return _unescape(match[1] if match[1] is not None else match[2])
    if not _WORD.fullmatch(text):
        raise _NoPath(text)
    return text


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def find(value: JsonValue, path: Path) -> list[JsonValue]:
    """All values that the path names; empty where there is none, as with kubectl."""
    found = [value]
    for step in path:
        found = [inner for outer in found for inner in _inner(outer, step)]
    return found


def value_of(value: JsonValue, path: Path) -> JsonValue:
    """The value that the path names, None where there is none; a list where the path may name several.

    A filter that one item passes gives that one value: `conditions[?(@.type=="Ready")].status` is a text.
    """
    found = find(value, path)
    several = any(step is None or isinstance(step, Slice | Union | Deep) for step in path)
    if several or len(found) > 1:
        return found
    return found[0] if found else None


def _inner(value: JsonValue, step: Step) -> list[JsonValue]:
    found: list[JsonValue] = []
    match step:
        case str():
            found = [value[step]] if isinstance(value, dict) and step in value else []
        case int():
            found = [value[step]] if isinstance(value, list) and -len(value) <= step < len(value) else []
        case Quoted():
            found = _inner(value, step.name) or find(value, step.path)
        case Slice():
            found = value[step.start : step.stop : step.step] if isinstance(value, list) else []
        case Union():
            found = [inner for each in step.steps for inner in _inner(value, each)]
        case Deep():
            found = list(_deep(value))
        case Filter():
            found = [item for item in _items(value) if _passes(item, step)]
        case None:
            found = _items(value)
    return found


def _items(value: JsonValue) -> list[JsonValue]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _deep(value: JsonValue) -> Iterator[JsonValue]:
    if items := _items(value):
        yield value
        for item in items:
            yield from _deep(item)


def _passes(item: JsonValue, wanted: Filter) -> bool:
    left = find(item, wanted.path)
    if not wanted.comparison:
        return bool(left)
    right = [wanted.value] if isinstance(wanted.value, str) else find(item, wanted.value)
    if len(left) != 1 or len(right) != 1:
        return False
    one, other = text_of(left[0]), text_of(right[0])
    equality = wanted.comparison in ("==", "!=")
    numbers = None if equality else _numbers(one, other)
    sign = _sign(one, other) if numbers is None else _sign(*numbers)
    return sign in _ORDERS[wanted.comparison]


def _sign(one: T, other: T) -> int:
    return (one > other) - (one < other)


def _numbers(one: str, other: str) -> tuple[float, float] | None:
    try:
        return float(one), float(other)
    except ValueError:
        return None


def text_of(value: JsonValue) -> str:
    """The value as kubectl prints it and compares it with a text: `true`, `3`, `Running`, `{"a":1}`."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
