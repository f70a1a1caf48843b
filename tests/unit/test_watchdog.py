"""The thread that watches the event loop: it tells of a block, ends a hang, and takes a frozen process for no hang."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time

import pytest

from consumer.cli.execute import execute
from consumer.cli.options import Options
from consumer.errors import Hung
from consumer.telemetry.watchdog import HUNG, Watchdog
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(60)


class Heard:
    """What a watchdog with short turns did."""

    def __init__(self, limit: float = 1000.0, turn: float = 0.01) -> None:
        self.ended: list[str] = []
        self.told: list[str] = []
        self.watchdog = Watchdog(
            limit, end=self.ended.append, tell=lambda seconds, stacks: self.told.append(stacks), turn=turn
        )


class CountedLooks(threading.Event):
    """What the watchdog waits on between its looks, and how often it did."""

    count = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.count += 1
        return super().wait(timeout)


async def test_a_loop_that_turns_is_left_alone() -> None:
    heard = Heard(limit=4, turn=0.001)
    looks = CountedLooks()
    heard.watchdog._closed = looks
    with heard.watchdog.watching():
        while looks.count < 3000:  # without a beat it tells after 2000 and ends after 4000
            heard.watchdog.beat()
            await asyncio.sleep(0.001)
    assert (heard.told, heard.ended) == ([], [])


async def test_a_blocked_loop_is_told_with_its_stack_and_then_ends_the_process() -> None:
    heard = Heard(limit=0.2)

    def block() -> None:
        while not heard.ended:
            time.sleep(0.01)

    with heard.watchdog.watching():
        block()
    assert heard.ended == ["the event loop was blocked for 0.2 s (WPK_HANG_TIMEOUT)"]
    assert "in block" in heard.told[0]


async def test_a_stop_that_does_not_end_ends_the_process_while_the_loop_turns() -> None:
    heard = Heard()
    with heard.watchdog.watching():
        heard.watchdog.stop_within(0.1)

        def ended() -> bool:
            heard.watchdog.beat()
            return bool(heard.ended)

        await eventually(ended)
    assert heard.ended == ["the stop did not end within WPK_SHUTDOWN_GRACE"]


def test_the_process_ends_with_one_line_that_has_the_reason() -> None:
    code = "from consumer.telemetry.watchdog import end_process; end_process('it hung')"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == HUNG
    (line,) = done.stderr.splitlines()
    said = json.loads(line)
    assert (said["event"], said["reason"], said["exit_code"]) == ("agent.hung", "it hung", HUNG)


def test_an_agent_that_could_not_mend_itself_ends_with_the_same_code(capsys: pytest.CaptureFixture[str]) -> None:
    def hang(options: Options) -> int:
        raise Hung("partition 3 hangs")

    assert execute(hang, Options()) == HUNG
    assert capsys.readouterr().err == "partition 3 hangs\n"


def test_the_watch_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with Heard().watchdog.watching():
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
