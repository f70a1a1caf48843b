"""Memory and progress of an agent under loads far beyond what it should hold at once.

    python -m bench.bounds [NAME…] [--scale F] [--out FILE]

Each load starts a broker and agents of its own, and gives figures: a table on stdout, and JSON in the file. What must
hold is asserted: a load that fails is named in the table, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from bench.loads import LOADS
from bench.stage import Figures
from tests.support.processes import ROOT


def machine() -> Figures:
    """Where and of what the figures are."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "commit": done.stdout.strip(),
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


async def _measure(name: str, scale: float) -> Figures:
    began = time.monotonic()
    try:
        figures = await LOADS[name](scale)
    except Exception as error:
        traceback.print_exc()
        figures = {"failed": f"{type(error).__name__}: {error}"[:500]}
    return {**figures, "took_s": round(time.monotonic() - began, 1)}


def _print(name: str, figures: Figures) -> None:
    print(f"\n## {name}: {LOADS[name].__doc__}")
    width = max(len(key) for key in figures)
    for key, value in figures.items():
        print(f"  {key:<{width}}  {value}", flush=True)


def main() -> int:
    """Runs the named loads, one after the other; all of them without a name. The exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.bounds", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(LOADS)}; all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="times the full size, 1 by default")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "wpk-bounds.json")
    asked = parser.parse_args()
    unknown = set(asked.names) - LOADS.keys()
    if unknown:
        parser.error(f"there is no load {', '.join(sorted(unknown))}")
    told: dict[str, Figures] = {}
    here = machine()
    for name in asked.names or LOADS:
        told[name] = asyncio.run(_measure(name, asked.scale))
        _print(name, told[name])
        asked.out.write_text(json.dumps({**here, "scale": asked.scale, "loads": told}, indent=2) + "\n")
    print(f"\n{here}\nwritten to {asked.out}")
    return int(any("failed" in figures for figures in told.values()))


if __name__ == "__main__":
    sys.exit(main())
