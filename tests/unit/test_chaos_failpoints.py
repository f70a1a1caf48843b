"""The fail points of the chaos suite: they name what there is, they act when they should, and only where asked for."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import failpoints, faults
from tests.chaos.failpoints import Armed, FailPoints, Place
from tests.chaos.stage import Mode, Setting

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", failpoints.TABLE)
def test_every_fail_point_names_a_function_that_there_is(name: str) -> None:
    assert callable(failpoints.resolve(failpoints.TABLE[name])[2])


def test_a_renamed_function_is_found() -> None:
    with pytest.raises(AttributeError):
        failpoints.resolve(Place("consumer.journal.owner", "PartitionOwner.was_renamed", "before"))


def test_requests_have_the_keys_by_which_aiokafka_sends_them() -> None:
    from aiokafka.protocol import commit, coordination, fetch, group, offset, produce, transaction  # noqa: PLC0415

    modules = (commit, coordination, fetch, group, offset, produce, transaction)
    known = {
        name.removesuffix("Request"): value.API_KEY
        for module in modules
        for name, value in vars(module).items()
        if name.endswith("Request") and hasattr(value, "API_KEY")
    }
    known["ListOffsets"] = known.pop("Offset")
    assert {name: known[name] for name in failpoints.REQUESTS} == failpoints.REQUESTS


@pytest.mark.parametrize(
    ("text", "armed"),
    [
        ("EndTxn.in", Armed("EndTxn.in", 1, "kill")),
        ("EndTxn.in:3", Armed("EndTxn.in", 3, "kill")),
        ("write.before::delay=2.5", Armed("write.before", 1, "delay", 2.5)),
        ("claim.after:2:stop", Armed("claim.after", 2, "stop")),
    ],
)
def test_a_text_arms_a_fail_point_and_gives_itself_again(text: str, armed: Armed) -> None:
    assert Armed.parse(text) == armed
    assert Armed.parse(str(armed)) == armed


@pytest.mark.parametrize("text", ["nowhere.before", "EndTxn", "EndTxn.in:1:explode", "EndTxn.in:often"])
def test_what_names_nothing_arms_nothing(text: str) -> None:
    with pytest.raises(ValueError):
        Armed.parse(text)


async def test_only_the_nth_time_counts_and_only_once() -> None:
    points, loop = FailPoints(), asyncio.get_running_loop()
    points.arm(Armed.parse("flush.before:2:delay=0.2"))

    async def takes() -> float:
        began = loop.time()
        await points.reach_async("flush.before")
        return loop.time() - began

    first, _other, second, third = await takes(), points.reach("flush.after"), await takes(), await takes()
    assert second >= 0.2 > max(first, third)


def test_what_was_armed_can_be_disarmed(tmp_path: Path) -> None:
    points = FailPoints(str(tmp_path / "hits"))
    points.arm(Armed.parse("flush.before::block=0"))
    assert points.watching("flush.")
    points.disarm()
    points.reach("flush.before")
    assert not points.watching("flush.")
    assert not (tmp_path / "hits").exists()


_DIES = """
import asyncio, sys
from tests.chaos import failpoints, faults
from consumer.journal.queue import AppendQueue
points = failpoints.FailPoints(sys.argv[1])
failpoints.install(points)
points.arm(failpoints.Armed.parse(sys.argv[2]))
AppendQueue().done()
AppendQueue().done()
print("alive")
"""


@pytest.mark.parametrize(("action", "code"), [("kill", -signal.SIGKILL), ("exit", failpoints.EXIT_CODE)])
def test_an_agent_dies_where_it_is_told_to_and_leaves_a_note_before(tmp_path: Path, action: str, code: int) -> None:
    hits = tmp_path / "hits"
    died = subprocess.run(
        [sys.executable, "-c", _DIES, str(hits), f"durable.before:2:{action}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (died.returncode, died.stdout) == (code, b""), died.stderr
    (hit,) = map(json.loads, hits.read_text().splitlines())
    assert (hit["point"], hit["action"]) == ("durable.before", action)


def test_a_normal_agent_has_none_of_it() -> None:
    code = (
        "import sys, consumer.cli.main, consumer.cli.serve\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'tests'])\n"
        "from consumer.journal.queue import AppendQueue\n"
        "print(hasattr(AppendQueue.done, '__wrapped__'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split("\n")[:2] == ["[]", "False"]
    for source in (ROOT / "consumer").rglob("*.py"):
        assert "chaos" not in source.read_text().lower(), f"{source} knows of chaos"


def _setting(mode: Mode) -> Setting:
    return Setting(nodes=3, mode=mode, partitions=4, session=6.0)


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_a_seed_always_draws_the_same_faults_and_another_draws_others(mode: Mode) -> None:
    def plan(seed: int) -> list[str]:
        rounds = (faults.draw_round(seed, number, _setting(mode)) for number in range(60))
        return [f"{at} {fault}" for each in rounds for at, fault in each.faults]

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


def test_two_faults_at_once_never_break_the_same_and_every_kind_is_drawn() -> None:
    drawn = [faults.draw_round(3, number, _setting("exactly_once")).faults for number in range(2000)]
    for each in drawn:
        taken = [fault.takes for _, fault in each]
        assert len(frozenset().union(*taken)) == sum(map(len, taken)), each
        assert all(taken)
    assert {fault.name for each in drawn for _, fault in each} == {kind.name for kind in faults.KINDS}
