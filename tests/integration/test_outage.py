"""A broker that goes away and comes back: the agent waits, takes its partitions again, and loses nothing."""

from __future__ import annotations

import asyncio
import importlib
from types import ModuleType

import pytest

from schemas.events import Status
from tests.support import agents
from tests.support.agents import PLUGINS
from tests.support.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(300)
#: Longer than a write may take, so that every owner dies of it.
AWAY = 15.0


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PLUGINS))
    module = importlib.import_module("wpk_probe")
    module.seen.clear()
    return module


async def test_an_outage_of_the_broker_costs_time_and_no_command(
    apache_kafka: KafkaBroker, prefix: str, probe: ModuleType
) -> None:
    config = agents.settings(apache_kafka, prefix, write_timeout=5)
    step = {"name": "wait", "type": "probe", "config": {"wait": True, "repeatable": True}}
    package = {"metadata": {"name": "outage"}, "spec": {"handlers": [step]}}
    await agents.create_topics(config)
    async with agents.running(config):
        async with agents.user(config) as topics:
            await topics.execute("before", package)
            await topics.until("before", lambda state: state.current_step == "wait")
        await asyncio.to_thread(apache_kafka.kill)
        try:
            await asyncio.sleep(AWAY)
        finally:
            await asyncio.to_thread(apache_kafka.restart)
        for name in ("before", "after"):
            probe.seen[name].release["wait"].set()
        async with agents.user(config) as topics:
            await topics.execute("after", package)
            states = {name: await topics.over(name) for name in ("before", "after")}
            for name in states:
                topics.assert_whole(name)
    assert {state.status for state in states.values()} == {Status.COMPLETED}
