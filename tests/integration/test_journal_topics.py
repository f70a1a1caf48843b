"""Topics, the probe and the reader on real brokers."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from datetime import UTC, datetime

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from consumer.errors import SettingsError
from consumer.journal import probe, topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.owner import Limits
from consumer.journal.reader import open_reader, read_partition
from consumer.journal.topics import TopicNames
from consumer.ports import CommandTopic, Record, Topic
from tests.support.journal_house import house_on
from tests.support.kafka import KafkaBroker


@pytest.fixture
def connection(kafka: KafkaBroker) -> KafkaConnection:
    return KafkaConnection(bootstrap_servers=kafka.bootstrap)


async def make(connection: KafkaConnection, *new: NewTopic) -> None:
    """Creates topics as an administrator would who does not know the agent."""
    admin = AIOKafkaAdminClient(**connection.options())
    await admin.start()
    try:
        response = await admin.create_topics(list(new))
        assert all(error[1] == 0 for error in response.topic_errors), response
    finally:
        await admin.close()


async def fill(connection: KafkaConnection, topic: str, partition: int, values: list[str]) -> None:
    """Sends one batch after the other, each of three records at most."""
    producer = AIOKafkaProducer(**connection.options(), acks="all")
    await producer.start()
    try:
        for first in range(0, len(values), 3):
            chunk = values[first : first + 3]
            sent = [await producer.send(topic, value.encode(), partition=partition) for value in chunk]
            await asyncio.gather(*sent)
    finally:
        await producer.stop()


# --- topics -----------------------------------------------------------------------------------------------------


async def test_created_topics_are_as_the_agent_wants_them(connection: KafkaConnection, prefix: str) -> None:
    names = TopicNames(prefix)
    created = await topics.create(connection, names, 4)
    assert sorted(created) == sorted(names.name(role) for role in topics.ROLES)
    report = await topics.check(connection, names, partitions=4)
    assert report.partitions == 4
    assert report.problems == ()
    assert report.record_limit > 2_000_000


async def test_creating_again_changes_nothing(connection: KafkaConnection, prefix: str) -> None:
    names = TopicNames(prefix)
    await topics.create(connection, names, 2)
    assert await topics.create(connection, names, 5) == []
    assert (await topics.check(connection, names)).partitions == 2


async def test_agents_that_create_at_the_same_time_do_not_disturb_each_other(
    connection: KafkaConnection, prefix: str
) -> None:
    names = TopicNames(prefix)
    created = await asyncio.gather(*(topics.create(connection, names, 2) for _ in range(3)))
    assert sorted(name for each in created for name in each) == sorted(names.name(role) for role in topics.ROLES)


async def test_checking_says_what_is_missing_and_creates_nothing(connection: KafkaConnection, prefix: str) -> None:
    names = TopicNames(prefix)
    for _ in range(2):
        report = await topics.check(connection, names)
        assert report.partitions is None
        assert len(report.problems) == len(topics.ROLES)
        assert [str(problem) for problem in report.problems if not problem.fatal] == [
            f"{prefix}.registry: does not exist: commands that only name their package are refused; "
            "run `wpk topics create`"
        ]
        assert str(report.problems[0]) == f"{prefix}.commands.execute: does not exist; run `wpk topics create`"


async def test_unequal_partition_counts_and_wrong_policies_are_fatal(connection: KafkaConnection, prefix: str) -> None:
    names = TopicNames(prefix)
    state, rollback = names.name(Topic.STATE), names.name(CommandTopic.ROLLBACK)
    await make(
        connection,
        NewTopic(state, 3, 1, topic_configs={"cleanup.policy": "delete"}),
        NewTopic(rollback, 2, 1, topic_configs={"cleanup.policy": "delete"}),
    )
    await topics.create(connection, names, 3)
    report = await topics.check(connection, names)
    assert report.partitions is None
    found = {problem.topic: problem for problem in report.fatal}
    assert "has 2 partitions, others have 3" in str(found[rollback])
    assert "--alter" in found[rollback].remedy
    assert "the state would expire" in str(found[state])


async def test_a_setting_that_the_topics_contradict_is_told_but_not_fatal(
    connection: KafkaConnection, prefix: str
) -> None:
    names = TopicNames(prefix)
    await topics.create(connection, names, 3)
    report = await topics.check(connection, names, partitions=12)
    assert report.fatal == ()
    assert [problem.remedy for problem in report.problems] == ["set WPK_PARTITIONS=3, or use another WPK_TOPIC_PREFIX"]


async def test_a_topic_that_takes_only_small_records_lowers_the_limit(connection: KafkaConnection, prefix: str) -> None:
    names = TopicNames(prefix)
    settings = topics.wanted_settings(Topic.LOGS) | {"max.message.bytes": "100000"}
    await make(connection, NewTopic(names.name(Topic.LOGS), 3, 1, topic_configs=settings))
    await topics.create(connection, names, 3)
    report = await topics.check(connection, names)
    assert report.record_limit < 100_000
    assert "max.message.bytes is 100000" in str(report.problems[0])


async def test_batches_stay_below_what_the_topics_take(connection: KafkaConnection, prefix: str) -> None:
    names = TopicNames(prefix)
    settings = topics.wanted_settings(Topic.LOGS) | {"max.message.bytes": "100000"}
    await make(connection, NewTopic(names.name(Topic.LOGS), 1, 1, topic_configs=settings))
    await topics.create(connection, names, 1)
    report = await topics.check(connection, names)
    async with house_on(connection.bootstrap_servers, prefix, "at_least_once") as house:
        owner = house.owner(limits=Limits(record_bytes=report.record_limit))
        await owner.open()
        line = Record(Topic.LOGS, b"k", b"x" * 30_000)
        await asyncio.gather(*(owner.append([line]) for _ in range(20)))
        assert len(await house.read(Topic.LOGS, at_least=20)) == 20


async def test_topics_of_a_broker_that_is_not_there_are_explained() -> None:
    connection = KafkaConnection(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(SettingsError, match=r"Kafka at 127\.0\.0\.1:1: the connection was refused"):
        await topics.check(connection, TopicNames("wpk"))


# --- the probe --------------------------------------------------------------------------------------------------


async def test_the_probe_tells_which_guarantee_the_broker_can_give(
    kafka: KafkaBroker, connection: KafkaConnection, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        guarantee = await probe.decide(connection, "auto", f"{prefix}-probe")
    assert guarantee.mode == ("exactly_once" if kafka.kind == "apache" else "at_least_once")
    assert "transactions" in guarantee.reason
    assert not caplog.records


async def test_exactly_once_is_refused_where_it_can_not_be_had(embedded_kafka: KafkaBroker, prefix: str) -> None:
    connection = KafkaConnection(bootstrap_servers=embedded_kafka.bootstrap)
    with pytest.raises(SettingsError, match="set it to at_least_once or auto"):
        await probe.decide(connection, "exactly_once", f"{prefix}-probe")


async def test_at_least_once_is_taken_where_it_is_asked_for(connection: KafkaConnection, prefix: str) -> None:
    guarantee = await probe.decide(connection, "at_least_once", f"{prefix}-probe")
    assert guarantee.mode == "at_least_once"


async def test_a_broker_that_is_not_there_is_no_reason_for_a_weaker_guarantee() -> None:
    connection = KafkaConnection(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(SettingsError, match="refused"):
        await probe.decide(connection, "auto", "probe")


# --- the reader -------------------------------------------------------------------------------------------------


async def test_a_partition_is_read_from_its_beginning_to_its_present_end(
    connection: KafkaConnection, prefix: str
) -> None:
    await make(connection, NewTopic(prefix, 2, 1))
    values = [str(number) for number in range(20)]
    await fill(connection, prefix, 1, values)
    records = [record async for record in read_partition(connection, prefix, 1)]
    assert [(record.offset, record.value) for record in records] == [
        (number, value.encode()) for number, value in enumerate(values)
    ]
    assert [record async for record in read_partition(connection, prefix, 0)] == []


@pytest.mark.parametrize(
    ("start", "until", "expected"),
    [
        pytest.param(5, None, range(5, 10), id="from an offset"),
        pytest.param(10, None, range(0), id="from the end"),
        pytest.param("beginning", 4, range(4), id="to an offset"),
        pytest.param(2, 3, range(2, 3), id="one record"),
    ],
)
async def test_a_part_of_a_partition_is_read(
    connection: KafkaConnection, prefix: str, start: int, until: int | None, expected: range
) -> None:
    await make(connection, NewTopic(prefix, 1, 1))
    await fill(connection, prefix, 0, [str(number) for number in range(10)])
    async with aclosing(read_partition(connection, prefix, 0, start, until)) as records:
        offsets = [record.offset async for record in records]
    assert offsets == list(expected)


async def test_reading_can_begin_at_a_moment(connection: KafkaConnection, prefix: str) -> None:
    await make(connection, NewTopic(prefix, 1, 1))
    producer = AIOKafkaProducer(**connection.options(), acks="all")
    await producer.start()
    now = int(time.time() * 1000)
    try:
        for number in range(6):
            await producer.send_and_wait(prefix, str(number).encode(), partition=0, timestamp_ms=now + number * 1000)
    finally:
        await producer.stop()

    async def since(milliseconds: int) -> list[bytes | None]:
        moment = datetime.fromtimestamp((now + milliseconds) / 1000, UTC)
        return [record.value async for record in read_partition(connection, prefix, 0, moment)]

    assert await since(2500) == [b"3", b"4", b"5"]
    assert await since(-60_000) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert await since(60_000) == []


async def test_several_partitions_are_read_together_and_then_followed(connection: KafkaConnection, prefix: str) -> None:
    await make(connection, NewTopic(prefix, 3, 1))
    for partition in range(2):
        await fill(connection, prefix, partition, [f"{partition}-{number}" for number in range(4)])
    async with open_reader(connection, [(prefix, partition) for partition in range(3)]) as reader:
        seen = [record.value async for record in reader.to_end()]
        assert sorted(seen) == sorted(f"{partition}-{number}".encode() for partition in range(2) for number in range(4))
        async with aclosing(reader.follow()) as later:
            await fill(connection, prefix, 2, ["new"])
            async with asyncio.timeout(60):
                assert (await anext(later)).value == b"new"


async def test_reading_that_stands_still_fails_instead_of_waiting_for_ever(
    kafka: KafkaBroker, connection: KafkaConnection, prefix: str
) -> None:
    await make(connection, NewTopic(prefix, 1, 1))
    await fill(connection, prefix, 0, ["1"])
    async with open_reader(connection, [(prefix, 0)], stall=1) as reader:
        assert [record.value async for record in reader.to_end()] == [b"1"]
        await asyncio.to_thread(kafka.pause)
        try:
            await reader.start_at({(prefix, 0): 0})
            with pytest.raises(TimeoutError):
                _ = [record async for record in reader.to_end()]
        finally:
            await asyncio.to_thread(kafka.resume)


async def test_a_foreign_consumer_needs_nothing_of_ours(
    connection: KafkaConnection, kafka: KafkaBroker, prefix: str
) -> None:
    names = TopicNames(prefix)
    await topics.create(connection, names, 1)
    await fill(connection, names.name(Topic.RESULTS), 0, ["done"])
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(names.name(Topic.RESULTS), 0)])
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            assert (await consumer.getone()).value == b"done"
    finally:
        await consumer.stop()
