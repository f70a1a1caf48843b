"""What a shell step ran in and used, in the event of its end."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.adapters.shell.cgroup import find
from consumer.adapters.shell.sandbox import Level
from schemas import events
from schemas.events import Status
from schemas.usage import Usage
from tests.support.engine_house import house, package, probe_module
from tests.support.shell_steps import adapter_at

LEVELS: list[Level] = ["bubblewrap", "landlock", "none"]
#: Tens of milliseconds of a grandchild's time, on any machine.
WORK = "(i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done)"


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


async def ends(probe: Any, level: Level, command: str, *, grouped: bool = True, **more: Any) -> list[Any]:
    """The data of the events by which the attempts of a step ended; without control groups, if it is to be so."""
    handler = {"name": "a", "type": "shell", "config": {"command": command}, **more}
    adapter = await adapter_at(level, find_groups=find if grouped else lambda: None)
    async with house(probe, adapters={"shell": adapter}) as h:
        await h.execute(package(handler))
        state = await h.over()
        kinds = (events.StepSucceeded, events.StepFailed, events.StepRetrying)
        found = [event.data for event in h.events() if isinstance(event.data, kinds)]
    assert state.status in (Status.COMPLETED, Status.FAILED)
    return found


@pytest.mark.parametrize("level", LEVELS)
async def test_the_end_of_each_attempt_tells_what_held_it_and_what_it_used(probe: Any, level: Level) -> None:
    retry = {"max_attempts": 2, "backoff": "1ms"}
    for command, kinds in ((WORK, ["StepSucceeded"]), (f"{WORK}; exit 3", ["StepRetrying", "StepFailed"])):
        found = await ends(probe, level, command, retry=retry)
        assert [type(each).__name__ for each in found] == kinds
        for each in found:
            assert each.usage is not None
            assert each.usage.sandbox == level
            if level == "bubblewrap" and find() is None:
                assert each.usage.cpu_seconds is None
            else:
                assert 0.005 < each.usage.cpu_seconds < 60
        probe.seen.clear()


@pytest.mark.parametrize("level", LEVELS)
async def test_an_attempt_that_was_ended_still_tells_what_held_it(probe: Any, level: Level) -> None:
    (end,) = await ends(probe, level, "exec sleep 86400", timeout="300ms")
    assert (end.error.type, end.usage) == ("timeout", Usage(sandbox=level))


async def test_the_peak_is_that_of_the_largest_process(probe: Any) -> None:
    (end,) = await ends(probe, "landlock", "head -c 96M /dev/zero | tail -c 96M | wc -c", grouped=False)
    assert 96 * 2**20 < end.usage.peak_memory_bytes < 150 * 2**20


async def test_a_peak_that_may_be_the_agents_own_is_left_out(probe: Any) -> None:
    (end,) = await ends(probe, "none", "true", grouped=False)
    assert end.usage.peak_memory_bytes is None
