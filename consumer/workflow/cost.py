"""How long a condition may take on given values: measured coefficients, rounded up, over what bounds the work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from consumer.workflow.reading import Macro, Reading

#: Deeper values are refused: they are turned into the library's by recursion.
MAX_DEPTH = 128

# Seconds, measured with the library at version 0.10 on a slow core and rounded up.
_CONVERT_NODE = 2e-6
_CONVERT_BYTE = 1e-9
_TOKEN = 5e-7
_HEAVY_NODE = 2e-8
_HEAVY_BYTE = 1e-10
_FILTER_NODE = 4e-7
_ADD_NODE = 1e-7
_ADD_BYTE = 5e-10
_PATTERN_COMPILE = 5e-5
_PATTERN_BYTE = 2e-8


@dataclass(frozen=True, slots=True)
class Size:
    """How much data a condition looks at."""

    nodes: int = 0
    text: int = 0
    """Characters in all texts and names."""
    widest: int = 0
    """Entries of the largest list or object."""
    longest: int = 0
    """Characters of the longest text."""
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    seconds: float
    reason: str
    """What costs the most."""


def measure(variables: Mapping[str, JsonValue]) -> Size:
    """The size of the data."""
    nodes = text = widest = longest = deepest = 0
    pending: list[tuple[JsonValue, int]] = [(value, 1) for value in variables.values()]
    while pending:
        value, depth = pending.pop()
        nodes += 1
        if isinstance(value, str):
            text += len(value)
            longest = max(longest, len(value))
        elif isinstance(value, dict | list):
            widest = max(widest, len(value))
            deepest = max(deepest, depth)
            if isinstance(value, dict):
                lengths = [len(name) for name in value]
                text += sum(lengths)
                longest = max(longest, max(lengths, default=0))
                pending += [(item, depth + 1) for item in value.values()]
            else:
                pending += [(item, depth + 1) for item in value]
    return Size(nodes=nodes, text=text, widest=widest, longest=longest, depth=deepest)


def estimate(found: Reading, size: Size) -> Estimate:
    """An upper bound of the time, and what makes most of it."""
    if size.depth > MAX_DEPTH:
        return Estimate(float("inf"), f"they are nested more than {MAX_DEPTH} levels deep")
    # Literals of the condition itself count as data, and each + may put data together once more.
    growth = found.pluses + 1
    grown = Size(
        nodes=(size.nodes + found.tokens) * growth,
        text=(size.text + found.tokens * 64) * growth,
        widest=(size.widest + found.tokens) * growth,
        longest=(size.longest + found.tokens * 64) * growth,
    )
    parts = list(_parts(found, size, grown))
    largest = max(parts, key=lambda part: part.seconds)
    return Estimate(sum(part.seconds for part in parts), largest.reason)


def _parts(found: Reading, size: Size, grown: Size) -> Iterator[Estimate]:
    heavy = grown.nodes * _HEAVY_NODE + grown.text * _HEAVY_BYTE
    base = size.nodes * _CONVERT_NODE + size.text * _CONVERT_BYTE + found.heavy * heavy
    yield Estimate(base, f"they hold {size.nodes} values")
    if found.pluses:
        added = found.pluses * (grown.nodes * _ADD_NODE + grown.text * _ADD_BYTE)
        yield Estimate(added, f"it adds {size.nodes} values up {found.pluses} times")
    if found.patterns:
        seconds = found.patterns * (_PATTERN_COMPILE + grown.longest * _PATTERN_BYTE)
        yield Estimate(seconds, f"matches over {size.longest} characters")
    for macro in found.macros:
        rounds = _rounds(macro, grown)
        each = macro.tokens * _TOKEN + macro.heavy * heavy
        each += macro.patterns * (_PATTERN_COMPILE + grown.longest * _PATTERN_BYTE)
        if macro.name == "filter":
            each += grown.nodes * _FILTER_NODE
        yield Estimate(rounds * each, f"{macro.name} over up to {rounds} entries")


def _rounds(macro: Macro, grown: Size) -> int:
    if macro.depth == 0:
        return grown.widest
    return grown.nodes if macro.nested_linearly else grown.widest**2
