"""A member leaves the group and ends its connections, whatever the Kafka client does on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from consumer.intake.member import Member
from consumer.journal import topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.ports import CommandTopic
from tests.support.kafka import KafkaBroker


def _cancelled() -> None:
    raise asyncio.CancelledError


def _failed() -> None:
    raise KafkaError("an answer that nobody knows")


@pytest.mark.parametrize("harm", [_cancelled, _failed], ids=["cancelled", "failed"])
async def test_a_client_whose_stop_breaks_off_leaves_nothing_behind(
    apache_kafka: KafkaBroker, prefix: str, harm: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = KafkaConnection(bootstrap_servers=apache_kafka.bootstrap)
    names = TopicNames(prefix)
    await topics.create(connection, names, 1)
    consumer = AIOKafkaConsumer(**connection.options("intake"), group_id=prefix, fetch_max_wait_ms=5_000)
    consumer.subscribe(topics=[names.name(CommandTopic.EXECUTE)])
    member = Member(consumer, prefix)
    await member.start()

    async def close() -> None:
        harm()

    monkeypatch.setattr(consumer._fetcher, "close", close)
    await member.leave(4.0)
    assert not [conn for conn in consumer._client._conns.values() if conn.connected()]
    # That no task outlives the test is what tests.conftest looks at.
