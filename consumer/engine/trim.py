"""What steps give is made fit for the trail: plain JSON that every reader reads alike, and bounded."""

from __future__ import annotations

import math
from collections.abc import Sequence

import orjson
from pydantic import JsonValue

_MARK = "… (cut: the step's output is over its limit)"
_SMALLEST = 256
#: What JSON readers that know only doubles keep exactly (RFC 8785 has no form for more).
_MAX_SAFE = 2**53 - 1
_MAX_DEPTH = 64


def plain(value: object, depth: int = _MAX_DEPTH) -> JsonValue:
    """The value as JSON that has a canonical form: numbers beyond 2^53 and those that are none become texts."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -_MAX_SAFE <= value <= _MAX_SAFE else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict | list | tuple):
        return _plain_inside(value, depth - 1) if depth else "… (cut: nested too deeply)"
    return plain_text(str(value))


def _plain_inside(value: dict[object, object] | Sequence[object], depth: int) -> JsonValue:
    if isinstance(value, dict):
        return {plain_text(str(key)): plain(item, depth) for key, item in value.items()}
    return [plain(item, depth) for item in value]


def plain_text(text: str) -> str:
    """The text without what UTF-8 can't say (lone surrogates)."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def clip(text: str, limit: int) -> str:
    """The text, cut to at most `limit` bytes."""
    data = text.encode()
    return text if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "…"


def trim(value: JsonValue, limit: int) -> JsonValue:
    """The value, cut until its JSON has at most `limit` bytes: long texts and lists first, then whatever is left."""
    if _size(value) <= limit:
        return value
    longest = limit // 2
    while longest >= _SMALLEST:
        cut = _cut(value, longest)
        if _size(cut) <= limit:
            return cut
        longest //= 2
    text = orjson.dumps(value)[: max(0, limit // 2 - 64)].decode(errors="ignore")
    return {"truncated": True, "preview": text}


def _size(value: JsonValue) -> int:
    return len(orjson.dumps(value))


def _cut(value: JsonValue, longest: int) -> JsonValue:
    if isinstance(value, str):
        return value if len(value) <= longest else value[:longest] + _MARK
    if isinstance(value, list):
        kept: list[JsonValue] = [_cut(item, longest) for item in value[: max(1, longest // 16)]]
        return kept if len(value) == len(kept) else [*kept, _MARK]
    if isinstance(value, dict):
        return {key: _cut(item, longest) for key, item in value.items()}
    return value
