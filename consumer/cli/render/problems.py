"""What is wrong with a package or a command, for people: where, what, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.text import Text

from consumer.cli.render.text import BAD, DIM, GOOD, WAIT, clean
from schemas.failure import Problem

_MAX = 500


def texts(problems: Iterable[Problem]) -> list[str]:
    """One line for each, with its path."""
    return [clean(str(problem), _MAX) for problem in problems]


def count(problems: Sequence[Problem]) -> str:
    """`3 errors, 1 warning`."""
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    parts = [_plural(errors, "error")] if errors or not warnings else []
    return ", ".join([*parts, *([_plural(warnings, "warning")] if warnings else [])])


def _plural(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def report(file: str, problems: Sequence[Problem], *, good: str = "valid") -> list[Text]:
    """The file's verdict, and below it each problem with its place, path and remedy, in the order of the file."""
    errors = [problem for problem in problems if problem.severity == "error"]
    verdict = Text(f"{clean(file)}: ")
    if errors:
        verdict.append(count(problems), style=BAD)
    else:
        verdict.append(good, style=GOOD)
        if problems:
            verdict.append(", ").append(count(problems), style=WAIT)
    ordered = sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0))
    places = [f"{p.line}:{p.column or 1}" if p.line else "" for p in ordered]
    place_width = max((len(place) for place in places), default=0)
    path_width = min(max((len(problem.path) for problem in ordered), default=0), 40)
    lines = [verdict]
    for place, problem in zip(places, ordered, strict=True):
        line = Text(f"  {place:<{place_width}}  " if place_width else "  ", style=DIM)
        line.append(f"{clean(problem.path, 120):<{path_width}}  ")
        line.append(clean(problem.message, _MAX))
        if problem.severity == "warning":
            line.append("  (warning)", style=WAIT)
        lines.append(line)
    return lines
