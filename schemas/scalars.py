"""Scalar types of the wire: durations, quantities, names, versions, moments. Each says in its error how to write it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(ns|us|µs|ms|s|m|h|d)")
_UNIT_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
#: About 31 years. A longer one is a mistake, and would overflow timers and dates.
MAX_DURATION_SECONDS = 1e9
#: Characters of a duration's text.
_MAX_DURATION = 100

EXECUTION_ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$"


def parse_duration(value: object) -> float:
    """Seconds of a Go-style duration (`500ms`, `30s`, `1h30m`; also `d` for days) or of a bare number of seconds.

    Raises ValueError with the remedy.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{repr(value)[:40]} is no duration; write 500ms, 30s, 5m or 1h30m")  # noqa: TRY004 - pydantic wants it
    seconds = value if isinstance(value, int | float) else _seconds_of_text(value.strip())
    if not 0 <= seconds <= MAX_DURATION_SECONDS:
        shown = str(value)[:40]
        raise ValueError(f"{shown} is out of range; a duration lies between 0s and {MAX_DURATION_SECONDS:.0f}s")
    return float(seconds)


def _seconds_of_text(text: str) -> float:
    if len(text) > _MAX_DURATION:  # the search below would take the square of its length
        raise ValueError(f'"{text[:40]}…" is no duration; write 500ms, 30s, 5m or 1h30m')
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f'"{text[:40]}" is no duration; write 500ms, 30s, 5m or 1h30m')
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


def format_duration(seconds: float) -> str:
    """The duration as Go would write it, to the millisecond: `1h30m`, `1.5s`, `20ms`, `0s`."""
    total = round(seconds * 1000)
    if total == 0:
        return "0s"
    if total < 1000:
        return f"{total}ms"
    minutes, millis = divmod(total, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")
    return text + (f"{millis / 1000:g}s" if millis else "")


_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,2})?")
_MAX_QUANTITY = 64
_SUFFIX = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("0.001"),
    **{s: Decimal(1000) ** n for n, s in enumerate("kMGTPE", start=1)},
    **{f"{s}i": Decimal(1024) ** n for n, s in enumerate("KMGTPE", start=1)},
}


def parse_quantity(value: object) -> Decimal:
    """The number a Kubernetes quantity stands for (`100m`, `128Mi`, `1e3`). Raises ValueError with the remedy."""
    number_like = isinstance(value, int | float | str) and not isinstance(value, bool)
    text = str(value)[: _MAX_QUANTITY + 1]
    match = _QUANTITY.fullmatch(text) if number_like and len(text) <= _MAX_QUANTITY else None
    if match is None:
        raise ValueError(f"{text[:40]!r} is no quantity; write it as Kubernetes does: 100m, 2, 128Mi or 1Gi")
    number, suffix = match.groups()
    if suffix is None:
        return Decimal(number)
    return (
        Decimal(number + suffix)
        if suffix[0] in "eE" and len(suffix) > 1 and suffix[-1] != "i"
        else Decimal(number) * _SUFFIX[suffix]
    )


def _check_quantity(value: object) -> str:
    parse_quantity(value)
    return str(value)


def _utc(moment: datetime) -> datetime:
    """Moments without a zone are taken as UTC; all are carried as UTC, to the millisecond."""
    try:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is beyond the years 1 to 9999 in UTC") from None
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


@lru_cache(maxsize=4096)  # one moment is written again and again: in events, and in every snapshot after them
def format_moment(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _moment_input(value: object) -> object:
    """Numbers are refused: pydantic would take them as seconds or milliseconds by their size."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError(f"{str(value)[:40]!r} is no time; write ISO 8601: 2026-01-01T00:00:00Z")
    return value


#: Seconds as a float; on the wire a Go-style text or a number of seconds.
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}],
            "description": "Go-style: 500ms, 30s, 5m, 1h30m; a bare number is seconds.",
            "examples": ["30s", "1h30m", 30],
        }
    ),
]

Quantity = Annotated[
    str,
    BeforeValidator(_check_quantity),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "number"}],
            "description": "A Kubernetes quantity: 100m, 128Mi, 1Gi.",
        }
    ),
]

Moment = Annotated[
    datetime,
    BeforeValidator(_moment_input),
    AfterValidator(_utc),
    PlainSerializer(format_moment, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


def _matches(pattern: str, what: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f'"{value[:200]}" is no {what}')
        return value

    return AfterValidator(check)


DnsLabel = Annotated[
    str,
    Field(json_schema_extra={"pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}),
    _matches(
        r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
        "DNS label; use lower-case letters, digits and -, at most 63, beginning and ending with a letter or digit",
    ),
]

StepName = Annotated[
    str,
    Field(json_schema_extra={"pattern": "^[A-Za-z0-9]([-_.A-Za-z0-9]{0,126}[A-Za-z0-9])?$"}),
    _matches(
        r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,126}[A-Za-z0-9])?",
        "step name; use letters, digits, -, _ and ., at most 128, beginning and ending with a letter or digit",
    ),
]

SemVer = Annotated[
    str,
    _matches(
        r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?",
        "semantic version; write MAJOR.MINOR.PATCH, like 1.0.0",
    ),
]

ExecutionId = Annotated[
    str,
    Field(json_schema_extra={"pattern": EXECUTION_ID_PATTERN}),
    _matches(r"[A-Za-z0-9._:-]{1,128}", "execution id; use at most 128 of A-Z a-z 0-9 . _ : -"),
]
