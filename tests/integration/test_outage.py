"""A broker that goes away and comes back: the agent keeps what it holds, says so, goes on after, and loses nothing."""

from __future__ import annotations

import asyncio
import importlib
import json
from types import ModuleType
from typing import Any

import httpx
import pytest

from schemas.events import Status
from tests.support import agents
from tests.support.agents import PATIENCE, PLUGINS
from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
#: Much longer than the session and a write may take together.
AWAY = 60.0
SESSION, WRITE = 6, 5


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PLUGINS))
    module = importlib.import_module("wpk_probe")
    module.seen.clear()
    return module


async def asked(url: str, path: str) -> tuple[int, dict[str, Any]]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        answer = await client.get(url.removesuffix("/metrics") + path)
    return answer.status_code, json.loads(answer.content)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_an_outage_of_the_broker_costs_time_and_neither_a_command_nor_a_step(
    apache_kafka: KafkaBroker, prefix: str, probe: ModuleType, how: str
) -> None:
    leave, come_back = {
        "killed": (apache_kafka.kill, apache_kafka.restart),
        "frozen": (apache_kafka.pause, apache_kafka.resume),
    }[how]
    config = agents.settings(apache_kafka, prefix, write_timeout=WRITE, session_timeout=SESSION)
    step = {"name": "wait", "type": "probe", "config": {"wait": True}}  # may not be repeated
    package = {"metadata": {"name": "outage"}, "spec": {"handlers": [step]}}
    await agents.create_topics(config)
    async with agents.running(config) as agent:
        async with agents.user(config) as topics:
            await topics.execute("before", package)
            await topics.until("before", lambda state: state.current_step == "wait")
        await asyncio.to_thread(leave)
        try:
            away = asyncio.create_task(asyncio.sleep(AWAY))  # the outage's length is what is tested

            async def told() -> bool:
                status, facts = await asked(agent.started.metrics_url, "/readyz")
                return status == 503 and any("Kafka" in problem for problem in facts["problems"])

            await eventually(told, timeout=PATIENCE, interval=0.5, because="/readyz says that Kafka is away")
            probe.seen["before"].release["wait"].set()
            await away
            assert (await asked(agent.started.metrics_url, "/healthz"))[0] == 200
        finally:
            await asyncio.to_thread(come_back)
        probe.seen["after"].release["wait"].set()
        async with agents.user(config) as topics:
            await topics.execute("after", package)
            states = {name: await topics.over(name) for name in ("before", "after")}
            for name in states:
                topics.assert_whole(name)
            epochs = {event.data.attempt_epoch for event in topics.events("before")}

        async def ready() -> bool:
            return (await asked(agent.started.metrics_url, "/readyz"))[0] == 200

        await eventually(ready, timeout=PATIENCE, interval=0.2, because="the agent is ready again")
    assert {state.status for state in states.values()} == {Status.COMPLETED}
    assert len(epochs) == 1, "the partition kept its owner"
    assert probe.seen["before"].effects == ["run wait 1"]
