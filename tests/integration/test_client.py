"""The client against real brokers: commands arrive whole, events come in order, states are those that count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import pytest
from aiokafka import AIOKafkaProducer

from consumer.client import (
    Client,
    ClientError,
    Filter,
    Follower,
    Published,
    TimedOut,
    UnknownExecution,
    Unreachable,
    partition_of,
)
from consumer.journal import lineage, topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.reader import read_partition
from consumer.journal.topics import TopicNames
from consumer.ports import CommandTopic, Topic
from schemas import events
from schemas.commands import ControlCommand, ExecuteCommand
from schemas.events import Source, Status
from schemas.failure import Problem
from tests.support.kafka import KafkaBroker
from tests.support.stories import Story, Told, done

pytestmark = pytest.mark.timeout(240)

PARTITIONS = 3
PATIENCE = 60.0


@dataclass(slots=True)
class House:
    """The topics of one test, a client of them, and a hand that writes what an agent would."""

    connection: KafkaConnection
    names: TopicNames
    client: Client
    producer: AIOKafkaProducer

    async def publish(self, told: Iterable[Told]) -> None:
        """Writes events, each to its topic, on the partition of its execution."""
        for each in told:
            topic = self.names.name(Topic(each.event.data.channel))
            await self._write(topic, each.event.subject, each.value)

    async def lay_down(self, story: Story, *, epoch: int | None = None) -> None:
        """Writes the state that the story ends with."""
        headers = [] if epoch is None else [(lineage.EPOCH_HEADER, str(epoch).encode())]
        for key, value in story.snapshot().items():
            await self._write(self.names.name(Topic.STATE), key, value, story.execution_id, headers)

    async def claim(self, execution_id: str, agent: str, after: int | None) -> int:
        """A new owner of the execution's partition; its epoch."""
        claim = lineage.Claim(agent=agent, group="g", at="2026-03-01T12:00:00Z", after=after, token=agent)
        key = lineage.OWNER_KEY.decode()
        return await self._write(self.names.name(Topic.STATE), key, claim.encode(), execution_id)

    async def _write(
        self,
        topic: str,
        key: str,
        value: bytes,
        execution_id: str | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> int:
        number = partition_of(execution_id or key, PARTITIONS)
        metadata = await self.producer.send_and_wait(
            topic, value, key=key.encode(), partition=number, headers=list(headers)
        )
        offset: int = metadata.offset
        return offset


@pytest.fixture
async def house(kafka: KafkaBroker, prefix: str) -> AsyncIterator[House]:
    connection = KafkaConnection(bootstrap_servers=kafka.bootstrap)
    names = TopicNames(prefix)
    await topics.create(connection, names, PARTITIONS)
    producer = AIOKafkaProducer(**connection.options("test"), acks="all")
    await producer.start()
    try:
        yield House(connection, names, Client(connection, names), producer)
    finally:
        await producer.stop()


async def names_until_over(
    follower: Follower, *, answer_to: Published | None = None, after: int | None = None
) -> list[str]:
    async with asyncio.timeout(PATIENCE), aclosing(follower.events(answer_to=answer_to, after=after)) as found:
        return [event.name async for event in found]


@asynccontextmanager
async def in_background(work: asyncio.Task[list[str]]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        work.cancel()
        await asyncio.wait([work])


async def test_a_published_command_arrives_whole_on_the_partition_of_its_key(house: House) -> None:
    command = ExecuteCommand(workflow_id="greet-1.0.0", parameters={"who": "wörld"}, labels={"team": "x"})
    async with house.client.publisher() as publisher:
        published = await publisher.publish(command)
    assert published.partition == partition_of(published.execution_id, PARTITIONS)
    topic = house.names.name(CommandTopic.EXECUTE)
    assert published.topic == topic
    async with aclosing(read_partition(house.connection, topic, published.partition)) as records:
        [record] = [record async for record in records]
    assert (record.offset, record.key) == (published.offset, published.execution_id.encode())
    assert json.loads(record.value or b"") == {
        "execution_id": published.execution_id,
        "workflow_id": "greet-1.0.0",
        "parameters": {"who": "wörld"},
        "labels": {"team": "x"},
    }


async def test_a_command_that_is_too_large_is_refused_with_a_remedy_before_it_is_sent(house: House) -> None:
    async with house.client.publisher() as publisher:
        with pytest.raises(ClientError, match="make the package smaller"):
            await publisher.publish(ExecuteCommand(wpk_content={"x": "y" * 1_100_000}))


async def test_a_follower_that_was_there_before_misses_nothing_and_ends_with_the_result(house: House) -> None:
    await house.publish(done("before"))
    story = done("e1")
    async with house.client.follower("e1", since="now") as follower:
        await house.publish(story)
        assert await names_until_over(follower) == [told.event.name for told in story]
        assert follower.state == story.state


async def test_events_that_come_out_of_order_and_twice_are_given_once_and_in_order(house: House) -> None:
    story = done("e1")
    shuffled = [story.told[0], *reversed(story.told), *story.told]
    await house.publish(shuffled)
    async with house.client.follower("e1") as follower:
        assert await names_until_over(follower) == [told.event.name for told in story]


async def test_foreign_records_and_other_executions_are_passed_over(house: House) -> None:
    await house.publish(done("other"))
    await house._write(house.names.name(Topic.PROGRESS), "e1", b"no event at all")
    await house.publish(done("e1"))
    async with house.client.follower("e1") as follower:
        assert len(await names_until_over(follower)) == len(done("e1").told)


async def test_an_event_that_is_gone_for_good_does_not_hold_up_those_after_it(house: House) -> None:
    story = done("e1")
    await house.publish(told for told in story if told.event.name != "log.lines")
    async with house.client.follower("e1") as follower:
        found = await names_until_over(follower)
    assert found == [told.event.name for told in story if told.event.name != "log.lines"]
    history = await house.client.history("e1")
    assert history.missing == 1
    assert history.state.status is Status.COMPLETED


async def test_watching_a_command_waits_for_its_own_answer_though_the_run_ended_long_ago(house: House) -> None:
    story = done("e1")
    await house.publish(story)
    mine = Published(execution_id="e1", topic=house.names.name(CommandTopic.ROLLBACK), partition=0, offset=5)
    source = Source(topic=mine.topic, partition=0, offset=5)
    before = story.state.seq
    async with house.client.follower("e1") as follower:
        watching = asyncio.create_task(names_until_over(follower, answer_to=mine, after=before))
        async with in_background(watching):
            story.rolling_back("undo", source=source).step_started("undo", phase="rollback")
            story.step_succeeded("undo", phase="rollback").rolled_back()
            await house.publish(story.told[before:])
            assert (await watching)[-1] == "execution.rolled_back"


@pytest.mark.parametrize("undone", [True, False])
async def test_an_answer_is_waited_for_behind_an_old_result_without_being_told_where_that_lies(
    house: House, undone: bool
) -> None:
    story = done("e1")
    await house.publish(story)
    mine = Published(execution_id="e1", topic=house.names.name(CommandTopic.ROLLBACK), partition=0, offset=5)
    source = Source(topic=mine.topic, partition=0, offset=5)
    before = story.state.seq
    async with house.client.follower("e1") as follower, aclosing(follower.events(answer_to=mine)) as found:
        async with asyncio.timeout(PATIENCE):
            given = [(await anext(found)).name for _ in range(before)]  # up to the old result
            if undone:
                story.rolling_back("undo", source=source).step_started("undo", phase="rollback")
                story.step_succeeded("undo", phase="rollback").rolled_back()
            else:
                problem = Problem(path="execution_id", message="it has ended")
                story.tell(events.CommandRejected(command="rollback", errors=(problem,), source=source))
            await house.publish(story.told[before:])
            given += [event.name async for event in found]
    assert given == [told.event.name for told in story]


async def test_the_refusal_of_a_command_ends_its_watch_also_where_the_id_is_unknown(house: House) -> None:
    mine = Published(execution_id="no-one", topic=house.names.name(CommandTopic.CONTROL), partition=0, offset=0)
    problem = Problem(path="execution_id", message="not known")
    refusal = Story("no-one").tell(
        events.CommandRejected(
            command="control", errors=(problem,), source=Source(topic=mine.topic, partition=0, offset=0)
        ),
        events.ExecutionRejected(completed_at=Story().now, command="control", errors=(problem,)),
    )
    await house.publish(refusal)
    async with house.client.follower("no-one") as follower:
        found = await names_until_over(follower, answer_to=mine)
    assert found == ["command.rejected", "execution.rejected"]


async def test_a_result_that_is_there_is_given_at_once_and_one_to_come_is_waited_for(house: House) -> None:
    await house.lay_down(done("past"))
    assert (await house.client.result("past", timeout=PATIENCE)).status is Status.COMPLETED
    story = done("future")
    await house.publish(story.told[:3])
    waiting = asyncio.create_task(house.client.result("future", timeout=PATIENCE))
    await house.publish(story.told[3:])
    assert (await waiting).outputs == {"said": "good morning"}


async def test_a_result_that_does_not_come_is_a_time_out_that_says_how_it_stands(house: House) -> None:
    await house.publish(Story("slow").accepted().started("one").step_started("one"))
    with pytest.raises(TimedOut, match="slow did not end within 3 s"):
        await house.client.result("slow", timeout=3)
    with pytest.raises(TimedOut, match="does one run"):
        await house.client.result("never-sent", timeout=0.5)


async def test_the_status_is_the_newest_snapshot_with_its_outputs_put_together(house: House) -> None:
    story = done("e1")
    await house.lay_down(Story("e1").accepted())
    await house.lay_down(story)
    state = await house.client.status("e1")
    assert state == story.state
    assert state.steps["hello"].output == {"stdout": "good morning\n"}


async def test_what_a_fenced_owner_wrote_into_the_state_counts_for_nobody(house: House) -> None:
    first = await house.claim("e1", "old", None)
    running = Story("e1").accepted().started("one").step_started("one")
    await house.lay_down(running, epoch=first)
    second = await house.claim("e1", "new", first)
    await house.lay_down(done("e1"), epoch=second)
    await house.lay_down(running, epoch=first)
    assert (await house.client.status("e1")).status is Status.COMPLETED
    [listed] = (await house.client.executions()).executions
    assert listed.status is Status.COMPLETED


async def test_the_status_of_a_forgotten_execution_comes_from_its_events(house: House) -> None:
    story = done("e1")
    await house.publish(story)
    assert await house.client.status("e1") == story.state
    with pytest.raises(UnknownExecution, match="no such id, or its retention has passed"):
        await house.client.status("e2")


async def test_executions_of_all_partitions_are_listed_newest_first_and_filtered(house: House) -> None:
    stories = [Story(f"e{number}") for number in range(8)]
    for number, story in enumerate(stories):
        story.now = story.now.replace(minute=number)
        story.accepted()
        if number % 2:
            story.started("one").failed("no luck")
        await house.lay_down(story)
    assert len({partition_of(story.execution_id, PARTITIONS) for story in stories}) > 1
    listing = await house.client.executions()
    assert [state.execution_id for state in listing.executions] == [f"e{number}" for number in reversed(range(8))]
    newest = await house.client.executions(most=3)
    assert ([state.execution_id for state in newest.executions], newest.more) == (["e7", "e6", "e5"], 5)
    failed = await house.client.executions(Filter(statuses=frozenset({Status.FAILED}), since=stories[4].now))
    assert [state.execution_id for state in failed.executions] == ["e7", "e5"]
    assert (await house.client.executions(Filter(workflow="another"))).executions == []
    assert len((await house.client.executions(Filter(workflow="greet-1.0.0"))).executions) == 8


async def test_a_state_that_cannot_be_read_is_counted_and_hides_no_other(house: House) -> None:
    await house.lay_down(done("good"))
    await house._write(house.names.name(Topic.STATE), "bad", b'{"status": 12}')
    listing = await house.client.executions()
    assert [state.execution_id for state in listing.executions] == ["good"]
    assert listing.unreadable == 1
    with pytest.raises(ClientError, match="can't be read"):
        await house.client.status("bad")


async def test_topics_that_are_missing_are_named_with_the_remedy(kafka: KafkaBroker, prefix: str) -> None:
    client = Client(KafkaConnection(bootstrap_servers=kafka.bootstrap), TopicNames(prefix))
    for work in (client.status("e1"), client.executions(), client.result("e1", timeout=1)):
        with pytest.raises(ClientError, match=rf"{prefix}.state not found on this broker; create with: wpk topics"):
            await work
    with pytest.raises(ClientError, match=f"{prefix}.commands.execute, {prefix}.commands.rollback"):
        async with client.publisher() as publisher:
            await publisher.publish(ControlCommand(execution_id="e1", action="cancel"))


async def test_a_broker_that_is_not_there_is_unreachable_in_one_sentence() -> None:
    client = Client(KafkaConnection(bootstrap_servers="127.0.0.1:9"), TopicNames("wpk"))
    with pytest.raises(Unreachable, match=r"cannot reach Kafka at 127.0.0.1:9: the connection was refused"):
        await client.status("e1")
    with pytest.raises(Unreachable, match=r"127.0.0.1:9"):
        async with client.publisher():
            pytest.fail("there is no broker")
    with pytest.raises(Unreachable, match=r"127.0.0.1:9"):
        async with client.follower("e1"):
            pytest.fail("there is no broker")
