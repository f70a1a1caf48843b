"""Measures all that has a budget, and more, each beside its floor in the same run.

    python -m bench [NAME…] [--full]     writes bench/results.json, and the tables of docs/performance.md from it
    python -m bench --table              only the tables

Scenarios that are named replace their own figures in results.json, and leave the others as they were.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import traceback
from pathlib import Path

import pytest

from bench import budgets, figures
from bench.bounds import machine
from bench.budgets import RESULTS
from bench.figures import Figure
from bench.scenarios import SCENARIOS
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "performance.md"
_MARKS = {"figures": "<!-- figures -->\n", "budgets": "<!-- budgets -->\n"}


def _figures(results: dict[str, dict[str, object]]) -> list[Figure]:
    return [figures.figure(row) for one in results.values() for row in one["figures"]]  # type: ignore[attr-defined]


def tables(page: str, found: list[Figure]) -> str:
    """The page with the tables of these figures between its marks."""
    made = {
        "figures": figures.table(found),
        "budgets": budgets.judged({one.name: one for one in found})[0],
    }
    for name, mark in _MARKS.items():
        before, _, after = page.partition(mark)
        _, _, rest = after.partition(mark)
        page = f"{before}{mark}\n{made[name]}\n{mark}{rest}"
    return page


def load(file: Path) -> dict[str, dict[str, object]]:
    """What was measured before, by scenario."""
    if not file.exists():
        return {}
    scenarios: dict[str, dict[str, object]] = json.loads(file.read_text())["scenarios"]
    return scenarios


def _save(file: Path, results: dict[str, dict[str, object]]) -> None:
    ordered = {name: results[name] for name in SCENARIOS if name in results}
    file.write_text(json.dumps({"scenarios": ordered}, indent=1) + "\n")
    if file == RESULTS:
        PAGE.write_text(tables(PAGE.read_text(), _figures(ordered)))


def _measure(name: str, full: bool) -> dict[str, object]:
    """The figures of one scenario, with when and where they were measured."""
    facts, began = machine(), time.monotonic()
    found = asyncio.run(SCENARIOS[name](full))
    rows = [one.row() for one in found]
    return {**facts, "full": full, "took_s": round(time.monotonic() - began, 1), "figures": rows}


def main() -> int:
    """Measures, prints, writes; the exit code is 1 where a scenario failed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}; all by default")
    parser.add_argument("--full", action="store_true", help="at the full size: 100,000 runs where it is 10,000 else")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="measure nothing: only make the tables anew")
    asked = parser.parse_args()
    if unknown := set(asked.names) - SCENARIOS.keys():
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}")
    results, failed = load(asked.out), []
    for name in () if asked.table else asked.names or SCENARIOS:
        print(f"\n## {name}", flush=True)
        try:
            results[name] = _measure(name, asked.full)
        except (Exception, pytest.fail.Exception):  # the latter is no Exception, and `eventually` raises it
            traceback.print_exc()
            failed.append(name)
            continue
        print(figures.table(_figures({name: results[name]})), flush=True)
        _save(asked.out, results)
    if asked.table:
        _save(asked.out, results)
    print(budgets.judged({one.name: one for one in _figures(results)})[0])
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
