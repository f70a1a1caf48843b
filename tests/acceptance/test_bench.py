"""The measurements themselves, small: an agent and its floor on the embedded broker, and the steps' floors."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace

import pytest

from bench import shape, w3
from bench.stage import quiet_lines, stage
from bench.steps import answering
from bench.w3 import Plan
from consumer.ports import Topic
from tests.support.processes import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

SMALL = Plan(kind="embedded", warm_up=5, rounds=1, burst=20, shaped=10, latencies=5)


async def test_the_floor_writes_what_an_agent_writes_for_the_same_commands() -> None:
    """By topic, as many records with keys, values and headers of the same sizes."""
    async with stage(kind="embedded", settings={"WPK_PROCESSING_GUARANTEE": "at_least_once"}) as house:
        async with w3.agents(house, warm_up=SMALL.warm_up) as ours:
            records = await w3.records_of_a_run(house, ours, SMALL)
        for sends in ("each", "batch"):
            async with w3.floor_beside(house, records, replace(SMALL, sends=sends)) as bare:
                await asyncio.to_thread(bare.burst, 10, w3.W3)
                with bare.house.reader(*(topic.value for topic in Topic)) as reader:
                    written = await quiet_lines(reader, 1.5)
            again = shape.of_run(written, bare.house.prefix, b"w3-00000010")
            assert shape.told(again) == shape.told(records), sends


async def test_a_measurement_gives_all_figures_of_both() -> None:
    figures, _ = await w3.measure(SMALL)
    by_name = {figure.name.partition(" (")[0]: figure for figure in figures}
    assert {"W3 throughput", "W3 CPU of the worker", "W3 latency p50 at 20/s", "W3 KB written"} <= by_name.keys()
    assert all(value > 0 for value in by_name["W3 throughput"].ours)
    assert by_name["W3 throughput"].floor is not None
    assert len(by_name["W3 latency p99 at 20/s"].ours) == 2


@pytest.mark.parametrize("what", ["spawn", "http"])
async def test_the_floor_of_a_step_says_how_long_it_took(what: str) -> None:
    async with answering() as url:
        command = [sys.executable, "-m", "bench.bare", what, "--count", "5", "--url", url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(output)["seconds"] > 0
