"""What must hold when all is quiet, whatever was struck: `violations` is pure, and empty where every promise was kept.

`python -m tests.chaos.invariants DIRECTORY [MODE]` checks again what a chapter has kept: history.jsonl, published.jsonl
and the file of marks, in it or below.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import history, marks, published, rules
from tests.chaos.history import History
from tests.chaos.marks import Mark
from tests.chaos.published import Published
from tests.chaos.view import RULES, Mode, View, Violation

__all__ = ["RULES", "Mode", "Violation", "late_marks", "violations"]


def violations(
    history: History, marks: Sequence[Mark], published: Published, mode: Mode, *, forgets: bool = False
) -> list[Violation]:
    """All that is wrong. `forgets`: ended executions may be missing in the state (a short WPK_STATE_RETENTION).

    In at_least_once the weaker form that contracts.md gives: of repeated or stale records those count that hold for a
    reader who takes the highest `attempt_epoch` and one record per `seq`.
    """
    view = View(history, marks, published, mode, forgets)
    found: list[Violation] = []
    for name, judge in RULES.items():
        try:
            found += judge(view)
        except (LookupError, TypeError, ValueError, AttributeError) as error:  # what no rule expected is wrong too
            found.append(Violation(name=name, message=f"it can't be judged: {type(error).__name__}: {error}"))
    return found


def late_marks(history: History, marks: Sequence[Mark], published: Published, mode: Mode) -> list[Mark]:
    """Effects that an owner began after it was replaced: no violation, but worth to be counted. See `rules.effects`."""
    return rules.effects.late_marks(View(history, marks, published, mode))


def main() -> int:
    """Checks a directory."""
    directory, mode = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "exactly_once"
    found = violations(
        history.load(directory / "history.jsonl"),
        marks.read(next(file for file in directory.rglob("marks") if file.is_file())),
        published.load(directory / "published.jsonl"),
        "at_least_once" if mode == "at_least_once" else "exactly_once",
    )
    for violation in found:
        sys.stdout.write(f"{violation}\n" + "".join(f"    {line}\n" for line in violation.evidence))
    sys.stdout.write(f"{len(found)} violations of {len(RULES)} invariants\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
