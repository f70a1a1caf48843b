"""`expect`: a CEL expression over the answer. A placeholder in it is data, wherever it stands.

A value that is pasted into an expression could change what the expression asks. So a placeholder in the open becomes a
variable, and one inside a string literal is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from consumer.ports import UNKNOWN, Scope, Unknown
from consumer.workflow import conditions, values
from schemas.failure import Problem
from schemas.problems import did_you_mean

_VARIABLES = ("status", "headers", "body")


@dataclass(frozen=True, slots=True)
class Expectation:
    """A compiled expression with the values of its placeholders."""

    text: str
    """As the package has it."""
    condition: conditions.Condition
    values: Mapping[str, JsonValue]

    def holds(self, *, status: int, headers: Mapping[str, str], body: JsonValue) -> bool:
        """Raises conditions.ConditionError."""
        seen: dict[str, JsonValue] = {"status": status, "headers": dict(headers), "body": body}
        return self.condition.evaluate({**seen, **self.values})


def compile_expectation(text: str, scope: Scope) -> tuple[Expectation | None, list[Problem]]:
    """The expectation, or None and all that is wrong with it (paths are `expect`)."""
    scan = _Scan(text, scope)
    source = scan.run()
    if scan.problems:
        return None, scan.problems
    try:
        condition = conditions.compile_condition(source)
    except conditions.ConditionError as error:
        return None, [Problem(path="expect", message=str(error))]
    foreign = sorted(condition.roots.difference(_VARIABLES, scan.values))
    if foreign:
        known = ", ".join(_VARIABLES)
        message = f'there is no "{foreign[0]}" here{did_you_mean(foreign[0], _VARIABLES)}'
        return None, [Problem(path="expect", message=f"{message}; there are {known}, and placeholders: ${{name}}")]
    return Expectation(text, condition, scan.values), []


class _Scan:
    """One pass over the expression that knows whether it is inside a string literal."""

    _OPEN = re.compile(r"""([rRbB]{0,2})('{3}|"{3}|'|")""")
    _COMMENT = re.compile(r"//[^\n]*")

    def __init__(self, text: str, scope: Scope) -> None:
        self._text = text
        self._scope = scope
        self._quote = ""
        self._raw = False
        self.values: dict[str, JsonValue] = {}
        self.problems: list[Problem] = []

    def run(self) -> str:
        """The expression without placeholders."""
        out: list[str] = []
        position = 0
        while position < len(self._text):
            piece, length = self._next(position)
            out.append(piece)
            position += length
        return "".join(out)

    def _next(self, at: int) -> tuple[str, int]:
        """What stands for the text at that position, and how much of it that is."""
        if self._text.startswith("$${", at):
            return "${", 3
        if self._text.startswith("${", at):
            return self._placeholder(at)
        return self._inside(at) if self._quote else self._outside(at)

    def _inside(self, at: int) -> tuple[str, int]:
        if self._text.startswith(self._quote, at):
            closed, self._quote = self._quote, ""
            return closed, len(closed)
        length = 2 if self._text[at] == "\\" and not self._raw else 1
        return self._text[at : at + length], length

    def _outside(self, at: int) -> tuple[str, int]:
        if opened := self._OPEN.match(self._text, at):
            self._quote, self._raw = opened[2], "r" in opened[1].lower()
            return opened[0], len(opened[0])
        if comment := self._COMMENT.match(self._text, at):
            return "", len(comment[0])
        return self._text[at], 1

    def _placeholder(self, at: int) -> tuple[str, int]:
        end = self._text.find("}", at)
        if end < 0:
            self._problem(f'"{self._text[at : at + 80]}" has no closing }}')
            return "", len(self._text) - at
        whole = self._text[at : end + 1]
        if self._quote and self._raw:
            self._problem(f"{whole} stands in a raw string; write the string without r")
        value = self._lookup(whole[2:-1].strip())
        if self._quote:
            return "" if isinstance(value, Unknown) else _escaped(value), len(whole)
        name = f"placeholder_{len(self.values)}"
        self.values[name] = None if isinstance(value, Unknown) else value
        return name, len(whole)

    def _lookup(self, expression: str) -> JsonValue | Unknown:
        try:
            return self._scope.lookup(expression)
        except KeyError as error:
            self._problem(str(error.args[0]) if error.args else f"${{{expression}}} has no value")
            return UNKNOWN

    def _problem(self, message: str) -> None:
        self.problems.append(Problem(path="expect", message=message))


def _escaped(value: JsonValue) -> str:
    """The value's text inside a CEL string literal of any quotes."""
    return "".join(
        char if char.isprintable() and char not in "\\'\"`" else _escape(char) for char in values.as_text(value)
    )


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
