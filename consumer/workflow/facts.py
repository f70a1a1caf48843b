"""What a step touches, in the words that a policy judges by: `action`, `namespace`, `host`, `program`, …

An adapter tells it of a configuration before anything runs (then a value may not be known yet) and again when all its
values are in place. What it does not know it must not guess: a policy allows only what is certain.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from consumer.workflow import values
from consumer.workflow.scope import UNKNOWN, Scope, Unknown
from schemas.problems import Path


class Anything(enum.Enum):
    """A fact that nobody can tell: whatever it may be must be allowed, and what is denied may be meant."""

    VALUE = enum.auto()


ANYTHING = Anything.VALUE


@dataclass(frozen=True, slots=True)
class Called:
    """A name as the package writes it, which may be one of several for the same thing."""

    text: str


Fact = str | bool | Called | Anything | Unknown
Facts = Mapping[str, Fact]


class Reader:
    """Single values of a configuration whose placeholders are replaced as far as that is possible now."""

    def __init__(self, config: dict[str, JsonValue], scope: Scope) -> None:
        found = values.substitute(config, scope)
        self._value = found.value
        self._unknown = found.unknown

    def at(self, *path: str | int) -> JsonValue | Unknown:
        """The value at that path; None where there is none, UNKNOWN where it or a part of it is not known yet."""
        if any(leaf[: len(path)] == path or path[: len(leaf)] == leaf for leaf in self._unknown):
            return UNKNOWN
        value: JsonValue = self._value
        for part in path:
            value = _below(value, part)
        return value

    def text(self, *paths: Path) -> str | Unknown | None:
        """The first of these that is there, as text."""
        for path in paths:
            value = self.at(*path)
            if isinstance(value, Unknown):
                return value
            if value is not None:
                return values.as_text(value)
        return None


def _below(value: JsonValue, part: str | int) -> JsonValue:
    if isinstance(value, dict) and isinstance(part, str):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None
