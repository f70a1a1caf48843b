"""Field paths, as users write them in `field`: `spec.replicas`, `{.spec.template.spec.containers[0].image}`,
`metadata.annotations['a.b/c']`, `status.conditions[?(@.type=="Ready")].status`, `items[*].metadata.name`. Pure.

It is the part of kubectl's JSONPath that names values; its text templates and recursive descent are not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import JsonValue

_SYNTAX = "write a path like spec.replicas, spec.containers[0].image or metadata.annotations['a.b/c']"


@dataclass(frozen=True, slots=True)
class Filter:
    """Those items of a list whose field (a dotted path) equals the text."""

    path: tuple[str, ...]
    value: str


#: A field's name, an index, None for all items, or a filter.
Step = str | int | Filter | None
Path = tuple[Step, ...]

_NAME = re.compile(r"\.?((?:[^.\[\]{}()'\"\\\s]|\\.)+)")
_QUOTED = re.compile(r"\[\s*(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\")\s*\]")
_INDEX = re.compile(r"\[\s*(-?\d+|\*)\s*\]")
_FILTER = re.compile(r"\[\?\(\s*@((?:\.[A-Za-z0-9_-]+)+)\s*==\s*(?:'([^']*)'|\"([^\"]*)\"|([\w.-]+))\s*\)\]")


def parse(text: str) -> Path:
    """The path. Raises ValueError with the remedy."""
    body = text.strip()
    if body.startswith("{") and body.endswith("}"):
        body = body[1:-1].strip()
    body = body.removeprefix("$")
    if body in ("", "."):
        return ()
    steps: list[Step] = []
    position = 0
    while position < len(body):
        step, position = _step(body, position, text)
        steps.append(step)
    return tuple(steps)


def _step(body: str, position: int, text: str) -> tuple[Step, int]:
    if match := _QUOTED.match(body, position):
        return _unescape(match[1] if match[1] is not None else match[2]), match.end()
    if match := _INDEX.match(body, position):
        return (None if match[1] == "*" else int(match[1])), match.end()
    if match := _FILTER.match(body, position):
        value = next(group for group in match.groups()[1:] if group is not None)
        return Filter(tuple(match[1].removeprefix(".").split(".")), value), match.end()
    if body.startswith((".*", "*"), position):
        return None, position + (2 if body[position] == "." else 1)
    match = _NAME.match(body, position)
    if match is None or (position > 0 and body[position] != "."):
        raise ValueError(f'"{text[:200]}" is no field path (at "{body[position : position + 20]}"); {_SYNTAX}')
    return _unescape(match[1]), match.end()


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def is_many(path: Path) -> bool:
    """Whether the path may name several values."""
    return any(step is None or isinstance(step, Filter) for step in path)


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
    if None in path or len(found) > 1:
        return found
    return found[0] if found else None


def _inner(value: JsonValue, step: Step) -> list[JsonValue]:
    if isinstance(step, str):
        return [value[step]] if isinstance(value, dict) and step in value else []
    if isinstance(step, int):
        return [value[step]] if isinstance(value, list) and -len(value) <= step < len(value) else []
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if step is None:
        return list(items)
    return [item for item in items if [_text(v) for v in find(item, step.path)] == [step.value]]


def _text(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def text_of(value: JsonValue) -> str:
    """The value as kubectl compares it with a text: `true`, `3`, `Running`."""
    return _text(value)
