"""What counts as hanging: no progress while this process ran, and never a clock that went on without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, KafkaConnectionError
from prometheus_client import CollectorRegistry

from consumer.errors import Hung
from consumer.intake import listener, member
from consumer.intake.lane import Lane
from consumer.intake.listener import Listener, Options
from consumer.intake.lookout import FORGET_SECONDS, TRIES, Lookout
from consumer.intake.poller import Poller
from consumer.intake.stillness import LOOK_SECONDS, Stillness
from consumer.journal.owner import Stats
from consumer.journal.topics import TopicNames
from consumer.ports import CommandTopic
from consumer.telemetry.health import Health
from consumer.telemetry.metrics import Metrics
from tests.support.eventually import eventually

Shift = Callable[[float], None]
OPTIONS = Options(session_timeout=10, fetch_max_wait_ms=100, max_command_bytes=1000)


@pytest.fixture
async def shift(monkeypatch: pytest.MonkeyPatch) -> Shift:
    """Moves the loop's clock forward, as a process sees it that was frozen for so long (seconds)."""
    loop, shifted = asyncio.get_running_loop(), [0.0]
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + shifted[0])

    def move(seconds: float) -> None:
        shifted[0] += seconds

    return move


def owner(*, backlogged: bool = False) -> SimpleNamespace:
    return SimpleNamespace(trouble=None, backlogged=backlogged, stats=Stats())


def lane(present: SimpleNamespace | None, *, active: bool = False) -> Lane:
    made = Lane(0, supervisor=None, new_owner=None, source=None, max_bytes=1)  # type: ignore[arg-type]
    made._owner = present  # type: ignore[assignment]
    made._partition = SimpleNamespace() if active else None  # type: ignore[assignment]
    return made


def looks(shift: Shift, seconds: float, look: Callable[[], str | None]) -> str | None:
    """What the looks of so long a time come to."""
    reason = None
    for _ in range(round(seconds / LOOK_SECONDS)):
        shift(LOOK_SECONDS)
        reason = reason or look()
    return reason


# --- a process that was frozen ---


async def test_the_time_in_which_the_process_itself_stood_still_does_not_count(shift: Shift) -> None:
    still = Stillness()
    assert still.look("same") == 0.0
    shift(3600)
    assert still.look("same") <= 2 * LOOK_SECONDS
    shift(LOOK_SECONDS)
    assert still.look("same") <= 4 * LOOK_SECONDS
    assert still.look("other") == 0.0


async def test_a_partition_of_a_process_that_was_frozen_does_not_hang(shift: Shift) -> None:
    writing, taking = lane(owner(backlogged=True), active=True), lane(owner())
    for each in (writing, taking):
        assert each.stuck(taking=600, writing=60) is None
        shift(3600)
        assert each.stuck(taking=600, writing=60) is None


async def test_a_member_of_a_process_that_was_frozen_does_not_hang(shift: Shift) -> None:
    health = Health(SimpleNamespace, monotonic=asyncio.get_running_loop().time)  # type: ignore[arg-type,return-value]
    metrics = Metrics(CollectorRegistry())
    poller = Poller(SimpleNamespace(consumer=None), {}, {}, OPTIONS, health, metrics, AsyncMock())  # type: ignore[arg-type]
    assert poller.hangs() is None
    shift(3600)
    assert poller.hangs() is None
    assert looks(shift, OPTIONS.poll_limit + 2 * LOOK_SECONDS, poller.hangs) is not None


