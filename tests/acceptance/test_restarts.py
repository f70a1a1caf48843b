"""Agents that are killed, stopped and started while they work: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from tests.support.eventually import eventually
from tests.support.foreign import ForeignUser, foreign_user
from tests.support.kafka import KafkaBroker
from tests.support.processes import processes_with

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def once(kafka: KafkaBroker) -> bool:
    """Whether the broker can promise that no record is written twice."""
    return kafka.kind == "apache"


@pytest.fixture
def variables(kafka: KafkaBroker, prefix: str, once: bool) -> dict[str, str]:
    guarantee = "exactly_once" if once else "at_least_once"
    return processes.environment(kafka, prefix, WPK_PROCESSING_GUARANTEE=guarantee)


@pytest.fixture
async def topics(variables: dict[str, str]) -> None:
    await processes.create_topics(variables)


@pytest.fixture
def user(topics: None, kafka: KafkaBroker, prefix: str) -> Iterator[ForeignUser]:
    with foreign_user(kafka.bootstrap, prefix) as user:
        yield user


class House:
    """A directory outside of the agent, in which steps leave a mark each time they run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def step(self, name: str, mark: str, then: str = "", **more: Any) -> dict[str, Any]:
        command = f"set -e; echo x >> {self._directory / mark}; {then}"
        return {"name": name, "type": "shell", "config": {"command": command}, **more}

    def until_released(self, release: str) -> str:
        """A command that ends when a test says so."""
        return f"while [ ! -e {self._directory / release} ]; do sleep 0.1; done"

    def release(self, release: str) -> None:
        (self._directory / release).touch()

    def waiting(self, release: str) -> list[int]:
        """The processes that wait for that."""
        return processes_with(str(self._directory / release))

    def times(self, mark: str) -> int:
        """How often that mark was left."""
        path = self._directory / mark
        return path.read_text().count("x") if path.exists() else 0


@pytest.fixture
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="wpk-house-") as directory:
        Path(directory).chmod(0o777)  # an agent of root gives its steps another user
        yield House(Path(directory))


def package(*handlers: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "marks", "version": "1.0.0"}, "spec": {"handlers": list(handlers)}}


async def test_after_a_kill_the_next_agent_repeats_only_what_may_be_repeated(
    user: ForeignUser, variables: dict[str, str], house: House, once: bool
) -> None:
    wait = house.until_released("release")
    packages = {
        "again": package(
            house.step("done", "again-done"),
            house.step("middle", "again-middle", wait, on_interrupt="retry"),
            house.step("last", "again-last"),
        ),
        "never": package(
            house.step("done", "never-done"),
            house.step("middle", "never-middle", wait),
            house.step("last", "never-last"),
        ),
    }
    async with processes.agent(variables) as killed:
        for name, wpk in packages.items():
            user.publish("execute", {"wpk_content": wpk}, key=name)
        for name in packages:
            await user.until(lambda name=name: house.times(f"{name}-middle") == 1, lambda: killed.output[-2000:])
        assert house.waiting("release")
        await killed.kill()
    await eventually(lambda: not house.waiting("release"), because="no process of a killed agent's step survives")

    house.release("release")
    async with processes.agent(variables):
        again, never = await user.result("again"), await user.result("never")

    assert again["status"] == "completed", again
    assert (never["status"], never["error"]["type"], never["error"]["step"]) == ("failed", "interrupted", "middle")
    marks = {
        f"{name}-{step}": house.times(f"{name}-{step}") for name in packages for step in ("done", "middle", "last")
    }
    assert marks == {
        "again-done": 1,
        "again-middle": 2,
        "again-last": 1,
        "never-done": 1,
        "never-middle": 1,
        "never-last": 0,
    }
    user.read()
    for name in packages:
        assert "execution.resumed" in user.names(name)
        assert len(user.results(name)) == 1
        user.assert_whole(name, once=once)


async def test_a_storm_of_the_same_command_runs_it_once(
    user: ForeignUser, variables: dict[str, str], house: House, once: bool
) -> None:
    command = {"wpk_content": package(house.step("only", "storm", "sleep 0.5"))}
    for _ in range(10):
        user.publish("execute", command, key="storm")
    async with processes.agent(variables):
        for _ in range(10):
            user.publish("execute", command, key="storm")
        result = await user.result("storm")
        await user.event("storm", "command.duplicate", count=19)

    assert result["status"] == "completed"
    assert user.names("storm").count("execution.accepted") == 1
    assert len(user.results("storm")) == 1
    assert house.times("storm") == 1
    user.assert_whole("storm", once=once)


@pytest.mark.long
async def test_a_rolling_restart_under_load_costs_no_workflow_anything(
    user: ForeignUser, variables: dict[str, str], house: House, once: bool
) -> None:
    names = [f"load-{number}" for number in range(40)]

    async def load() -> None:
        for name in names:
            handlers = [house.step(step, f"{name}-{step}", "sleep 0.1") for step in ("one", "two")]
            await asyncio.to_thread(user.publish, "execute", {"wpk_content": package(*handlers)}, name)
            await asyncio.sleep(0.2)  # a steady load, so that there is work at each moment of the restart

    async with processes.agent(variables) as first, processes.agent(variables) as second:
        loading = asyncio.create_task(load())
        try:
            await user.until(lambda: any(user.results(name) for name in names))
            assert await first.stop() == 0
            async with processes.agent(variables):
                assert await second.stop() == 0
                async with processes.agent(variables):
                    await loading
                    results = {name: await user.result(name) for name in names}
        finally:
            loading.cancel()

    assert {name: result["status"] for name, result in results.items()} == dict.fromkeys(names, "completed")
    marks = {f"{name}-{step}": house.times(f"{name}-{step}") for name in names for step in ("one", "two")}
    assert marks == dict.fromkeys(marks, 1)
    for name in names:
        assert len(user.results(name)) == 1
        user.assert_whole(name, once=once)
