"""`python -m tests.chaos`: see the package. Exits with 1 where a promise was broken, and says where all is kept."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos import drive
from tests.support.kafka import Unavailable


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=24, help="how many rounds of faults (24)")
    parser.add_argument("--seed", type=int, default=1, help="faults and workload are functions of it (1)")
    parser.add_argument("--mode", choices=("exactly_once", "at_least_once"), default="exactly_once")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=3, help="nodes of Kafka (3)")
    parser.add_argument("--chapter", type=int, default=25, help="rounds on the same topics, checked together (25)")
    parser.add_argument("--first", type=int, default=0, help="number of the first round (0)")
    parser.add_argument("--rate", type=float, default=4.0, help="executions a second (4)")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--only", default="", help="faults to be drawn: names or beginnings of names, by commas")
    parser.add_argument("--session", type=float, default=6.0, help="the agents' session timeout in seconds (6)")
    parser.add_argument("--calm", type=float, default=0.0, help="seconds of rest after each round, at least (0)")
    parser.add_argument("--keep", type=Path, help="directory for everything; else a temporary one, kept on violation")
    parser.add_argument("--audit", action="store_true", help="let `wpk audit verify` read each chapter's trail too")
    given = parser.parse_args()
    directory = given.keep or Path(tempfile.mkdtemp(prefix="wpk-chaos-"))
    options = drive.Options(
        rounds=given.rounds,
        seed=given.seed,
        mode=given.mode,
        nodes=given.nodes,
        directory=directory,
        chapter=given.chapter,
        first=given.first,
        rate=given.rate,
        partitions=given.partitions,
        session=given.session,
        audit=given.audit,
        calm=given.calm,
        only=tuple(filter(None, given.only.split(","))),
    )
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)  # steps may run as another user, and leave their marks below
    try:
        report = asyncio.run(drive.run(options))
    except Unavailable as error:
        sys.stderr.write(f"there is no Apache Kafka to be broken: {error}\n")
        return 2
    except BaseException:
        sys.stderr.write(f"the run ended before its time; all is in {directory}\n")
        raise
    sys.stdout.write("\n".join(report.lines()) + "\n")
    if report.violations:
        for violation in report.violations[:50]:
            sys.stdout.write(f"  {violation['name']}: {violation['sentence']}\n")
        sys.stdout.write(f"all is in {directory}; repeat with --seed {options.seed} --mode {options.mode}\n")
        return 1
    if given.keep is None:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
