"""What a newcomer types first: `wpk demo` and `wpk dev`, as processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0

pytestmark = pytest.mark.timeout(240)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "consumer", *arguments]


def bare() -> dict[str, str]:
    """An environment without any setting of the agent."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}


def test_the_demo_shows_a_run_that_completes_and_one_that_is_rolled_back() -> None:
    done = subprocess.run(
        command("demo"), cwd=ROOT, env=bare(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    shown = done.stdout
    assert "3rd attempt" in shown
    assert re.search(r"completed in .* outputs: disk=\d+ memory=\d+", shown)
    assert "limit=10 again" in shown
    assert "rolled back in" in shown
    assert "\x1b[" not in shown, "no terminal, no control codes"


@contextmanager
def dev() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`wpk dev` that is ready, and the address of its broker."""
    process = subprocess.Popen(
        command("dev"), cwd=ROOT, env=bare(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        bootstrap = ""
        while not bootstrap and time.monotonic() < deadline:
            found = re.search(r"KAFKA_BOOTSTRAP_SERVERS=(\S+)", process.stdout.readline())
            bootstrap = found[1] if found else ""
        assert bootstrap, "wpk dev says how to reach it"
        yield process, bootstrap
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_dev_takes_a_package_from_the_command_line_and_ends_by_an_interrupt(tmp_path: Path) -> None:
    package = tmp_path / "hello.wpk.yaml"
    package.write_text(
        "metadata: {name: hello}\n"
        "spec:\n"
        "  handlers:\n"
        "    - {name: greet, type: shell, config: {command: 'echo hello ${who}'}}\n"
        "  parameters: {type: object, properties: {who: {type: string}}, required: [who]}\n"
    )
    with dev() as (process, bootstrap):
        done = subprocess.run(
            command("submit", str(package), "-p", "who=world", "--watch", "--timeout", "90s"),
            env={**bare(), "KAFKA_BOOTSTRAP_SERVERS": bootstrap},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "hello world" in done.stdout
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0
