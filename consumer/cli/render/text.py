"""Words and signs that all views share. Text that comes from events is untrusted: `clean` takes its teeth out."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import JsonValue

if TYPE_CHECKING:
    from schemas.events import Status

#: A longer text of an event is cut on the screen; `--json` has it whole.
MAX_WIDTH = 300

DIM, GOOD, BAD, WAIT, NAME = "dim", "green", "red", "yellow", "bold"

_ORDINALS = {1: "1st", 2: "2nd", 3: "3rd", 21: "21st", 22: "22nd", 23: "23rd"}


def clean(text: str, limit: int = MAX_WIDTH) -> str:
    """One printable line, not too long: no control or escape characters, nothing that turns the writing round."""
    if len(text) > 4 * limit:
        text = text[: 4 * limit]
    kept = "".join(_printable(char) for char in text).strip()
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def _printable(char: str) -> str:
    if char in "\t\n\r\v\f\u2028\u2029\x85":
        return " "
    return "" if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn") else char


def words(status: Status | None) -> str:
    """The status as one says it: `rolled back`."""
    return (status or "unknown").replace("_", " ")


def seconds(value: float | timedelta | None) -> str:
    """A span for a human: `0.02 s`, `4.1 s`, `2 min 5 s`, `3 h 20 min`, `9 days`."""
    if value is None:
        return ""
    total = value.total_seconds() if isinstance(value, timedelta) else value
    if total < 1:
        return f"{max(total, 0):.2f} s"
    if total < 60:
        return f"{total:.1f} s"
    whole = round(total)
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    if whole < 2 * 86_400:
        return _two(whole // 3600, "h", whole % 3600 // 60, "min")
    return f"{whole // 86_400} days"


def _two(large: int, unit: str, small: int, subunit: str) -> str:
    return f"{large} {unit} {small} {subunit}" if small else f"{large} {unit}"


def roughly(span: timedelta) -> str:
    """A span to one unit: `3 min`."""
    total = max(int(span.total_seconds()), 0)
    for unit, size, most in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 2 * 86_400)):
        if total < most:
            return f"{total // size} {unit}"
    return f"{total // 86_400} days"


def ago(moment: datetime, now: datetime) -> str:
    """`3 min ago`, or `in 3 min`."""
    if moment > now:
        return f"in {roughly(moment - now)}"
    return "just now" if now - moment < timedelta(seconds=1) else f"{roughly(now - moment)} ago"


def exact(moment: datetime) -> str:
    """The moment in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ordinal(number: int) -> str:
    """`3rd`."""
    return _ORDINALS.get(number, f"{number}th")


def inline(value: JsonValue, limit: int = 80) -> str:
    """A JSON value in one line: texts as they are, other values as compact JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return clean(text, limit)


def pairs(values: Iterable[tuple[str, JsonValue]], limit: int = 5) -> str:
    """`disk=38 memory=21`; only the first few."""
    listed = list(values)
    shown = " ".join(f"{clean(name, 40)}={inline(value, 60)}" for name, value in listed[:limit])
    return shown if len(listed) <= limit else f"{shown} … {len(listed) - limit} more"


def utcnow() -> datetime:
    """The present moment."""
    return datetime.now(UTC)
