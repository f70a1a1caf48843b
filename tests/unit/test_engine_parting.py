"""The agent stops: which running steps end by themselves, which are left to the next owner, and what the trail says."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.engine.runner import Parting
from schemas.events import Status
from schemas.execution import StepStatus
from tests.support.engine_house import PATIENCE, House, house, package, probe_module, step
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


async def part(h: House, parting: Parting) -> None:
    """As the agent does it: nothing begins any more, and when those steps have ended nothing runs."""
    h.supervisor.hold(h.partition)
    h.supervisor.part(parting)
    assert await h.supervisor.quiet(PATIENCE)


async def test_a_step_that_may_be_repeated_is_left_to_the_next_owner_which_makes_it_again(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"wait": True, "repeatable": True}), step("b")))
        await h.runs("a")
        await part(h, Parting.ALL)
        assert probe.seen["e1"].effects == ["run a 1", "cancelled a"]
        assert h.names()[-1] == "step.started", "the trail has no end of it"

        probe.seen["e1"].release["a"].set()
        await h.move()
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert state.steps["a"].attempt == 1
    assert probe.seen["e1"].effects == ["run a 1", "cancelled a", "run a 1", "run b 1"]


async def test_a_step_that_may_not_be_repeated_ends_as_interrupted_by_the_stop(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"wait": True, "capture": "A"}), rollback={"enabled": True}))
        await h.runs("a")
        await part(h, Parting.ALL)
        stopped = await h.until(lambda state: state.steps["a"].status is StepStatus.FAILED)
        assert stopped.steps["a"].error is not None
        assert stopped.steps["a"].error.type == "interrupted"
        assert "the agent was stopped while a ran" in stopped.steps["a"].error.message
        assert "undo a to A" not in probe.seen["e1"].effects, "nothing begins during the stop"

        await h.move()
        state = await h.over()

    assert state.status is Status.ROLLED_BACK
    assert probe.seen["e1"].effects == ["run a 1", "cancelled a", "undo a to A"]


async def test_the_packages_word_decides_over_the_adapters(probe: Any) -> None:
    wpk = package(
        step("a", {"wait": True}, on_interrupt="retry"),
        step("b", {"wait": True, "repeatable": True}, on_interrupt="fail"),
        step("last", needs=["a", "b"]),
    )
    async with house(probe) as h:
        await h.execute(wpk)
        await eventually(lambda: len(probe.seen["e1"].effects) == 2, timeout=PATIENCE)
        await part(h, Parting.ALL)
        state = await h.until(lambda state: state.steps["b"].status is StepStatus.FAILED)

    assert state.steps["a"].status is StepStatus.RUNNING
    assert state.steps["b"].error is not None
    assert state.steps["b"].error.type == "interrupted"


async def test_only_what_waits_is_ended_at_first(probe: Any) -> None:
    wpk = package(
        step("works", {"wait": True}),
        step("repeats", {"wait": True, "repeatable": True, "limit": 3600}),
        {"name": "pause", "type": "delay", "config": {"duration": "1h"}},
        step("last", needs=["works", "repeats", "pause"]),
    )
    async with house(probe) as h:
        await h.execute(wpk)
        await eventually(lambda: len(probe.seen["e1"].effects) == 2, timeout=PATIENCE)
        h.supervisor.hold(h.partition)
        h.supervisor.part(Parting.WAITS)
        probe.seen["e1"].release["repeats"].set()
        await h.until(lambda state: state.steps["repeats"].status is StepStatus.SUCCEEDED)
        assert not await h.supervisor.quiet(0), "the step that works is not ended"
        probe.seen["e1"].release["works"].set()
        assert await h.supervisor.quiet(PATIENCE)

    state = h.state()
    assert state is not None
    assert {name: state.steps[name].status for name in state.steps} == {
        "works": StepStatus.SUCCEEDED,
        "repeats": StepStatus.SUCCEEDED,
        "pause": StepStatus.RUNNING,
        "last": StepStatus.PENDING,
    }


async def test_what_a_step_still_achieved_when_the_agent_stopped_is_told_as_it_was(probe: Any) -> None:
    config = {"wait": True, "ignore_cancel": True, "repeatable": True, "output": {"done": True}}
    async with house(probe) as h:
        await h.execute(package(step("a", config), step("b")))
        await h.runs("a")
        await part(h, Parting.ALL)
        await h.until(lambda state: state.steps["a"].status is StepStatus.SUCCEEDED)
        await h.move()
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert probe.seen["e1"].effects == ["run a 1", "cancelled a", "run b 1"]


async def test_no_delay_begins_while_the_agent_stops(probe: Any) -> None:
    pause = {"name": "pause", "type": "delay", "config": {"duration": "1h"}}
    async with house(probe) as h:
        await h.execute(package(step("a", {"wait": True}), pause))
        await h.runs("a")
        h.supervisor.hold(h.partition)
        probe.seen["e1"].release["a"].set()
        assert await h.supervisor.quiet(PATIENCE)
        state = await h.until(lambda state: state.steps["a"].status is StepStatus.SUCCEEDED)
        assert state.steps["pause"].status is StepStatus.PENDING

        h.supervisor.resume(h.partition)
        await h.until(lambda state: state.steps["pause"].status is StepStatus.RUNNING)
