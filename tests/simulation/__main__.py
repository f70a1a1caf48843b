"""`python -m tests.simulation --seeds 0..1000 --jobs 2`: runs schedules; what fails is told and can be run again."""

from __future__ import annotations

import argparse
import sys
import time
from multiprocessing import get_context

from tests.simulation import runs
from tests.simulation.plan import Mode


def main() -> int:
    """0: all held; 1: some did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0..1000", help="FIRST..LAST, the last one excluded")
    parser.add_argument("--seed", type=int, help="one schedule")
    parser.add_argument("--trace", action="store_true", help="with --seed: tell every step")
    parser.add_argument("--mode", choices=(*runs.MODES, "both"), default="both")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the tenth failure")
    given = parser.parse_args()
    modes = runs.MODES if given.mode == "both" else (given.mode,)
    if given.seed is not None:
        return _one(given.seed, modes, trace=given.trace)
    first, _, last = given.seeds.partition("..")
    chunks = runs.chunks(int(first), int(last), modes)
    began, failed, done = time.perf_counter(), 0, 0
    with get_context("spawn").Pool(given.jobs) as pool:
        for report in pool.imap_unordered(runs.run_chunk, chunks):
            done += report.count
            for failure in report.failures:
                failed += 1
                _write(failure)
            if failed >= 10 and not given.keep_going:
                _write("… stopped at the tenth failure")
                break
    seconds = time.perf_counter() - began
    _write(f"{done} schedules, {failed} failed, {seconds:.0f} s, {1000 * seconds / max(1, done):.1f} ms each")
    return 1 if failed else 0


def _one(seed: int, modes: tuple[Mode, ...], *, trace: bool) -> int:
    failed = False
    for mode in modes:
        verdict = runs.one(seed, mode, _write if trace else None)
        failed = failed or bool(verdict.violations)
        _write(f"{mode} {seed}: {verdict.callbacks} callbacks, {verdict.seconds:.1f} s, digest {verdict.digest:x}")
        for violation in verdict.violations:
            _write(f"  {violation}")
    return 1 if failed else 0


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
