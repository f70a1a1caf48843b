"""Records of 10 MB on the command topics of a real Apache Kafka, whose operators let in more than agents take."""

from __future__ import annotations

import json

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from consumer.settings import Settings
from schemas.events import Status
from tests.support import agents
from tests.support.kafka import KafkaBroker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
MB = 1 << 20


def let_in(kafka: KafkaBroker, topic: str, size: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(30)


def publish(config: Settings, role: str, values: list[bytes], key: str) -> None:
    producer = Producer(
        {
            "bootstrap.servers": config.kafka_bootstrap_servers,
            "message.max.bytes": 16 * MB,
            "partitioner": "murmur2_random",
        }
    )
    refused: list[object] = []
    for value in values:
        producer.produce(
            f"{config.topic_prefix}.commands.{role}",
            value,
            key=key,
            on_delivery=lambda error, _message: refused.append(error) if error else None,
        )
    assert producer.flush(60) == 0
    assert not refused


async def test_records_of_ten_megabytes_become_dead_letters_and_the_commands_behind_them_run(
    apache_kafka: KafkaBroker, prefix: str
) -> None:
    config = agents.settings(apache_kafka, prefix)
    await agents.create_topics(config)
    for role in ("execute", "control"):
        let_in(apache_kafka, f"{prefix}.commands.{role}", 16 * MB)
    wait = {"name": "wait", "type": "delay", "config": {"duration": "0s"}}
    package = {"metadata": {"name": "large", "version": "1.0.0"}, "spec": {"handlers": [wait]}}
    command = {"execution_id": "e1", "wpk_content": package}
    padded = {"execution_id": "e1", "wpk_content": {**package, "x-padding": "x" * 10 * MB}}
    large = [
        json.dumps(padded).encode(),
        b"[" * 10 * MB,
        b"\x00\xff" * 5 * MB,
        b'{"execution_id": "e1", "wpk_content": "' + b"a: &a [*a]\\n" * MB + b'"}',
    ]
    async with agents.running(config), agents.user(config) as topics:
        publish(config, "control", large[:1], "e1")
        publish(config, "execute", [*large, json.dumps(command).encode()], "e1")
        state = await topics.over("e1")
        assert state.status is Status.COMPLETED
        await topics.until("e1", lambda _: len(topics.dead) > len(large))

    assert {dict(record.headers)["wpk-reason"] for record in topics.dead} == {b"too_large"}
    beginnings = {value[:1024] for value in large}
    assert {record.value[:1024] for record in topics.dead} == beginnings, "what came can still be seen"
    assert all(len(record.value) <= MB for record in topics.dead)
