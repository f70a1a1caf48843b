"""Canonical JSON (RFC 8785, JCS) and the digests taken over it. What is signed, compared and chained is these bytes."""

from __future__ import annotations

import hashlib

import orjson
import rfc8785
from pydantic import JsonValue

_MAX_SAFE = 2**53 - 1
_FAST = orjson.OPT_SORT_KEYS


def canonical(value: JsonValue) -> bytes:
    """The one byte form of a JSON value. Raises ValueError where it has none (NaN, integers beyond 2**53).

    orjson is several times faster and gives the same bytes unless the value holds a float that JavaScript writes
    otherwise, or keys that UTF-16 sorts otherwise; those go through the reference implementation. Of the floats most
    are whole (`1.0` s): those are integers in JavaScript.
    """
    if _simple(value) or _simple(value := _whole(value)):
        return orjson.dumps(value, option=_FAST)
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise ValueError(f"no canonical JSON form: {error}") from error


def _simple(value: JsonValue) -> bool:
    """Whether orjson writes it as JavaScript would."""
    found: list[JsonValue] = [value]  # grows while it is walked, quicker than a recursion: this is asked of every event
    for each in found:
        kind = type(each)
        if kind is str or each is None or kind is bool:
            continue
        if isinstance(each, dict):
            if not "".join(each).isascii():
                return False
            found += each.values()
        elif isinstance(each, list):
            found += each
        elif isinstance(each, float):
            if each.is_integer() or not 1e-5 <= abs(each) < 1e15:
                return False
        elif isinstance(each, int) and not -_MAX_SAFE <= each <= _MAX_SAFE:
            return False
    return True


def _whole(value: JsonValue) -> JsonValue:
    """The value with integers for its floats that are whole."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= _MAX_SAFE else value
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value


def digest(value: JsonValue) -> str:
    """`sha256:` and the hex SHA-256 of the canonical bytes."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()
