"""Outputs of steps are bounded: a larger one is cut where it is longest, and says so."""

from __future__ import annotations

import orjson
from pydantic import JsonValue

_MARK = "… (cut: the step's output is over its limit)"
_SMALLEST = 256


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
