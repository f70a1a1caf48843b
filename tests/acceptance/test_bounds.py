"""Far more than an agent holds at once: it stays within its limits, and all of it comes to its end.

`python -m bench.bounds` is the long form, with the figures.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from tests.support.eventually import eventually
from tests.support.foreign import ForeignUser, foreign_user
from tests.support.kafka import KafkaBroker

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

#: Very generous: the agent takes about 80 MB when it does nothing.
MEMORY = 400 << 20
#: A loaded machine is slow, but it does not stand still.
STILL = 120.0


@pytest.fixture
def variables(apache_kafka: KafkaBroker, prefix: str) -> dict[str, str]:
    return processes.environment(
        apache_kafka,
        prefix,
        WPK_PROCESSING_GUARANTEE="exactly_once",
        WPK_MAX_EXECUTIONS=16,
        WPK_MAX_WAITING=50,
        WPK_MAX_LOG_BYTES="1Mi",
    )


@pytest.fixture
async def topics(variables: dict[str, str]) -> None:
    await processes.create_topics(variables)


@pytest.fixture
def user(topics: None, apache_kafka: KafkaBroker, prefix: str) -> Iterator[ForeignUser]:
    with foreign_user(apache_kafka.bootstrap, prefix) as user:
        yield user


def package(step: dict[str, Any], *, approval: bool = False) -> dict[str, Any]:
    spec = {"handlers": [{"name": "only", **step}], "safety": {"approval_required": approval}}
    return {"metadata": {"name": "bounds", "version": "1.0.0"}, "spec": spec}


NOTHING = {"type": "delay", "config": {"duration": "0s"}}


def peak(agent: processes.AgentProcess) -> int:
    """The most memory that the agent ever had (bytes)."""
    status = Path(f"/proc/{agent.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


async def while_it_goes_on(user: ForeignUser, measure: Callable[[], int], wanted: int) -> None:
    """Reads until so many are counted; fails when the count stands still for long."""
    last, moved = -1, time.monotonic()

    def look() -> bool:
        nonlocal last, moved
        user.read()
        now = measure()
        if now != last:
            last, moved = now, time.monotonic()
        return now >= wanted or time.monotonic() - moved > STILL

    await eventually(look, timeout=500, interval=0.2, because=f"{wanted} wanted")
    assert last >= wanted, f"it stands still at {last} of {wanted}"


def ended(user: ForeignUser, names: list[str]) -> int:
    return sum(bool(user.results(name)) for name in names)


def asks(user: ForeignUser, names: list[str]) -> list[str]:
    """Which of them wait for approval or did."""
    return [name for name in names if user.named(name, "execution.awaiting_approval")]


async def test_thousands_of_commands_at_once_end_exactly_once_in_bounded_memory(
    user: ForeignUser, variables: dict[str, str]
) -> None:
    names = [f"c-{number}" for number in range(2000)]
    user.publish_all("execute", ((name, {"execution_id": name, "wpk_content": package(NOTHING)}) for name in names))
    async with processes.agent(variables) as agent:
        await while_it_goes_on(user, lambda: ended(user, names), len(names))
        statuses = Counter(result["status"] for name in names for result in user.results(name))
        assert statuses == {"completed": len(names)}
        for name in names[::100]:
            user.assert_whole(name)
        assert peak(agent) < MEMORY


async def test_what_has_no_room_waits_on_the_topic_and_its_approvals_and_cancels_hold_up_nothing(
    user: ForeignUser, variables: dict[str, str]
) -> None:
    names = [f"w-{number}" for number in range(500)]
    waits = package(NOTHING, approval=True)
    user.publish_all("execute", ((name, {"execution_id": name, "wpk_content": waits}) for name in names))
    async with processes.agent(variables) as agent:
        await while_it_goes_on(user, lambda: len(asks(user, names)), 50)
        cancelled, approved = names[:-21:-1], names[-21::-1]  # the newest first: there is no room for those
        user.publish_all("control", ((n, {"execution_id": n, "action": "cancel"}) for n in cancelled))
        await while_it_goes_on(user, lambda: sum(bool(user.named(n, "execution.cancelling")) for n in cancelled), 20)
        assert len(asks(user, names)) <= 50 + 16, "more wait than there is room for"

        approve = {"action": "approve", "requested_by": "bob"}
        user.publish_all("control", ((n, {"execution_id": n, **approve}) for n in approved))
        again: set[str] = set()

        def completed() -> int:
            refused = [n for n in asks(user, approved) if n not in again and user.named(n, "command.rejected")]
            again.update(refused)
            user.publish_all("control", ((n, {"execution_id": n, **approve}) for n in refused))
            return sum(len(user.named(n, "execution.completed")) for n in approved)

        await while_it_goes_on(user, completed, len(approved))
        await while_it_goes_on(user, lambda: ended(user, cancelled), len(cancelled))
        for name in cancelled:
            assert user.names(name) == ["execution.cancelling", "execution.accepted", "execution.cancelled"]
        for name in approved:
            assert user.names(name)[-1] == "execution.completed"
            user.assert_whole(name)
        assert peak(agent) < MEMORY


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(f"yes {'x' * 99} | head -c 20000000", id="lines"),
        pytest.param(
            "head -c 20000000 /dev/zero | tr '\\0' x; echo; yes short | head -c 10000000", id="a line without end"
        ),
    ],
)
async def test_endless_output_is_bounded_and_said_and_others_go_on(
    user: ForeignUser, variables: dict[str, str], command: str
) -> None:
    async with processes.agent(variables) as agent:
        step = {"type": "shell", "config": {"command": command}, "timeout": "5m"}
        user.publish("execute", {"execution_id": "big", "wpk_content": package(step)}, "big")
        await user.event("big", "step.started")
        user.publish("execute", {"execution_id": "small", "wpk_content": package(NOTHING)}, "small")
        await user.result("small")
        result = await user.result("big")
        assert result["status"] == "completed", result
        (done,) = user.named("big", "step.succeeded")
        assert len(str(done["output"])) < 300 * 1024
        lines = user.log("big")
        assert sum(len(line) for line in lines) <= 1 << 20
        assert any("lines of output were dropped" in line for line in lines)
        user.assert_whole("big")
        assert peak(agent) < MEMORY
