"""Masks the values of secrets wherever text leaves the agent: events, log lines, errors, state, the agent's own log.

A secret shows itself not only as it is but also encoded: in a Basic header (base64, at any alignment), in a URL, in a
JSON text. All these forms are masked. A value of fewer than four characters is not: masking `no` or `1` would make
every text unreadable and hide nothing.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

from pydantic import JsonValue

MASK = "***"
#: Shorter values are not masked.
MIN_LENGTH = 4
#: Of a secret of several lines each line that long is masked, because logs come line by line.
MIN_LINE_LENGTH = 8
#: A shorter piece of base64 says little and is found by chance.
_MIN_BASE64 = 6


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
        if self._pattern is None or not any(form in text for form in self._forms):
            return text
        parts: list[str] = []
        start = end = position = 0
        for match in self._pattern.finditer(text):
            if match.start() >= end:
                if end > start:
                    parts += (text[position:start], MASK)
                    position = end
                start = match.start()
            end = max(end, match.end(1))
        parts += (text[position:start], MASK, text[end:])
        return "".join(parts)

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


def _forms(value: str) -> Iterator[str]:
    """All texts that show the value or one of its lines."""
    pieces = [value, value.strip()]
    lines = value.splitlines()
    if len(lines) > 1:
        pieces += [line.strip() for line in lines if len(line.strip()) >= MIN_LINE_LENGTH]
    for piece in dict.fromkeys(pieces):
        if len(piece) >= MIN_LENGTH:
            yield piece
            yield quote(piece, safe="")
            yield quote(piece)
            yield quote_plus(piece)
            yield json.dumps(piece)[1:-1]
            yield json.dumps(piece, ensure_ascii=False)[1:-1]
            yield from _base64(piece.encode(errors="surrogatepass"))


def _base64(data: bytes) -> Iterator[str]:
    """As it is, and inside of other data, where only the inner characters depend on the value alone."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(data).decode()
        yield whole
        yield whole.rstrip("=")
        for shift in range(3):
            shifted = encode(b"\0" * shift + data).decode()
            inner = shifted[-(-shift * 8 // 6) : (shift + len(data)) * 8 // 6]
            if len(inner) >= _MIN_BASE64:
                yield inner
