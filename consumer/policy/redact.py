"""Masks the values of secrets wherever text leaves the agent: events, log lines, errors, state, the agent's own log.

A secret shows itself not only as it is but also encoded: in a Basic header (base64, at any alignment, also in lines),
in a URL, in a JSON text (also as Go writes it, and inside of another JSON text), in HTML, in hex, in the quotes of a
shell. All these forms are masked. A value of fewer than four characters is not: masking `no` or `1` would make every
text unreadable and hide nothing.

A text that was cut before it is masked may hold a secret's beginning or end only, which is none of these forms. So what
stands at a cut (`…`) is compared with the beginnings and ends of all forms.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from pydantic import JsonValue

from consumer.policy.anchors import Anchors
from consumer.policy.forms import MIN_LENGTH, forms_of

MASK = "***"
#: The sign of a cut. Of a text with very many of them the outer ones count: cuts are made at ends and in the middle.
_CUT = "…"
_MAX_CUTS = 64
#: So long a text may have been cut without a sign.
_LONG = 1024
#: The least of a secret's beginning that is masked anywhere in an error's text.
_MIN_BEGINNING = 8
#: A piece at a cut that is this long has an anchor in it.
_ANCHORED = 16
Span = tuple[int, int]


class Redactor:
    """Masks a fixed set of values; make a new one when the set grows."""

    __slots__ = ("_ends", "_forms", "_starts")

    def __init__(self, values: Iterable[str]) -> None:
        self._forms = frozenset(form for value in values for form in forms_of(value))
        self._starts = _Beginnings(self._forms)
        self._ends = _Beginnings([form[::-1] for form in self._forms])

    def mask(self, text: str) -> str:
        """The text with `***` in place of each value. Values that overlap are masked as one."""
        if not self._forms:  # asked for each line of a step without secrets
            return text
        return _masked(text, self._found(text))

    def mask_error(self, text: str) -> str:
        """As `mask`, for a text made of pieces that were cut without a sign: half of a value is masked as well.

        Not for what others go on with: the first half of `production-password` may be a word of its own.
        """
        return _masked(text, [*self._found(text), *self._starts.halves(text)])

    def _found(self, text: str) -> list[Span]:
        found = self._starts.whole(text)
        if _may_be_cut(text):
            befores, afters = _cuts(text)
            found += self._starts.before(text, befores)
            if afters:
                size = len(text)
                mirrored = self._ends.before(text[::-1], [size - after for after in reversed(afters)])
                found += [(size - end, size - at) for at, end in mirrored]
        return found

    def mask_json(self, value: JsonValue) -> JsonValue:
        """The same for all texts in a JSON value, names included, and for numbers that are a secret."""
        if not self._forms:
            return value
        masked = self._replacements(_texts(value))
        return _replaced(value, masked) if masked else value

    def _replacements(self, texts: Iterable[str | int | float]) -> dict[str | int | float, str]:
        """What becomes of those that show a secret. Short ones are searched together, as each search has a price."""
        found: dict[str | int | float, str] = {}
        strings: dict[str, None] = {}
        for text in texts:
            if isinstance(text, str):
                strings[text] = None
            elif str(text) in self._forms:  # each, as 1 and 1.0 are one key, and two texts
                found[text] = MASK
        suspects = [text for text in strings if _may_be_cut(text)]
        short = [text for text in strings if not _may_be_cut(text)]
        begins = list(itertools.accumulate((len(text) + 1 for text in short), initial=0))
        hits = self._starts.places("\n".join(short))
        suspects += [short[place] for place in {bisect.bisect_right(begins, at) - 1 for at in hits}]
        found.update((text, shown) for text in suspects if (shown := self.mask(text)) != text)
        return found


class _Beginnings:
    """Finds forms, and beginnings of forms."""

    __slots__ = ("_anchors", "_short")

    def __init__(self, forms: Iterable[str]) -> None:
        self._anchors = Anchors(forms)
        self._short = {form[:size] for form in forms for size in range(MIN_LENGTH, min(_ANCHORED, len(form) + 1))}

    def places(self, text: str) -> set[int]:
        """Where forms may begin: all places where they do are among them."""
        return {at for at, _ in self._anchors.find(text)}

    def whole(self, text: str) -> list[Span]:
        return [(at, at + len(form)) for at, form in self._anchors.find(text) if text.startswith(form, at)]

    def before(self, text: str, ends: Sequence[int]) -> Iterator[Span]:
        """The beginnings of forms, of four characters or more, that end at one of the places, which are in order."""
        for at, form in self._anchors.find(text):
            for end in itertools.islice(ends, bisect.bisect_right(ends, at), None):
                if end > at + len(form) or not text.startswith(form[: end - at], at):
                    break
                if end - at >= _ANCHORED:
                    yield at, end
        for end in ends:
            longest = range(min(_ANCHORED - 1, end), MIN_LENGTH - 1, -1)
            size = next((size for size in longest if text[end - size : end] in self._short), 0)
            if size:
                yield end - size, end

    def halves(self, text: str) -> Iterator[Span]:
        """Wherever at least a form's first half stands, as far as it goes."""
        for at, form in self._anchors.find(text):
            least = max(_MIN_BEGINNING, (len(form) + 1) // 2)
            if least < len(form) and text.startswith(form[:least], at):
                end = at + least
                while end - at < len(form) and text[end : end + 1] == form[end - at]:
                    end += 1
                yield at, end


def _texts(value: JsonValue) -> Iterator[str | int | float]:
    """All that can be masked in a JSON value."""
    todo: list[JsonValue] = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            yield from item
            todo += item.values()
        elif isinstance(item, list):
            todo += item
        elif item is not None and not isinstance(item, bool):
            yield item


def _replaced(value: JsonValue, masked: dict[str | int | float, str]) -> JsonValue:
    match value:
        case bool() | None:
            return value
        case str() | int() | float():
            return masked.get(value, value)
        case list():
            return [_replaced(item, masked) for item in value]
    shown: dict[str, JsonValue] = {}
    for name, item in value.items():
        key = first = masked.get(name, name)
        count = 1
        while key in shown:  # two names that are secrets must not become one
            count += 1
            key = f"{first}({count})"
        shown[key] = _replaced(item, masked)
    return shown


def _masked(text: str, found: list[Span]) -> str:
    if not found:
        return text
    parts: list[str] = []
    position = end = 0
    start = -1
    for span in sorted(found):
        if span[0] >= end or start < 0:
            if start >= 0:
                parts += (text[position:start], MASK)
                position = end
            start = span[0]
        end = max(end, span[1])
    parts += (text[position:start], MASK, text[end:])
    return "".join(parts)


def _may_be_cut(text: str) -> bool:
    return len(text) >= _LONG or _CUT in text


def _cuts(text: str) -> tuple[Sequence[int], Sequence[int]]:
    """Where a cut text may end, and where one may go on."""
    marks = [match.start() for match in re.finditer(_CUT, text)]
    if len(marks) > 2 * _MAX_CUTS:
        marks = marks[:_MAX_CUTS] + marks[-_MAX_CUTS:]
    befores = [mark - _blank(reversed(text[max(0, mark - 8) : mark])) for mark in marks]
    afters = [mark + 1 + _blank(text[mark + 1 : mark + 9]) for mark in marks]
    return (*befores, len(text)) if len(text) >= _LONG else befores, afters


def _blank(characters: Iterable[str]) -> int:
    """How many of the characters, from the first on, are white space."""
    count = 0
    for character in characters:
        if not character.isspace():
            break
        count += 1
    return count
