"""Masks the values of secrets wherever text leaves the agent: events, log lines, errors, state, the agent's own log.

A secret shows itself not only as it is but also encoded: in a Basic header (base64, at any alignment, also in lines),
in a URL, in a JSON text (also as Go writes it, and inside of another JSON text), in HTML, in hex, in the quotes of a
shell. All these forms are masked. A value of fewer than four characters is not: masking `no` or `1` would make every
text unreadable and hide nothing.

A text that was cut before it is masked may hold a secret's beginning or end only, which is none of these forms. So what
stands at a cut (`…`) is compared with the beginnings and ends of all forms.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote, quote_plus

from pydantic import JsonValue

MASK = "***"
#: Shorter values are not masked.
MIN_LENGTH = 4
#: Of a secret of several lines each line that long is masked, because logs come line by line.
MIN_LINE_LENGTH = 8
#: A shorter piece of base64 says little and is found by chance.
_MIN_BASE64 = 6
#: In lines of so many characters base64 is written: by PEM, by MIME and `base64`.
_WRAPPED = (64, 76)
#: The sign of a cut. Of a text with very many of them the outer ones count: cuts are made at ends and in the middle.
_CUT = "…"
_MAX_CUTS = 64
#: So long a text may have been cut without a sign.
_LONG = 1024
#: The least of a secret's beginning that is masked anywhere in an error's text.
_MIN_BEGINNING = 8
Span = tuple[int, int]


class Redactor:
    """Masks a fixed set of values; make a new one when the set grows."""

    __slots__ = ("_forms", "_pattern")

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values for form in _forms(value)}
        self._forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))
        alternatives = "|".join(re.escape(form) for form in self._forms)
        self._pattern = re.compile(f"(?=({alternatives}))") if self._forms else None

    def mask(self, text: str) -> str:
        """The text with `***` in place of each value. Values that overlap are masked as one."""
        return _masked(text, self._found(text))

    def mask_error(self, text: str) -> str:
        """As `mask`, for a text made of pieces that were cut without a sign: half of a value is masked as well.

        Not for what others go on with: the first half of `production-password` may be a word of its own.
        """
        found = self._found(text)
        for form in self._forms:
            found += _beginnings(text, form)
        return _masked(text, found)

    def _found(self, text: str) -> list[Span]:
        found: list[Span] = []
        if self._pattern is None:
            return found
        if any(form in text for form in self._forms):
            found += [(match.start(), match.end(1)) for match in self._pattern.finditer(text)]
        if len(text) >= _LONG or _CUT in text:
            befores, afters = _cuts(text)
            for form in self._forms:
                found += _broken_off(text, form, befores)
                found += _left_over(text, form, afters)
        return found

    def mask_json(self, value: JsonValue) -> JsonValue:
        """The same for all texts in a JSON value, names included, and for numbers that are a secret."""
        if self._pattern is None:
            return value
        match value:
            case str():
                return self.mask(value)
            case bool() | None:
                return value
            case int() | float():
                return MASK if str(value) in self._forms else value
            case list():
                return [self.mask_json(item) for item in value]
            case dict():
                return self._mask_object(value)

    def _mask_object(self, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        masked: dict[str, JsonValue] = {}
        for name, item in value.items():
            shown = key = self.mask(name)
            count = 1
            while key in masked:  # two names that are secrets must not become one
                count += 1
                key = f"{shown}({count})"
            masked[key] = self.mask_json(item)
        return masked


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


def _broken_off(text: str, form: str, ends: Sequence[int]) -> Iterator[Span]:
    """The longest beginning of the form before each of the places."""
    first = form[:MIN_LENGTH]
    for end in ends:
        at = text.find(first, max(0, end - len(form)), end)
        while at >= 0:
            if form.startswith(text[at:end]):
                yield at, end
                break
            at = text.find(first, at + 1, end)


def _left_over(text: str, form: str, begins: Sequence[int]) -> Iterator[Span]:
    """The longest end of the form behind each of the places."""
    last = form[-MIN_LENGTH:]
    for begin in begins:
        at = text.rfind(last, begin, begin + len(form))
        while at >= 0:
            end = at + len(last)
            if form.endswith(text[begin:end]):
                yield begin, end
                break
            at = text.rfind(last, begin, end - 1)


def _beginnings(text: str, form: str) -> Iterator[Span]:
    """Wherever at least the form's first half stands, as far as it goes."""
    least = max(_MIN_BEGINNING, (len(form) + 1) // 2)
    at = text.find(form[:least]) if least < len(form) else -1
    while at >= 0:
        end = at + least
        while end - at < len(form) and text[end : end + 1] == form[end - at]:
            end += 1
        yield at, end
        at = text.find(form[:least], end)


def _forms(value: str) -> Iterator[str]:
    """All texts that show the value or one of its lines."""
    pieces = [value, value.strip()]
    lines = value.splitlines()
    if len(lines) > 1:
        pieces += [line.strip() for line in lines if len(line.strip()) >= MIN_LINE_LENGTH]
    for piece in dict.fromkeys(pieces):
        if len(piece) >= MIN_LENGTH:
            yield piece
            yield from _in_url(piece)
            yield from _in_json(piece)
            yield from _in_markup(piece)
            yield from _quoted(piece)
            data = piece.encode(errors="surrogatepass")
            yield data.hex()
            yield data.hex().upper()
            yield from _base64(data)


def _in_url(piece: str) -> Iterator[str]:
    for form in (
        quote(piece, safe="", errors="replace"),
        quote(piece, errors="replace"),
        quote_plus(piece, errors="replace"),
    ):
        yield form
        yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form)


def _in_json(piece: str) -> Iterator[str]:
    for ascii_only in (True, False):
        form = json.dumps(piece, ensure_ascii=ascii_only)[1:-1]
        yield form
        yield json.dumps(form, ensure_ascii=ascii_only)[1:-1]
        yield re.sub(r"\\u[0-9a-f]{4}", lambda match: "\\u" + match[0][2:].upper(), form)
        yield form.replace("/", "\\/")
        # Go's encoder, which Kubernetes uses, writes these so that HTML can hold the text.
        yield form.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _in_markup(piece: str) -> Iterator[str]:
    escaped = html.escape(piece, quote=False)
    yield escaped
    yield html.escape(piece)
    yield escaped.replace('"', "&#34;").replace("'", "&#39;")
    yield escaped.replace('"', "&quot;").replace("'", "&apos;")


def _quoted(piece: str) -> Iterator[str]:
    """As a shell's trace (`set -x`) and Python's messages write it."""
    yield piece.replace("'", "'\\''")
    yield piece.replace("'", "'\"'\"'")
    yield repr(piece)[1:-1]


def _base64(data: bytes) -> Iterator[str]:
    """As it is, and inside of other data, where only the inner characters depend on the value alone."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(data).decode()
        yield whole
        yield whole.rstrip("=")
        for width in _WRAPPED:
            if len(whole) > width:
                lines = (whole[at : at + width] for at in range(0, len(whole), width))
                yield from (line for line in lines if len(line) >= MIN_LINE_LENGTH)
        for shift in range(3):
            shifted = encode(b"\0" * shift + data).decode()
            inner = shifted[-(-shift * 8 // 6) : (shift + len(data)) * 8 // 6]
            if len(inner) >= _MIN_BASE64:
                yield inner
