"""Reads what a command printed as the step's `parse` says."""

from __future__ import annotations

import json
from typing import Literal, NoReturn

from pydantic import JsonValue

#: Beyond this an integer is no longer exact in every JSON reader (RFC 8259, section 6; RFC 8785 refuses it).
_EXACT = 2**53 - 1
_DEPTH = 64

Form = Literal["json", "lines"]


def parse_output(raw: bytes, form: Form) -> JsonValue:
    """The value of `parsed`. Raises ValueError with a message for the user.

    Integers that are not exact as JSON numbers are given as strings, as Kubernetes' and protobuf's JSON do.
    """
    text = raw.decode("utf-8", "replace")
    if form == "lines":
        lines = text.split("\n")
        if lines[-1] == "":
            lines.pop()
        return [line.removesuffix("\r") for line in lines]
    if not text.strip():
        raise ValueError("stdout is empty and so no JSON")
    try:
        value = json.loads(text, parse_constant=_refuse, parse_int=_integer, parse_float=_float)
    except RecursionError:
        raise ValueError(f"stdout is JSON nested deeper than {_DEPTH}") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"stdout is no JSON ({error.msg} at line {error.lineno} column {error.colno}); "
            "print exactly one JSON document to stdout and all else to stderr"
        ) from None
    return _clean(value, _DEPTH)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"stdout holds {constant}, which is no JSON")


def _integer(digits: str) -> int | str:
    if len(digits) > 17:
        return digits
    number = int(digits)
    return number if abs(number) <= _EXACT else digits


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"stdout holds the number {text[:40]}, which is out of range")
    return number


def _clean(value: JsonValue, depth: int) -> JsonValue:
    """The value with lone surrogates (`\\ud800`) replaced, which no UTF-8 can carry."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if not isinstance(value, list | dict):
        return value
    if depth == 0:
        raise ValueError(f"stdout is JSON nested deeper than {_DEPTH}")
    if isinstance(value, list):
        return [_clean(item, depth - 1) for item in value]
    return {str(_clean(key, depth)): _clean(item, depth - 1) for key, item in value.items()}
