"""Measures all that has a budget, and more, each beside its floor in the same run.

    python -m bench [NAME…] [--size quick|full]     and writes bench/results.json, docs/performance.md, docs/scale.md
    python -m bench --table                         only the tables of these pages, from the results that are there

Scenarios that are named replace their own figures in results.json, and leave the others as they were.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench import budgets, figures, scale
from bench.bounds import machine
from bench.budgets import PEERS, RESULTS
from bench.figures import Figure
from bench.scenarios import SCENARIOS, Size
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "performance.md"
#: The load average up to which nothing else was under way: what the scenario before has left of it.
_QUIET = 2.5


def _figures(results: Mapping[str, dict[str, object]]) -> list[Figure]:
    return [figures.figure(row) for one in results.values() for row in one["figures"]]  # type: ignore[attr-defined]


def told(results: Mapping[str, Mapping[str, object]]) -> str:
    """When and where the figures were measured, as a sentence: what a reader must know before believing them."""

    def different(key: str) -> str:
        return ", ".join(sorted({str(one[key]) for one in results.values()}))

    loads = [float(str(one["load_average"])) for one in results.values()]
    busy = "" if max(loads) <= _QUIET else " It had other work: read CPU and memory; the clock tells little."
    return (
        f"Commits {different('commit')}; {different('machine')}; Python {different('python')}; "
        f"size {different('size')}. Load average of the machine when a scenario began: "
        f"{min(loads):.1f} to {max(loads):.1f}.{busy}\n"
    )


def tables(page: str, results: Mapping[str, dict[str, object]], peers: dict[str, object]) -> str:
    """The page with the tables of these figures between its marks."""
    found, beside = _figures(results), _figures({"peers": peers})
    made = {
        "figures": f"{told(results)}\n{figures.table(found)}",
        "budgets": budgets.judged({one.name: one for one in [*found, *beside]})[0],
        "peers": f"{told({'peers': peers})}\n{figures.table(beside)}",
    }
    for name, table in made.items():
        mark = f"<!-- {name} -->\n"
        before, _, after = page.partition(mark)
        page = f"{before}{mark}\n{table}\n{mark}{after.partition(mark)[2]}"
    return page


def render(page: str, scale_page: str) -> tuple[str, str]:
    """Both pages, with their tables made anew from what the repository has."""
    scenarios, peers = load(RESULTS), json.loads(PEERS.read_text())
    by_name = {one.name: one for one in _figures(scenarios)}
    return tables(page, scenarios, peers), scale.tables(scale_page, by_name)


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
        write_pages()


def write_pages() -> None:
    """The tables of the documentation, from what was measured last."""
    page, scale_page = render(PAGE.read_text(), scale.PAGE.read_text())
    PAGE.write_text(page)
    scale.PAGE.write_text(scale_page)


def _measure(name: str, size: Size) -> dict[str, object]:
    """The figures of one scenario, with when and where they were measured."""
    facts, began = machine(), time.monotonic()
    found = asyncio.run(SCENARIOS[name](size))
    rows = [one.row() for one in found]
    return {**facts, "size": size, "took_s": round(time.monotonic() - began, 1), "figures": rows}


def main() -> int:
    """Measures, prints, writes; the exit code is 1 where a scenario failed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}; all by default")
    parser.add_argument("--size", choices=("quick", "normal", "full"), default="normal", help="quick: rough figures")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="measure nothing: only make the tables anew")
    asked = parser.parse_args()
    if unknown := set(asked.names) - SCENARIOS.keys():
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}")
    results, failed = load(asked.out), []
    for name in () if asked.table else asked.names or SCENARIOS:
        print(f"\n## {name}", flush=True)
        try:
            results[name] = _measure(name, asked.size)
        except (Exception, pytest.fail.Exception):  # the latter is no Exception, and `eventually` raises it
            traceback.print_exc()
            failed.append(name)
            continue
        print(figures.table(_figures({name: results[name]})), flush=True)
        _save(asked.out, results)
    if asked.table:
        write_pages()
    print(budgets.judged({one.name: one for one in _figures(results)})[0])
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
