"""What a condition uses and how it is built, read from its tokens: the basis of its bounds and of its checks.

This is no parser: the CEL library is. It sees calls, macros with their variables, and which parts of the variables
are named statically (`steps.check.output.replicas`, `headers["content-type"]`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from schemas.problems import did_you_mean

MAX_TOKENS = 512
#: Of a regular expression: its length times what its counted repetitions multiply.
MAX_PATTERN = 2000
MAX_NESTING = 2

Chain = tuple[str, ...]
"""A variable and the names that follow it: `("steps", "check", "output")`."""

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<string>(?P<prefix>[rRbB]{0,2})(?:
        (?<=[rR])(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n\r]*"|'[^'\n\r]*')
        |(?<=[rR][bB])(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n\r]*"|'[^'\n\r]*')
        |(?<![rR])(?<![rR][bB])(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}
            |"(?:\\.|[^"\\\n\r])*"|'(?:\\.|[^'\\\n\r])*')))
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[uU]?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>&&|\|\||[<>=!]=|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)
_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}")

_DATES = ["FullYear", "Month", "Date", "DayOfMonth", "DayOfWeek", "DayOfYear", "Hours", "Minutes", "Seconds"]
#: Calls whose time does not grow with what they are given.
_CHEAP = frozenset({"has", "startsWith", "endsWith", "int", "uint", "double", "type", "dyn", "timestamp", "duration"})
_OTHERS = frozenset({"size", "contains", "matches", "string", "bytes"})
FUNCTIONS = _CHEAP | _OTHERS | {f"get{part}" for part in [*_DATES, "Milliseconds"]}
MACROS = frozenset({"all", "exists", "exists_one", "filter"})
_WORDS = frozenset({"true", "false", "null", "in"})


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    """string, number, name or sign."""
    text: str
    column: int


@dataclass(slots=True)
class Macro:
    """One `range.all(x, …)`."""

    name: str
    variable: str
    depth: int
    """0 where it stands in no other."""
    nested_linearly: bool
    """It goes through a part of what the outer one goes through, so that both together see each value once."""
    tokens: int = 0
    heavy: int = 0
    """Operations in it whose time grows with the data."""
    patterns: int = 0
    """The size of the regular expressions in it."""


@dataclass(slots=True)
class Reading:
    """What was found."""

    tokens: int = 0
    chains: set[Chain] = field(default_factory=set)
    macros: list[Macro] = field(default_factory=list)
    pluses: int = 0
    heavy: int = 0
    patterns: int = 0


def tokenize(text: str) -> list[Token] | str:
    """The tokens without spaces and comments, or what is wrong."""
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            what = "a text without its closing quote" if text[position] in "\"'" else f'"{text[position]}"'
            return f"column {position + 1}: {what} can't stand here"
        if match["space"] is None:
            if len(tokens) == MAX_TOKENS:
                return f"it has more than {MAX_TOKENS} names, values and signs; make it shorter"
            kind = next(kind for kind in ("string", "number", "name", "sign") if match[kind] is not None)
            tokens.append(Token(kind, match[0], position + 1))
        position = match.end()
    return tokens


class _Refused(Exception):
    """The condition has a form that is not allowed; the text says which."""


def read(tokens: Sequence[Token]) -> Reading | str:
    """What the tokens of a condition without syntax errors say, or why that form is not allowed."""
    reader = _Reader(tokens)
    try:
        reader.run()
    except _Refused as error:
        return str(error)
    return reader.found


class _Reader:
    """One pass over the tokens, with the open brackets on a stack."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._open: list[Macro | None] = []
        self.found = Reading(tokens=len(tokens))

    def run(self) -> None:
        for at, token in enumerate(self._tokens):
            for macro in self._around():
                macro.tokens += 1
            if token.kind == "name":
                self._name(at)
            elif token.kind == "sign":
                self._sign(at)

    def _around(self) -> Iterator[Macro]:
        return (frame for frame in self._open if frame is not None)

    def _text(self, at: int) -> str:
        return self._tokens[at].text if 0 <= at < len(self._tokens) else ""

    def _kind(self, at: int) -> str:
        return self._tokens[at].kind if 0 <= at < len(self._tokens) else ""

    def _name(self, at: int) -> None:
        name = self._text(at)
        if self._text(at + 1) == "(" and name not in _WORDS:
            self._call(at)
        elif self._text(at - 1) == ".":
            return
        elif name == "in":
            self._heavy()
        elif name not in _WORDS and all(macro.variable != name for macro in self._around()):
            self.found.chains.add(self._chain(at))

    def _chain(self, at: int) -> Chain:
        chain = [self._text(at)]
        at += 1
        while True:
            if self._text(at) == "." and self._kind(at + 1) == "name" and self._text(at + 2) != "(":
                chain.append(self._text(at + 1))
                at += 2
            elif (
                self._text(at) == "[" and self._text(at + 2) == "]" and (key := _plain(self._text(at + 1))) is not None
            ):
                chain.append(key)
                at += 3
            else:
                return tuple(chain)

    def _call(self, at: int) -> None:
        name, method = self._text(at), self._text(at - 1) == "."
        if name in ("map", "transformList", "transformMap"):
            raise _Refused(f"{name}(…) is not allowed in a condition; ask with exists(…), all(…) or filter(…)")
        if name == "existsOne" and method:
            name = "exists_one"
        if name not in FUNCTIONS and not (method and name in MACROS):
            known = sorted(FUNCTIONS | MACROS)
            raise _Refused(f'there is no function "{name}"{did_you_mean(name, known)}')
        if name in MACROS:
            return  # the bracket that follows opens it
        if name == "matches":
            self._matches(at, method=method)
        elif name not in _CHEAP:
            self._heavy()

    def _matches(self, at: int, *, method: bool) -> None:
        pattern = self._text(at + 2)
        if not method or self._kind(at + 2) != "string" or self._text(at + 3) != ")":
            raise _Refused('write matches with a literal pattern: text.matches("^web-[0-9]+$")')
        weight = len(pattern)
        for least, most in _REPEAT.findall(pattern):
            weight *= max(int((most or least)[:6]), 1)
        if weight > MAX_PATTERN:
            raise _Refused("the pattern of matches is too large; repeat less ({n} multiplies)")
        self.found.patterns += weight
        for macro in self._around():
            macro.patterns += weight

    def _heavy(self) -> None:
        self.found.heavy += 1
        for macro in self._around():
            macro.heavy += 1

    def _sign(self, at: int) -> None:
        sign = self._text(at)
        if sign in ("(", "[", "{"):
            self._open.append(self._macro(at) if sign == "(" else None)
        elif sign in (")", "]", "}"):
            if self._open:
                self._open.pop()
        elif sign == "+":
            self.found.pluses += 1
        elif sign in ("==", "!=") and not (self._is_literal(at - 1) or self._is_literal(at + 1)):
            self._heavy()

    def _is_literal(self, at: int) -> bool:
        alone = self._text(at + 1) != "+" and self._text(at - 1) != "+"
        return alone and (self._kind(at) in ("string", "number") or self._text(at) in ("true", "false", "null"))

    def _macro(self, at: int) -> Macro | None:
        """The macro that the bracket at that place opens, if it opens one."""
        name = self._text(at - 1)
        name = "exists_one" if name == "existsOne" else name
        if self._text(at - 2) != "." or name not in MACROS:
            return None
        around = list(self._around())
        if around and (name == "filter" or any(macro.name == "filter" for macro in around)):
            raise _Refused("a filter can neither hold another macro nor stand in one")
        if len(around) >= MAX_NESTING:
            raise _Refused(f"macros nest at most {MAX_NESTING} deep here")
        linear = bool(around) and self._root_before(at - 2) == around[-1].variable
        macro = Macro(name=name, variable=self._text(at + 1), depth=len(around), nested_linearly=linear)
        self.found.macros.append(macro)
        return macro

    def _root_before(self, dot: int) -> str:
        """The first name of the plain chain that ends before the dot: `p` of `p.status.items.`."""
        at = dot - 1
        while self._kind(at) == "name" and self._text(at - 1) == ".":
            at -= 2
        return self._text(at) if self._kind(at) == "name" else ""


def _plain(literal: str) -> str | None:
    """The text of a string literal without escapes; None for any other token."""
    match = re.fullmatch(r"""(?:"([^"\\]*)"|'([^'\\]*)')""", literal)
    return (match[1] if match[1] is not None else match[2]) if match else None


def prune(variables: Mapping[str, JsonValue], chains: Iterable[Chain]) -> dict[str, JsonValue]:
    """Only what the chains name of the variables. What is not there stays absent, so that errors stay the same."""
    wanted: dict[str, _Wanted] = {}
    for chain in chains:
        level = wanted
        for name in chain[:-1]:
            level = level.setdefault(name, _Wanted()).below
        level.setdefault(chain[-1], _Wanted()).whole = True
    return {name: _cut(variables[name], want) for name, want in wanted.items() if name in variables}


@dataclass(slots=True)
class _Wanted:
    whole: bool = False
    below: dict[str, _Wanted] = field(default_factory=dict)


def _cut(value: JsonValue, want: _Wanted) -> JsonValue:
    if want.whole or not isinstance(value, dict):
        return value
    return {name: _cut(value[name], below) for name, below in want.below.items() if name in value}
