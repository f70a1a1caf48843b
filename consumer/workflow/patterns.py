"""JSON Schema from a package, applied in bounded time: it comes from outside and runs on the loop.

Python's `re` backtracks (`^(a+)+$` takes years) and holds the interpreter meanwhile. So `pattern` and
`patternProperties` are matched by pydantic's engine, Rust's `regex`: linear in the text, searching anywhere in it as
ECMA-262 says, without look-around and back references. Linear is not enough where the pattern itself is made large
(`a{1000}{100}`), nor does it help against references that fan out; so all work is counted, and refused above `LIMIT`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, cast

import jsonschema
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from pydantic import ConfigDict, JsonValue, StringConstraints, TypeAdapter
from pydantic_core import SchemaError as PydanticSchemaError
from referencing import Registry

from consumer.errors import AgentError
from schemas.problems import shown

#: Of work for one schema, in units of about 5 ns: two seconds.
LIMIT = 400_000_000
_CALL, _COMPILE, _COMPILE_STATE, _COMPARE = 2000, 20_000, 250, 100
#: States of a compiled class of letters, and those of them that a text is in at once.
_LARGE_CLASS, _CLASS = 500, 4

_TOKEN = re.compile(r"\\[pP]\{[^}]{0,99}\}|\\.|\{(\d{0,9})(?:,(\d{0,9}))?\}|.", re.DOTALL)
#: What ECMA-262 means by them; Rust means all of Unicode, which is also large.
_ASCII = {r"\d": "[0-9]", r"\D": "[^0-9]", r"\w": "[0-9A-Za-z_]", r"\W": "[^0-9A-Za-z_]"}
_RANGE = re.compile(r"-\\[dDwW]")
_VERBOSE = re.compile(r"\(\?[a-wyzA-Z-]*x")
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_UNEVALUATED = frozenset({"unevaluatedProperties", "unevaluatedItems"})
_DATA = frozenset({"const", "enum", "default", "examples"})

_ENGINE = ConfigDict(regex_engine="rust-regex")

_Errors = Iterator[jsonschema.ValidationError]
_Keyword = Callable[[Validator, Any, Any, Mapping[str, Any]], _Errors | None]


class SchemaRefused(AgentError):
    """A schema that can't be applied in bounded time, or with a pattern that the engine does not know."""

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path
        """Inside the schema."""


@dataclass(slots=True)
class _Meter:
    spent: int = 0
    compiled: dict[str, tuple[TypeAdapter[str], int]] = field(default_factory=dict)


_meter: ContextVar[_Meter] = ContextVar("_meter")


def check(schema: dict[str, JsonValue]) -> None:
    """Raises SchemaRefused, and jsonschema.SchemaError where it is no valid schema."""
    base = validator_for(schema, default=jsonschema.Draft202012Validator)
    for error in _errors(base, base.META_SCHEMA, schema):
        raise jsonschema.SchemaError.create_from(error)
    _meter.set(_Meter())
    _look(schema)


def errors(schema: dict[str, JsonValue], value: JsonValue) -> _Errors:
    """What the schema, which was checked, says against the value; `format` says nothing. Raises SchemaRefused."""
    yield from _errors(validator_for(schema, default=jsonschema.Draft202012Validator), schema, value)


def _errors(base: type[Validator], schema: Mapping[str, Any], value: JsonValue) -> _Errors:
    _meter.set(_Meter())
    # An empty registry: a schema may not make the agent fetch others.
    yield from _bounded(base)(schema, registry=Registry()).iter_errors(value)


def _look(schema: dict[str, JsonValue]) -> None:
    """Refuses what can be seen without a value."""
    pending: list[tuple[JsonValue, tuple[str | int, ...]]] = [(schema, ())]
    keys: set[str] = set()
    while pending:
        here, path = pending.pop()
        if isinstance(here, list):
            pending += [(item, (*path, index)) for index, item in enumerate(here)]
        if not isinstance(here, dict):
            continue
        keys |= {key for key, value in here.items() if key not in _REFERENCES or isinstance(value, str)}
        pending += [(value, (*path, key)) for key, value in here.items() if key not in _DATA]
        found = here.get("patternProperties")
        for pattern in (here.get("pattern"), *(found if isinstance(found, dict) else ())):
            if isinstance(pattern, str):
                where = "pattern" if pattern == here.get("pattern") else "patternProperties"
                try:
                    _matcher(pattern)
                except SchemaRefused as error:
                    raise SchemaRefused(str(error), (*path, where)) from error
    if keys & _UNEVALUATED and keys & (_REFERENCES | {"patternProperties"}):
        message = "can't stand in one schema with patternProperties or $ref here; use additionalProperties or items"
        raise SchemaRefused(f"{min(keys & _UNEVALUATED)} {message}")


# --- the bound --------------------------------------------------------------------------------------------------


def _charge(units: int) -> None:
    meter = _meter.get()
    meter.spent += units
    if meter.spent > LIMIT:
        raise SchemaRefused(
            "it takes too long to apply; use fewer nested references and patterns, repeat less in them ({n} "
            "multiplies), or give smaller values"
        )


@lru_cache(maxsize=16)
def _bounded(base: type[Validator]) -> Callable[..., Validator]:
    """The dialect's validator, with what is said above."""
    keywords: dict[str, _Keyword] = dict(base.VALIDATORS)
    own: dict[str, _Keyword] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
    }
    keywords |= {name: keyword for name, keyword in own.items() if name in keywords}
    counted = {name: _counted(name, keyword) for name, keyword in keywords.items()}
    bounded = extend(base, counted)  # type: ignore[no-untyped-call]
    # The library takes its own class for a subschema that has a $schema: that would be the way around all this.
    bounded.evolve = _evolve
    return cast("Callable[..., Validator]", bounded)


