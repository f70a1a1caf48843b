"""The pause that survives a change of owner."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from consumer.adapters import delay
from consumer.clock import SystemClock
from consumer.errors import ConfigError, PermanentError
from tests.support.api_steps import FixedScope, context, prepare

START = datetime(2026, 1, 1, tzinfo=UTC)


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.moment = START

    def now(self) -> datetime:
        return self.moment


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def slept(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were taken; each moves the clock instead of lasting."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.moment += timedelta(seconds=seconds)

    monkeypatch.setattr(delay.asyncio, "sleep", sleep)
    return pauses


async def test_a_pause_lasts_as_long_as_it_says(clock: HandClock, slept: list[float]) -> None:
    action = prepare(delay.DelayAdapter(clock), {"duration": "1h30m"})
    assert await action.run(context(first_started_at=START)) == {"duration": 5400.0}
    assert sum(slept) == 5400.0


async def test_a_new_owner_goes_on_with_the_pause_instead_of_starting_it_anew(
    clock: HandClock, slept: list[float]
) -> None:
    clock.moment = START + timedelta(seconds=50)
    action = prepare(delay.DelayAdapter(clock), {"duration": "60s"})
    assert action.repeatable
    await action.run(context(first_started_at=START))
    assert sum(slept) == 10.0


async def test_a_pause_that_is_over_when_it_is_taken_up_again_ends_at_once(
    clock: HandClock, slept: list[float]
) -> None:
    clock.moment = START + timedelta(days=3)
    await prepare(delay.DelayAdapter(clock), {"duration": "1d"}).run(context(first_started_at=START))
    assert slept == []


async def test_a_clock_that_is_behind_does_not_stretch_the_pause(clock: HandClock, slept: list[float]) -> None:
    clock.moment = START - timedelta(days=3)
    task = asyncio.ensure_future(
        prepare(delay.DelayAdapter(clock), {"duration": "5s"}).run(context(first_started_at=START))
    )
    await task
    assert slept[0] == 5.0


async def test_no_duration_is_no_sleep_at_all(clock: HandClock, slept: list[float]) -> None:
    clock.moment = START - timedelta(days=3)
    assert await prepare(delay.DelayAdapter(clock), {"duration": "0s"}).run(context(first_started_at=START)) == {
        "duration": 0.0
    }
    assert slept == []


async def test_a_real_pause_takes_its_time_and_can_be_cancelled() -> None:
    adapter = delay.build(None)
    await prepare(adapter, {"duration": "20ms"}).run(context(first_started_at=SystemClock().now()))
    task = asyncio.create_task(prepare(adapter, {"duration": "1h"}).run(context()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await adapter.aclose()


async def test_a_plan_says_how_long_and_that_nothing_changes(clock: HandClock) -> None:
    action = prepare(delay.DelayAdapter(clock), {"duration": "${pause}"}, {"pause": "90s"})
    plan = await action.plan(context(dry_run=True))
    assert plan.summary == "wait 1m30s"
    assert not plan.changes
    assert action.time_limit == 90.0


@pytest.mark.parametrize("config", [{}, {"duration": "5 parsecs"}, {"duration": -1}, {"duration": 1, "unit": "h"}])
def test_a_bad_duration_or_an_unknown_field_is_found_before_anything_runs(
    clock: HandClock, config: dict[str, object]
) -> None:
    adapter = delay.DelayAdapter(clock)
    assert len(adapter.check(config, FixedScope())) == 1  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        prepare(adapter, config)  # type: ignore[arg-type]


async def test_there_is_nothing_to_undo(clock: HandClock) -> None:
    adapter = delay.DelayAdapter(clock)
    for undo in (adapter.undo, adapter.plan_undo):
        with pytest.raises(PermanentError) as raised:
            await undo({}, context())
        assert raised.value.code == "nothing_to_undo"
