"""What hangs inside of the agent's Kafka client is seen and begun again; where that does not help the agent ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from consumer.errors import Hung
from consumer.intake import listener
from consumer.intake.member import Member
from schemas.events import Status
from tests.support import agents
from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

PACKAGE = {
    "metadata": {"name": "hangs"},
    "spec": {"handlers": [{"name": "only", "type": "delay", "config": {"duration": "0s"}}]},
}


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> list[Member]:
    """The members of the group that agents inside of this process made, in order."""
    made: list[Member] = []

    class Seen(Member):
        def __init__(self, consumer: AIOKafkaConsumer, group: str, *, poll_ms: int) -> None:
            super().__init__(consumer, group, poll_ms=poll_ms)
            made.append(self)

    monkeypatch.setattr(listener, "Member", Seen)
    return made


async def _kill_the_coordination(member: Member) -> None:
    member.consumer._coordinator._coordination_task.cancel()


async def _kill_the_heartbeat(member: Member) -> None:
    async def fail() -> bool:
        raise KafkaError("an answer that nobody knows")

    member.consumer._coordinator._do_heartbeat = fail


async def _kill_the_fetcher(member: Member) -> None:
    member.consumer._fetcher._fetch_task.cancel()


async def _hold_the_polls(member: Member) -> None:
    member.poll = asyncio.Event().wait  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(_kill_the_coordination, id="coordination"),
        pytest.param(_kill_the_heartbeat, id="heartbeat"),
        pytest.param(_kill_the_fetcher, id="fetcher"),
        pytest.param(_hold_the_polls, id="polls"),
    ],
)
async def test_a_client_that_hangs_is_replaced_and_commands_are_taken_again(
    apache_kafka: KafkaBroker, prefix: str, members: list[Member], harm: Callable[[Member], Awaitable[None]]
) -> None:
    config = agents.settings(apache_kafka, prefix, hang_timeout=5, write_timeout=4)
    await agents.create_topics(config)
    async with agents.running(config), agents.user(config) as topics:
        await topics.execute("before", PACKAGE)
        assert (await topics.over("before")).status is Status.COMPLETED
        await harm(members[0])
        await topics.execute("after", PACKAGE)
        await eventually(lambda: len(members) == 2, timeout=120, because="a new member is made")
        assert (await topics.over("after")).status is Status.COMPLETED
        topics.assert_whole("after")


async def test_an_agent_whose_client_hangs_again_and_again_ends_with_the_reason(
    apache_kafka: KafkaBroker, prefix: str, members: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Member, "broken", lambda self: "the test broke it")
    monkeypatch.setattr(listener, "_LOOK_SECONDS", 0.2)
    config = agents.settings(apache_kafka, prefix)
    await agents.create_topics(config)
    with pytest.raises(Hung, match="can't stay in the consumer group: the test broke it"):
        async with agents.running(config) as agent:
            await agent.task
    assert len(members) == 4