async def test_a_poll_that_came_back_while_kafka_was_asked_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recovers:
        def __init__(self, *args: object) -> None:
            self.reasons = ["Kafka was not polled"]

        def hangs(self) -> str | None:
            return self.reasons.pop() if self.reasons else None

        async def run(self) -> None:
            await asyncio.Event().wait()

    async def answers(*args: object) -> bool:
        return True

    monkeypatch.setattr(listener, "Poller", Recovers)
    monkeypatch.setattr(listener, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(member, "answers", answers)
    made = a_listener()
    broken = iter([None, None, "the client ended"])
    made._member = SimpleNamespace(broken=lambda: next(broken))  # type: ignore[assignment]
    assert await made._poll_until_it_hangs() == "the client ended"


# --- what hangs, and what begins it anew ---


async def test_a_partition_that_is_read_for_long_does_not_hang_as_long_as_it_is_read(shift: Shift) -> None:
    present = owner()
    taken = lane(present)

    def look() -> str | None:
        present.stats.restored += 1
        return taken.stuck(taking=60, writing=60)

    assert looks(shift, 600, look) is None
    reason = looks(shift, 70, lambda: taken.stuck(taking=60, writing=60))
    assert reason is not None
    assert "WPK_HANG_TIMEOUT" in reason


async def test_a_partition_whose_former_lane_does_not_end_hangs(shift: Shift) -> None:
    waiting = lane(None)
    assert looks(shift, 40, lambda: waiting.stuck(taking=600, writing=30)) is None, "an owner may take a minute to end"
    reason = looks(shift, 40, lambda: waiting.stuck(taking=600, writing=30))
    assert reason is not None
    assert "what ran of it before did not end" in reason


class Hanging:
    """A lane that is active and hangs whenever the test says so."""

    active = True
    hangs = True

    def stuck(self, taking: float, writing: float) -> str | None:
        return "nothing was written" if self.hangs else None


async def test_a_partition_that_hangs_again_and_again_ends_the_agent_although_it_is_taken_each_time() -> None:
    lookout, sick = Lookout(taking=600, writing=60), Hanging()
    for _ in range(TRIES):
        sick.hangs = True
        assert lookout.hung({0: sick}) == {0: "nothing was written"}  # type: ignore[dict-item]
        sick.hangs = False
        assert lookout.hung({0: sick}) == {}  # type: ignore[dict-item]
    sick.hangs = True
    with pytest.raises(Hung, match="partition 0 hangs: nothing was written"):
        lookout.hung({0: sick})  # type: ignore[dict-item]


async def test_what_worked_for_long_is_begun_anew_as_if_for_the_first_time(shift: Shift) -> None:
    lookout, sick = Lookout(taking=600, writing=60), Hanging()
    for _ in range(2 * TRIES):
        sick.hangs = True
        assert lookout.hung({0: sick})  # type: ignore[dict-item]
        sick.hangs = False
        lookout.hung({0: sick})  # type: ignore[dict-item]
        shift(FORGET_SECONDS + 1)
        lookout.hung({0: sick})  # type: ignore[dict-item]


# --- a topic that was made anew ---


@pytest.mark.parametrize(
    ("end", "answers", "taken"),
    [
        pytest.param(3, [KafkaConnectionError("nobody is there"), True], [0, 1, 2], id="made anew"),
        pytest.param(1003, [], [], id="delivered again"),
        pytest.param(998, [False], [], id="delivered again by a leader that does not know the end yet"),
    ],
)
async def test_of_a_topic_that_was_made_anew_all_is_taken_and_of_one_that_was_not_nothing_twice(
    end: int, answers: list[bool | Exception], taken: list[int]
) -> None:
    tp = TopicPartition("wpk.commands.execute", 0)
    consumer = SimpleNamespace(highwater=lambda asked: end)
    going_on = lane(owner(), active=True)
    going_on._inbox.expect({CommandTopic.EXECUTE: 1000})
    poller = Poller(
        SimpleNamespace(consumer=consumer),  # type: ignore[arg-type]
        {0: going_on},
        {tp.topic: CommandTopic.EXECUTE},
        OPTIONS,
        Health(SimpleNamespace),  # type: ignore[arg-type,return-value]
        Metrics(CollectorRegistry()),
        AsyncMock(side_effect=answers),
    )
    records = [SimpleNamespace(offset=n, timestamp=n, key=None, value=b"{}", headers=()) for n in range(3)]
    await poller._look_for_a_topic_made_anew(tp, records)
    poller._hand_over(tp, records)
    found = []
    while (record := going_on._inbox.head(room=True)) is not None:
        found.append(record.offset)
        going_on._inbox.done(record)
    assert found == taken
    assert going_on.next_offset(CommandTopic.EXECUTE) == (3 if taken else 1000)


# --- Kafka is away when the group is to be joined ---


class NewMember:
    """A membership that can't be joined, or is and then brings nothing."""

    consumer = None

    def __init__(self, refusal: Exception | None) -> None:
        self.refusal = refusal

    async def start(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def poll(self) -> dict[object, object]:
        await asyncio.Event().wait()
        return {}

    async def leave(self, within: float) -> None:
        pass

    def broken(self) -> None:
        return None


def a_listener(health: Health | None = None) -> Listener:
    return Listener(
        SimpleNamespace(
            names=TopicNames("wpk"), mode="exactly_once", connection=None, identity=SimpleNamespace(group="g")
        ),  # type: ignore[arg-type]
        SimpleNamespace(on_room=lambda callback: None),  # type: ignore[arg-type]
        OPTIONS,
        Metrics(CollectorRegistry()),
        health or SimpleNamespace(),  # type: ignore[arg-type]
    )


async def test_an_agent_that_can_not_join_since_kafka_is_away_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_PAUSES", (0.001, 0.002))
    health = Health(SimpleNamespace, poll_limit=0.0)  # type: ignore[arg-type,return-value]
    made, members = a_listener(health), [NewMember(KafkaConnectionError("away")) for _ in range(5)]
    members.append(NewMember(None))
    left = iter(members)
    monkeypatch.setattr(made, "_new_member", lambda: next(left))
    made._member = made._new_member()
    consuming = asyncio.create_task(made._consume())
    await eventually(lambda: consuming.done() or made._member is members[-1])
    assert not consuming.done()
    assert health.live()[0] == [], "a restart would not help, and would cost what runs"
    consuming.cancel()
    await asyncio.wait([consuming])


async def test_an_agent_that_may_not_join_ends_with_the_reason() -> None:
    made = a_listener()
    made._member = NewMember(GroupAuthorizationFailedError("wpk-agent"))  # type: ignore[assignment]
    with pytest.raises(GroupAuthorizationFailedError):
        await made._consume()
