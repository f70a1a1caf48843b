"""Dead letters: shown whatever their bytes are, and sent again once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from consumer.client import ClientError, partition_of
from consumer.client.dead_letters import LINK, DeadLetter, DeadLetters
from consumer.journal import topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.reader import LogRecord, open_reader
from consumer.journal.topics import TopicNames
from consumer.ports import CommandTopic, Topic
from tests.support.foreign import foreign_user
from tests.support.kafka import KafkaBroker
from tests.support.processes import agent, create_topics, environment, wpk

pytestmark = pytest.mark.timeout(240)

PARTITIONS = 2


@dataclass(slots=True)
class Post:
    """The topics, and a hand that buries records as an agent does."""

    connection: KafkaConnection
    names: TopicNames
    letters: DeadLetters = field(init=False)

    def __post_init__(self) -> None:
        self.letters = DeadLetters(self.connection, self.names)

    async def bury(
        self, value: bytes | None, key: bytes | None = None, *own: tuple[str, bytes], source: str | None = None
    ) -> DeadLetter:
        topic = source or self.names.name(CommandTopic.EXECUTE)
        about = {"reason": "not_json", "detail": "no JSON", "topic": topic, "partition": "1", "offset": "5"}
        headers = [*own, *((f"wpk-{name}", text.encode()) for name, text in about.items())]
        producer = AIOKafkaProducer(**self.connection.options("test"), acks="all")
        await producer.start()
        try:
            told = await producer.send_and_wait(
                self.names.name(Topic.DEAD_LETTER), value, key=key, partition=1, headers=headers
            )
        finally:
            await producer.stop()
        return await self.letters.one(f"1@{told.offset}")

    async def commands(self) -> list[LogRecord]:
        places = [(self.names.name(CommandTopic.EXECUTE), number) for number in range(PARTITIONS)]
        async with open_reader(self.connection, places) as reader:
            return [record async for record in reader.to_end()]


@pytest.fixture
async def post(embedded_kafka: KafkaBroker, prefix: str) -> AsyncIterator[Post]:
    connection, names = KafkaConnection(bootstrap_servers=embedded_kafka.bootstrap), TopicNames(prefix)
    await topics.create(connection, names, PARTITIONS)
    yield Post(connection, names)


async def test_a_letter_tells_where_it_came_from_and_a_senders_own_headers_hide_nothing(post: Post) -> None:
    letter = await post.bury(b"\xff", b"k", ("wpk-reason", b"all is well"), ("traceparent", b"00"))
    assert (letter.reason, letter.source_partition, letter.source_offset) == ("not_json", 1, 5)
    assert letter.headers == (("wpk-reason", b"all is well"), ("traceparent", b"00"))
    assert (letter.key, letter.value) == (b"k", b"\xff")


async def test_a_record_is_sent_again_once_as_it_came_with_a_link(post: Post) -> None:
    letter = await post.bury(b"{broken", b"some-key", ("traceparent", b"00"))
    assert await post.letters.sent_again(letter) is None
    sent = await post.letters.redrive(letter)
    [record] = await post.commands()
    assert (record.key, record.value, record.partition) == (b"some-key", b"{broken", 1)
    assert record.headers == (("traceparent", b"00"), (LINK, letter.place.encode()))
    assert await post.letters.sent_again(letter) == f"{sent.topic}-{sent.partition}@{sent.offset}"
    with pytest.raises(ClientError, match="was sent again already"):
        await post.letters.redrive(letter)
    await post.letters.redrive(letter, again=True)
    assert len(await post.commands()) == 2


@pytest.mark.parametrize(
    ("corrected", "key"),
    [
        (b'{"workflow_id": "greet-1.0.0"}', None),
        (b'{"execution_id": "mine", "workflow_id": "greet-1.0.0"}', "mine"),
        (b'{"specversion": "1.0", "data": {"execution_id": "mine"}}', "mine"),
    ],
)
async def test_a_record_without_a_key_gets_the_same_one_however_often_it_is_sent(
    post: Post, corrected: bytes, key: str | None
) -> None:
    letter = await post.bury(b"{broken")
    for _ in range(2):
        await post.letters.redrive(letter, corrected, again=True)
    records = await post.commands()
    wanted = key or f"{post.names.name(CommandTopic.EXECUTE)}-1-5"
    assert {record.key for record in records} == {wanted.encode()}
    assert {record.partition for record in records} == {partition_of(wanted, PARTITIONS)}
    assert len(records) == 2


async def test_who_sends_one_again_is_told_the_id_that_the_record_names_before_its_key(post: Post) -> None:
    letter = await post.bury(b"{broken", b"k\xff")
    sent = await post.letters.redrive(letter, b'{"execution_id": "mine"}')
    assert sent.execution_id == "mine"


async def test_what_cannot_be_sent_again_is_refused_with_a_reason(post: Post) -> None:
    elsewhere = await post.bury(b"{}", source="another.topic")
    with pytest.raises(ClientError, match=r"came from 'another.topic', which is no command topic"):
        await post.letters.redrive(elsewhere)
    with pytest.raises(ClientError, match="there is no dead letter at 1@77"):
        await post.letters.one("1@77")
    with pytest.raises(ClientError, match="write PARTITION@OFFSET"):
        await post.letters.one("the last")


@pytest.mark.long
async def test_a_command_that_was_broken_is_corrected_and_runs_once(
    embedded_kafka: KafkaBroker, prefix: str, tmp_path: Path
) -> None:
    variables = environment(embedded_kafka, prefix)
    await create_topics(variables)
    async with agent(variables):
        with foreign_user(embedded_kafka.bootstrap, prefix) as user:
            user.publish("execute", b'\x1b[31m{"broken": \xff\x00')
            await user.until(lambda: user.dead)
            listed = await wpk(variables, "dead-letter", "list", "--json")
            [letter] = [json.loads(line) for line in listed.stdout.splitlines()]
            place = f"{letter['partition']}@{letter['offset']}"
            assert letter["reason"] == "not_json"
            shown = await wpk(variables, "dead-letter", "show", place)
            assert "00000  1b 5b 33 31 6d 7b" in shown.stdout
            assert "\x1b" not in shown.stdout
            delay = {"name": "wait", "type": "delay", "config": {"duration": "1ms"}}
            package = {"metadata": {"name": "late", "version": "1.0.0"}, "spec": {"handlers": [delay]}}
            file = tmp_path / "corrected.json"
            file.write_text(json.dumps({"wpk_content": package}))
            name = f"{letter['source_topic']}-{letter['source_partition']}-{letter['source_offset']}"
            for arguments, code in ((("--file", str(file)), 0), (("--file", str(file)), 2)):
                done = await wpk(variables, "dead-letter", "redrive", place, *arguments)
                assert done.code == code, done.stderr
            assert (await user.result(name))["status"] == "completed"
            assert (await wpk(variables, "dead-letter", "redrive", place, "--file", str(file), "--again")).code == 0
            await user.event(name, "command.duplicate")
            assert user.names(name).count("execution.started") == 1