def _evolve(self: Any, **changes: Any) -> Any:
    return type(self)(changes.get("schema", self.schema), _resolver=changes.get("_resolver", self._resolver))


def _counted(name: str, keyword: _Keyword) -> _Keyword:
    def counted(validator: Validator, value: Any, instance: Any, schema: Mapping[str, Any]) -> _Errors:
        _charge(_CALL)
        if isinstance(value, list):
            # Each `false` tells the whole value; each member of an enum is compared.
            refused = sum(1 for member in value if member is False)
            _charge(len(value) * _COMPARE + (refused * len(repr(instance)) if refused else 0))
        if name == "uniqueItems" and isinstance(instance, list) and not all(isinstance(i, str) for i in instance):
            _charge(len(instance) ** 2 * _COMPARE)
        for error in keyword(validator, value, instance, schema) or ():
            _charge(_CALL + len(error.message))
            yield error

    return counted


# --- the keywords -----------------------------------------------------------------------------------------------


def _pattern(validator: Validator, pattern: str, instance: Any, _schema: Mapping[str, Any]) -> _Errors:
    if validator.is_type(instance, "string") and not _found(pattern, instance):
        yield jsonschema.ValidationError(f"{shown(instance)} does not match the pattern {pattern[:150]}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, _schema: Mapping[str, Any]
) -> _Errors:
    if not validator.is_type(instance, "object"):
        return
    for pattern, subschema in patterns.items():
        for name, value in instance.items():
            if _found(pattern, name):
                yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Mapping[str, Any]) -> _Errors:
    if not validator.is_type(instance, "object"):
        return
    declared, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    extras = [
        name for name in instance if name not in declared and not any(_found(pattern, name) for pattern in patterns)
    ]
    if isinstance(allowed, dict):
        for name in extras:
            yield from validator.descend(instance[name], allowed, path=name)
    elif not allowed and extras:
        names = ", ".join(repr(name[:80]) for name in extras[:10])
        match = f" and match none of the patterns {', '.join(patterns)[:150]}" if patterns else ""
        message = f"Additional properties are not allowed: {names} {'is' if len(extras) == 1 else 'are'} unexpected"
        yield jsonschema.ValidationError(message + match)


# --- the patterns -----------------------------------------------------------------------------------------------


def _found(pattern: str, text: str) -> bool:
    matcher, states = _matcher(pattern)
    _charge(_CALL // 10 + states * len(text))
    try:
        matcher.validate_python(text, strict=True)
    except ValueError:
        return False
    return True


def _matcher(pattern: str) -> tuple[TypeAdapter[str], int]:
    """What tells whether a text has a match, and how many states it may be in at each character."""
    compiled = _meter.get().compiled
    if pattern not in compiled:
        _charge(_COMPILE + _COMPILE_STATE * _states(pattern, _LARGE_CLASS))
        compiled[pattern] = (_compile(pattern), _states(pattern, _CLASS))
    return compiled[pattern]


def _compile(pattern: str) -> TypeAdapter[str]:
    if _VERBOSE.search(pattern):
        raise SchemaRefused(f"the pattern {pattern[:150]} has the flag x, which ECMA-262 does not know; leave it out")
    try:
        tokens = [token[0] for token in _TOKEN.finditer(pattern)]
        if _RANGE.search(pattern):  # `[(-\w]` is none, and must not become `[(-[0-9…`: tried with a small class
            probe = "".join(r"\s" if token in _ASCII else token for token in tokens)
            TypeAdapter(Annotated[str, StringConstraints(pattern=probe)], config=_ENGINE)
        asked = "".join(_ASCII.get(token, token) for token in tokens)
        return TypeAdapter(Annotated[str, StringConstraints(pattern=asked)], config=_ENGINE)
    except PydanticSchemaError as error:
        why = str(error).rstrip().rpartition("\n")[2].strip().removeprefix("error: ")[:200]
        remedy = "write it without look-ahead, look-behind and back references, in the syntax of RE2"
        if "size limit" in why:
            remedy = "repeat less in it ({n} multiplies)"
        raise SchemaRefused(f"the pattern {pattern[:150]} can't be used: {why}; {remedy}") from error


def _states(pattern: str, large: int) -> int:
    """How many states the pattern has at most, where a class of letters takes `large`: what is repeated counts so
    often."""
    total = last = 0
    outer: list[int] = []
    tokens = list(_TOKEN.finditer(pattern))
    at = 0
    while at < len(tokens):
        token = tokens[at]
        text = token[0]
        at += 1
        if text == "(":
            outer.append(total)
            total = last = 0
        elif text == ")" and outer:
            last = total + 1
            total = outer.pop() + last
        elif text[0] == "{" and len(text) > 1:
            times = max(1, int(token[1] or 0), int(token[2] or 0))
            total = min(total + last * (times - 1), LIMIT)
            last = min(last * times, LIMIT)
        elif text not in "*+?":
            last = large if text[0] == "\\" and text[1] in "pPsSbB" else _CLASS
            if text == "[":
                at, last = _class(tokens, at, large)
            total += last
    return (total + sum(outer)) * (3 if "(?" in pattern else 1)


def _class(tokens: list[re.Match[str]], at: int, large: int) -> tuple[int, int]:
    """Where the class that began before `at` ends, and its states."""
    depth, states, start = 1, _CLASS, True
    while at < len(tokens) and depth:
        text = tokens[at][0]
        at += 1
        if text == "[":
            depth, start = depth + 1, True
            continue
        if text == "^" and tokens[at - 2][0] == "[" and start:
            states += _CLASS
            continue
        if text == "]" and not start:
            depth -= 1
        start = False
        states = max(states, large) if text[0] == "\\" and text[1:2] in "pPsS" else states + (large > _CLASS)
    return at, states
