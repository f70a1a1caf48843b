"""What the keeper tells of the processes that a command left behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.processes import ROOT

_PROGRAM = """
import os, sys, time
from consumer.adapters.shell import keeper
keeper._LIBC.prctl(keeper._PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
keeper._PATIENCE = float(sys.argv[1])
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    os._exit(0)
print(keeper._end_all(), flush=True)
keeper._PATIENCE = 20.0
print(keeper._end_all(), flush=True)
"""


@pytest.mark.parametrize(("patience", "told"), [("20", ["True", "True"]), ("-1", ["False", "True"])])
def test_it_tells_whether_all_of_a_commands_processes_are_gone(patience: str, told: list[str]) -> None:
    """One that the kernel holds can't be had for a test; a keeper without patience sees the same."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, patience], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    assert done.stdout.split() == told
