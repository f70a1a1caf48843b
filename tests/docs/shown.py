"""Whether a command's output is what a page shows: the same but for what differs from run to run.

Ids that nobody chose, digests, times, spans, offsets, partitions and the number of events (log lines may share one) are
no matter, nor is how columns are spaced. A line `…` on the page stands for any lines, `…` at the end of a line for the
rest of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPAN = r"(?<![\w.])\d+(?:\.\d+)? ?(?:ms|s|min|h|days)\b"
_CHANGING = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"sha256:[0-9a-f]{8,64}"), "DIGEST"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z| UTC)"), "MOMENT"),
    (re.compile(r"\b\d\d:\d\d:\d\d(?:\.\d+)?"), "MOMENT"),
    (re.compile(rf"{_SPAN}(?: {_SPAN})? ago|just now"), "AGO"),
    (re.compile(rf"{_SPAN}(?: {_SPAN})?"), "SPAN"),
    (re.compile(r"(wpk\.[a-z.-]+)-\d+(?:@| at )\d+"), r"\1 PLACE"),
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(r"[━█▁-▇░─]{2,}"), "BAR"),
    (re.compile(r"\b\d+ events\b"), "EVENTS"),
    (re.compile(r"\s+"), " "),
)


def plain(line: str) -> str:
    """The line without what differs from run to run."""
    for pattern, word in _CHANGING:
        line = pattern.sub(word, line)
    return line.strip()


def differs(shown: Sequence[str], printed: Sequence[str]) -> str | None:
    """What the page shows and the command did not print; None where it is the same."""
    wanted = [plain(line) for line in shown if line.strip()]
    found = [plain(line) for line in printed if line.strip()]
    if _fits(wanted, found):
        return None
    return "\n".join(["the page shows:", *wanted, "--- the command printed:", *found])


def _fits(wanted: Sequence[str], found: Sequence[str]) -> bool:
    at = 0
    for number, line in enumerate(wanted):
        if line == "…":
            rest = wanted[number + 1 :]
            return any(_fits(rest, found[begin:]) for begin in range(at, len(found) + 1))
        if at == len(found) or not _same(line, found[at]):
            return False
        at += 1
    return at == len(found)


def _same(wanted: str, found: str) -> bool:
    return found.startswith(wanted[:-1].rstrip()) if wanted.endswith("…") else wanted == found
