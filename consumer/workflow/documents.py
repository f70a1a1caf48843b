"""Package texts to values: YAML, of which JSON is a part, read so that no two readers can see different things.

What is taken: the JSON types, in the core schema's writing (`null`, `~`, `true`, `12`, `0x1F`, `1.5`, `1.0e+5`).
Dates stay texts. What YAML 1.1 and 1.2 read differently is refused where a number or a truth value is one of the
readings (`yes`, `on`, `010`, `0o7`, `1:30`, `1_000`, `0b1`, `1e5`): the file that was reviewed and signed must be the
one that runs. In quotes each of them is a text. As the name of a field, `on`, `yes` and the like are texts.

Refused too: duplicate or non-text names, tags, anchors, aliases, merge keys, a second document, NaN and infinity,
whole numbers beyond 2^53 (JSON readers round them), the characters that end a line only in YAML 1.1 (U+0085, U+2028,
U+2029: in a comment they would hide a field), more than 64 levels, and what is too large. The value is built
from the parser's events on a stack of its own: the library's composer recurses, and ends the process on a text of
brackets. A JSON text may use 1e5 and all else that JSON has.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import yaml
from pydantic import JsonValue

from consumer.errors import AgentError
from consumer.workflow import plain
from schemas.failure import Problem
from schemas.problems import Path, parse_path, path_text, shown

MAX_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_VALUES = 50_000
#: Problems that are reported of one text.
_MAX_PROBLEMS = 50

_LINE_ENDS = re.compile("[\x85\u2028\u2029]")

_Parser = getattr(yaml, "CLoader", yaml.Loader)


class DocumentError(AgentError):
    """A text that is no package document; all that is wrong with it, with line and column."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(_with_place(problem) for problem in problems))
        self.problems = tuple(problems)


def _with_place(problem: Problem) -> str:
    place = f"line {problem.line}, column {problem.column}: " if problem.line is not None else ""
    return place + str(problem)


@dataclass(frozen=True, slots=True)
class Document:
    """A text that was read."""

    value: JsonValue
    positions: Positions


class Positions:
    """Where in the text each value stands. Worked out when it is first asked for: most texts have no problems."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._marks: dict[tuple[int, str | int], _Mark] | None = None

    def find(self, path: Path) -> tuple[int, int]:
        """Line and column (1-based) of the value at that path, or of the nearest that holds it."""
        if self._marks is None:
            builder = _Builder(self._text, lenient=True)
            # A JSON text may hold what YAML can't read: what was found before that place still helps.
            with contextlib.suppress(DocumentError):
                builder.run()
            self._marks = builder.marks
        mark = self._marks.get((0, ""), _Mark(1, 1, 1))
        for part in path:
            below = self._marks.get((mark.node, part))
            if below is None:
                break
            mark = below
        return mark.line, mark.column


def locate(problem: Problem, positions: Positions) -> Problem:
    """The problem with its line and column: those of the value at its path, or of the nearest that holds it."""
    line, column = positions.find(parse_path(problem.path))
    return problem.model_copy(update={"line": line, "column": column})


def parse(text: str | bytes, *, max_bytes: int = MAX_BYTES) -> Document:
    """The text's value, and where each part of it stands. Raises DocumentError with every problem found."""
    decoded = _decoded(text, max_bytes)
    if decoded.lstrip()[:1] in ("{", "["):
        try:
            return Document(_from_json(decoded), Positions(decoded))
        except ValueError:
            pass  # YAML says what is wrong, and where; or it is YAML that begins with a bracket
    builder = _Builder(decoded)
    builder.run()
    return Document(builder.value, Positions(decoded))


def _decoded(text: str | bytes, max_bytes: int) -> str:
    try:
        raw = text.encode() if isinstance(text, str) else text
        decoded = raw.decode("utf-8-sig") if len(raw) <= max_bytes else ""
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        message = f"it is no UTF-8 text: {error.reason} at position {error.start}"
        raise DocumentError([Problem(path="", message=message)]) from None
    if len(raw) > max_bytes:
        message = f"it has {len(raw):,} bytes; at most {max_bytes:,} are allowed"
        raise DocumentError([Problem(path="", message=message)])
    return decoded


