"""Scalars without quotes in a package text: which value they are, or why they are refused (see `documents`)."""

from __future__ import annotations

import math
import re

from pydantic import JsonValue

#: The largest whole number that every JSON reader keeps exactly (RFC 8785 refuses larger ones).
MAX_INTEGER = 2**53 - 1

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUTH = re.compile(r"true|True|TRUE|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?|\.[0-9]+(?:[eE][-+][0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)|NaN|-?Infinity")
_DIFFERS = re.compile(
    r"(?P<truth>yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)"
    r"|[-+]?0[0-9_]+|[-+]?0o[0-7]+|[-+]?0b[01_]+|[-+]?0x[0-9a-fA-F_]+"  # octal, binary, hexadecimal with a sign or _
    r"|[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?"  # grouped by _
    r"|[-+]?\.[0-9][0-9_]*"
    r"|[-+]?(?:\.[0-9_]+|[0-9][0-9_]*(?:\.[0-9_]*)?)[eE][-+]?[0-9]+"  # exponents without a point or a sign
    r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"  # base 60
)


def is_text_name(text: str) -> bool:
    """Whether the name of a field, written without quotes, is a text to every reader, or can only be meant as one."""
    if match := _DIFFERS.fullmatch(text):
        return match["truth"] is not None
    return not any(form.fullmatch(text) for form in (_NULL, _TRUTH, _INTEGER, _HEX, _FLOAT, _NOT_FINITE))


def value_of(text: str) -> JsonValue:
    """The value of a scalar without quotes. Raises ValueError with the remedy."""
    if _NULL.fullmatch(text):
        return None
    if _TRUTH.fullmatch(text):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return _integer(text, 10)
    if _HEX.fullmatch(text):
        return _integer(text, 16)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{_cut(text)} is too large for a number; if it is a text, put it in quotes")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is no number that JSON has; if it is a text, put it in quotes")
    if match := _DIFFERS.fullmatch(text):
        if match["truth"]:
            truth = "true" if text.lower() in ("yes", "on") else "false"
            raise ValueError(f'{text} is {truth} to some YAML readers and a text to others; write {truth} or "{text}"')
        cut = _cut(text)
        raise ValueError(f'{cut} is read differently by YAML readers; write "{cut}" for the text, else a plain number')
    return text


def _integer(text: str, base: int) -> int:
    number = int(text, base) if len(text) <= 20 else None
    if number is None or abs(number) > MAX_INTEGER:
        raise ValueError(f"{_cut(text)} is beyond 2^53, where JSON readers round; put it in quotes")
    return number


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
