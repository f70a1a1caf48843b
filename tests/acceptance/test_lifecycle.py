"""The agent's life as a process: it stops in stages, hands over what runs, and never stands still silently."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from consumer.telemetry.watchdog import HUNG
from tests.support import processes
from tests.support.agents import PLUGINS
from tests.support.eventually import eventually
from tests.support.foreign import ForeignUser, foreign_user
from tests.support.kafka import KafkaBroker
from tests.support.processes import AgentProcess

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

STOP = ["refusing", "draining", "flushing", "leaving"]


@pytest.fixture
def variables(apache_kafka: KafkaBroker, prefix: str) -> dict[str, str]:
    return processes.environment(
        apache_kafka,
        prefix,
        PYTHONPATH=f"{processes.ROOT}{os.pathsep}{PLUGINS}",
        WPK_PROCESSING_GUARANTEE="exactly_once",
        WPK_SHUTDOWN_GRACE="10m",
    )


@pytest.fixture
async def topics(variables: dict[str, str]) -> None:
    await processes.create_topics(variables)


@pytest.fixture
def user(topics: None, apache_kafka: KafkaBroker, prefix: str) -> Iterator[ForeignUser]:
    with foreign_user(apache_kafka.bootstrap, prefix) as user:
        yield user


@pytest.fixture
def release() -> Iterator[Path]:
    """A file; steps wait until it is there."""
    with tempfile.TemporaryDirectory(prefix="wpk-release-") as directory:
        Path(directory).chmod(0o777)  # an agent of root gives its steps another user
        yield Path(directory) / "release"


def package(*handlers: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "lives", "version": "1.0.0"}, "spec": {"handlers": list(handlers)}}


def shell(name: str, command: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "shell", "config": {"command": command}, **more}


def until(path: Path) -> str:
    return f"while [ ! -e {path} ]; do sleep 0.1; done"


def stages(agent: AgentProcess) -> list[str]:
    """The stages of its stop, in order."""
    return [entry["stage"] for entry in agent.events("agent.stage") if "seconds_left" in entry]


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Takes requests and does not answer the first; its URL."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        mine = asked
        await reader.readuntil(b"\r\n\r\n")
        if mine > 1:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
            writer.close()
        else:
            await reader.read()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


# --- the stop -------------------------------------------------------------------------------------------------------


async def test_a_rolling_update_costs_what_runs_nothing_but_a_pause(
    user: ForeignUser, variables: dict[str, str], release: Path
) -> None:
    # Who does not leave the group in order is waited for longer than the test may take.
    patient = {**variables, "WPK_SESSION_TIMEOUT": "10m"}
    delay = {"name": "pause", "type": "delay", "config": {"duration": "5s"}}
    async with processes.agent(patient) as old:
        user.publish("execute", {"wpk_content": package(shell("first", until(release)), shell("then", ":"))}, key="e1")
        user.publish("execute", {"wpk_content": package(delay, shell("after", ":"))}, key="e2")
        await user.event("e1", "step.started")
        await user.event("e2", "step.started")
        old.signal(signal.SIGTERM)
        await old.stage("draining")
        assert "the agent is stopping (draining)" in (await old.get("/readyz"))[1]
        assert 'wpk_agent_stage{stage="draining"} 1.0' in (await old.get("/metrics"))[1]
        async with processes.agent(patient, ready=False) as new:
            await new.logged("agent.started")  # it joins, and the old one answers that in the middle of its stop
            await asyncio.to_thread(release.touch)
            assert await old.ended() == 0
            assert stages(old) == STOP
            results = [await user.result(name) for name in ("e1", "e2")]
            assert await new.stop() == 0

    assert [result["status"] for result in results] == ["completed", "completed"]
    for name in ("e1", "e2"):
        user.assert_whole(name)
        assert {data["attempt"] for data in user.named(name, "step.succeeded")} == {1}
    started = {data["step"]: data for data in user.named("e1", "step.started")}
    assert started["then"]["agent"] != started["first"]["agent"], "nothing begins during the stop"


async def test_a_request_that_waits_for_its_answer_does_not_hold_the_stop(
    user: ForeignUser, variables: dict[str, str]
) -> None:
    async with silent_server() as url:
        request = {"name": "ask", "type": "api", "config": {"method": "GET", "url": url, "timeout": "5m"}}
        async with processes.agent(variables) as old:
            user.publish("execute", {"wpk_content": package(request)}, key="e1")
            await user.event("e1", "step.started")
            assert await old.stop() == 0
            assert stages(old) == STOP
        assert "step.failed" not in user.names("e1")
        async with processes.agent(variables):
            assert (await user.result("e1"))["status"] == "completed"
    assert [data["attempt"] for data in user.named("e1", "step.started")] == [1, 1], "the same attempt, made again"
    user.assert_whole("e1")


async def test_an_agent_that_stops_in_a_rebalance_leaves_the_group_all_the_same(
    user: ForeignUser, variables: dict[str, str], apache_kafka: KafkaBroker
) -> None:
    patient = {**variables, "WPK_SESSION_TIMEOUT": "10m", "WPK_SHUTDOWN_GRACE": "10s"}
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap})

    def clients() -> list[str]:
        group = variables["WPK_GROUP_ID"]
        described = admin.describe_consumer_groups([group], request_timeout=30)[group].result(30)
        return sorted(member.client_id for member in described.members)

    async with processes.agent(patient) as frozen, processes.agent(patient) as stops:
        frozen.signal(signal.SIGSTOP)  # the group waits for its answer, and all others for the group
        try:
            async with processes.agent(patient, ready=False) as joins:
                await joins.logged("agent.started")
                names = {each: str((await each.logged("agent.started"))["agent"]) for each in (frozen, stops, joins)}
                await eventually(lambda: f"{names[joins]}-intake" in clients(), timeout=processes.PATIENCE)

                async def rebalancing() -> bool:
                    return "no place in the consumer group" in (await stops.get("/readyz"))[1]

                await eventually(rebalancing, timeout=processes.PATIENCE, because="the member has to join anew")
                assert await stops.stop() == 0
                left = await asyncio.to_thread(clients)
                assert f"{names[stops]}-intake" not in left
                assert f"{names[frozen]}-intake" in left
        finally:
            frozen.signal(signal.SIGCONT)


async def test_a_stop_ends_in_time_while_kafka_stands_still(
    user: ForeignUser, variables: dict[str, str], release: Path, apache_kafka: KafkaBroker
) -> None:
    async with processes.agent({**variables, "WPK_SHUTDOWN_GRACE": "5s"}) as agent:
        user.publish("execute", {"wpk_content": package(shell("only", until(release)))}, key="e1")
        await user.event("e1", "step.started")
        apache_kafka.pause()
        try:
            agent.signal(signal.SIGTERM)
            assert await agent.ended() == 0, "in order, and not by the watchdog"
        finally:
            apache_kafka.resume()
        assert agent.events("agent.unwritten")
    async with processes.agent(variables):
        result = await user.result("e1")
    assert (result["status"], result["error"]["type"]) == ("failed", "interrupted")
    user.assert_whole("e1")


async def test_a_stop_ends_a_start_that_waits_for_kafka(
    topics: None, variables: dict[str, str], apache_kafka: KafkaBroker
) -> None:
    apache_kafka.pause()
    try:
        async with processes.agent(variables, ready=False) as agent:
            await agent.logged("agent.stage")
            agent.signal(signal.SIGTERM)
            assert await agent.ended() == 0
            assert agent.events("agent.stopped")
    finally:
        apache_kafka.resume()


# --- what hangs -----------------------------------------------------------------------------------------------------


def blocking(seconds: float) -> dict[str, Any]:
    return package({"name": "block", "type": "probe", "config": {"block": seconds}})


async def test_an_agent_whose_loop_is_blocked_says_where_and_ends(user: ForeignUser, variables: dict[str, str]) -> None:
    async with processes.agent({**variables, "WPK_HANG_TIMEOUT": "5s", "WPK_WRITE_TIMEOUT": "4s"}) as agent:
        user.publish("execute", {"wpk_content": blocking(600)}, key="e1")
        assert await agent.ended() == HUNG
        (last,) = agent.events("agent.hung")
        assert "event loop was blocked" in last["reason"]
        (told,) = agent.events("loop.blocked")
        assert "wpk_probe.py" in told["stacks"]
    async with processes.agent(variables):
        assert (await user.result("e1"))["error"]["type"] == "interrupted"


async def test_a_second_signal_ends_an_agent_whose_loop_is_blocked(
    user: ForeignUser, variables: dict[str, str]
) -> None:
    async with processes.agent({**variables, "WPK_HANG_TIMEOUT": "10m"}) as agent:
        user.publish("execute", {"wpk_content": blocking(600)}, key="e1")
        await user.event("e1", "step.started")
        agent.signal(signal.SIGTERM)

        def ended() -> bool:
            agent.signal(signal.SIGINT)  # one that comes with the first may be given to a thread that takes none
            return agent.code is not None

        await eventually(ended, timeout=processes.PATIENCE, interval=0.5)
        assert agent.code in (-signal.SIGINT, -signal.SIGTERM)
        assert agent.events("agent.killed")