# --- JSON -------------------------------------------------------------------------------------------------------


def _from_json(text: str) -> JsonValue:
    """The value of a JSON text that breaks none of the rules. Raises ValueError without a message for the user."""
    try:
        value: JsonValue = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError from error
    count, depth, level = 0, 0, [value]
    while level:
        count += len(level)
        if count > MAX_VALUES or not all(_is_plain(item) for item in level):
            raise ValueError
        if depth == MAX_DEPTH and any(isinstance(item, dict | list) for item in level):
            raise ValueError
        level = [below for item in level for below in _items(item)]
        depth += 1
    return value


def _items(value: JsonValue) -> Iterator[JsonValue]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _is_plain(value: JsonValue) -> bool:
    if isinstance(value, str):
        return _is_unicode(value)
    if isinstance(value, dict):
        return all(_is_unicode(name) for name in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) <= plain.MAX_INTEGER


def _is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: `\\ud800` alone can't."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _refuse(text: str) -> NoReturn:
    raise ValueError


# --- YAML -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Mark:
    line: int
    column: int
    node: int
    """A number for the value, so that what is inside it can be found."""


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet."""

    value: dict[str, JsonValue] | list[JsonValue]
    node: int
    part: str | int
    """Its own name or index in what holds it."""
    key: str | None = None
    """In a mapping: the name whose value comes next."""
    key_mark: tuple[int, int] = (1, 1)


@dataclass(slots=True)
class _Builder:
    """Builds the value from the parser's events."""

    text: str
    lenient: bool = False
    """Goes on as far as it can: only the positions matter."""
    value: JsonValue = None
    marks: dict[tuple[int, str | int], _Mark] = field(default_factory=dict)
    _problems: list[Problem] = field(default_factory=list)
    _stack: list[_Open] = field(default_factory=list)
    _documents: int = 0
    _nodes: int = 0

    def run(self) -> None:
        """Raises DocumentError with all problems."""
        if (end := _LINE_ENDS.search(self.text)) and not self.lenient:
            raise DocumentError([_line_end(self.text, end.start())])
        parser = _Parser(self.text)
        try:
            while (event := parser.get_event()) is not None:
                self._take(event)
        except yaml.YAMLError as error:
            self._problems.append(_syntax(error, self.text))
        finally:
            parser.dispose()
        if not self._problems and not self._documents:
            self._problems.append(Problem(path="", message="it is empty", line=1, column=1))
        if self._problems:
            raise DocumentError(self._problems)

    def _take(self, event: yaml.Event) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self._fatal(event, "a second document begins here; a package is one document")
            case yaml.AliasEvent():
                self._problem(event, f"*{event.anchor} is an alias; write the value itself")
                self._put(event, None)
            case yaml.ScalarEvent():
                self._check_node(event)
                self._scalar(event)
            case yaml.CollectionStartEvent():
                self._check_node(event)
                self._begin(event)
            case yaml.CollectionEndEvent():
                self._stack.pop()

    def _check_node(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.anchor is not None:
            self._problem(event, f"&{event.anchor} is an anchor; write the value out where it is needed")
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._problem(event, f"{tag} is a tag; leave it out, and put texts in quotes")

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        unquoted = not event.style
        if self._expects_key():
            if unquoted and event.value == "<<":
                self._problem(event, "<< merges another mapping; write its fields out", event.value)
            elif unquoted and not plain.is_text_name(event.value):
                said = f'{event.value or "nothing"} is no text; write the name in quotes: "{event.value}"'
                self._problem(event, said, event.value)
            self._name(event, event.value)
            return
        value: JsonValue = event.value
        if unquoted:
            try:
                value = plain.value_of(event.value)
            except ValueError as error:
                self._problem(event, str(error))
        self._put(event, value)

    def _expects_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None

    def _name(self, event: yaml.Event, name: str) -> None:
        top = self._stack[-1]
        if name in top.value:
            first = self.marks.get((top.node, name))
            where = f" (the first is in line {first.line})" if first else ""
            self._problem(event, f"{shown(name)} is here for the second time{where}; remove one", name)
        top.key, top.key_mark = name, _place(event)

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._fatal(event, f"it is nested more than {MAX_DEPTH} levels deep")
        value: dict[str, JsonValue] | list[JsonValue] = {} if isinstance(event, yaml.MappingStartEvent) else []
        if self._expects_key():
            self._problem(event, "the name of a field must be a text, not a mapping or a list")
            self._name(event, "?")
            # What follows is the name's inside; it is read as if it were a value of its own.
            self._stack.append(_Open(value, self._count(event), part="?"))
            return
        part = self._part()
        node = self._put(event, value, block=not event.flow_style)
        self._stack.append(_Open(value, node, part=part))

    def _put(self, event: yaml.Event, value: JsonValue, *, block: bool = False) -> int:
        """The value takes its place in what is open; gives the number of its node."""
        node = self._count(event)
        line, column = _place(event)
        if not self._stack:
            self.value = value
            self.marks[(0, "")] = _Mark(line, column, node)
            return node
        top = self._stack[-1]
        if isinstance(top.value, list):
            self.marks[(top.node, len(top.value))] = _Mark(line, column, node)
            top.value.append(value)
            return node
        if top.key is None:  # an alias as a name; its problem is noted
            top.key, top.key_mark = "*", (line, column)
            return node
        if block:
            line, column = top.key_mark
        self.marks[(top.node, top.key)] = _Mark(line, column, node)
        top.value[top.key] = value
        top.key = None
        return node

    def _count(self, event: yaml.Event) -> int:
        self._nodes += 1
        if self._nodes > MAX_VALUES:
            self._fatal(event, f"it has more than {MAX_VALUES:,} values")
        return self._nodes

    def _part(self) -> str | int:
        """The name or index of the value that comes next in what is open."""
        if not self._stack:
            return ""
        top = self._stack[-1]
        return len(top.value) if isinstance(top.value, list) else top.key or ""

    def _problem(self, event: yaml.Event, message: str, name: str | None = None) -> None:
        """Notes a problem of the value that comes next, or of the field of that name."""
        line, column = _place(event)
        parts = [frame.part for frame in self._stack[1:]]
        last = name if name is not None else self._part()
        path = path_text([*parts, last] if last != "" else parts)
        self._problems.append(Problem(path=path, message=message, line=line, column=column))
        if len(self._problems) >= _MAX_PROBLEMS and not self.lenient:
            raise DocumentError(self._problems)

    def _fatal(self, event: yaml.Event, message: str) -> NoReturn:
        line, column = _place(event)
        self._problems.append(Problem(path="", message=message, line=line, column=column))
        raise DocumentError(self._problems)


def _line_end(text: str, at: int) -> Problem:
    code = f"{ord(text[at]):04x}"
    message = f'U+{code.upper()} ends a line for some YAML readers; write it as "\\u{code}" in double quotes'
    begin = text.rfind("\n", 0, at) + 1
    return Problem(path="", message=message, line=text.count("\n", 0, at) + 1, column=at - begin + 1)


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    assert mark is not None
    return mark.line + 1, mark.column + 1


def _syntax(error: yaml.YAMLError, text: str) -> Problem:
    if not isinstance(error, yaml.MarkedYAMLError):
        return Problem(path="", message=f"it is no YAML: {str(error).splitlines()[0][:300]}")
    said = ", ".join(part for part in (error.context, error.problem) if part)[:300]
    mark = error.problem_mark or error.context_mark
    if mark is not None and text[mark.index : mark.index + 1] == "\t":
        said += "; indent with spaces, not tabs"
    elif "mapping values are not allowed" in said:
        said += "; put a text with a colon in quotes"
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
    return Problem(path="", message=f"it is no YAML: {said}", line=line, column=column)
