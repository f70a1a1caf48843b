"""The registry's topic on real brokers: versions never change, whoever publishes, and runs are what was published."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from consumer.cli import context, published, run
from consumer.cli.options import PackagesOptions, PublishOptions, SubmitOptions
from consumer.client import Client, ClientError, Registry
from consumer.errors import PermanentError
from consumer.journal import topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.publications import Publications
from consumer.journal.reader import read_partition
from consumer.journal.topics import TopicNames
from consumer.settings import Settings
from schemas.canonical import digest
from schemas.events import Status
from tests.support import agents
from tests.support.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(240)


def package(version: str = "1.0.0", duration: str = "0s", name: str = "pause") -> dict[str, Any]:
    step = {"name": "only", "type": "delay", "config": {"duration": duration}}
    return {"metadata": {"name": name, "version": version}, "spec": {"handlers": [step]}}


@pytest.fixture
async def config(kafka: KafkaBroker, prefix: str) -> Settings:
    made = agents.settings(kafka, prefix)
    await agents.create_topics(made)
    return made


@pytest.fixture
def connection(config: Settings) -> KafkaConnection:
    return KafkaConnection.of(config, client_id="test")


@pytest.fixture
def names(prefix: str) -> TopicNames:
    return TopicNames(prefix)


@pytest.fixture
def registry(connection: KafkaConnection, names: TopicNames) -> Registry:
    return Client(connection, names).registry()


@pytest.fixture
async def producer(config: Settings) -> AsyncIterator[AIOKafkaProducer]:
    made = AIOKafkaProducer(bootstrap_servers=config.kafka_bootstrap_servers)
    await made.start()
    yield made
    await made.stop()


async def test_a_version_is_published_once_and_never_changes(
    registry: Registry, connection: KafkaConnection, names: TopicNames
) -> None:
    first = await registry.publish(package(), published_by="alice")
    again = await registry.publish(package(), published_by="bob")
    assert (first.new, again.new) == (True, False)
    assert again.package == first.package
    with pytest.raises(
        ClientError, match=r"pause-1\.0\.0 is there with another content .* by alice.* raise metadata\.version"
    ):
        await registry.publish(package(duration="1s"))
    await registry.publish(package("1.1.0-rc.1"))

    other = Client(connection, names).registry()  # who has seen nothing of this yet
    assert [each.workflow_id for each in await other.packages()] == ["pause-1.0.0", "pause-1.1.0-rc.1"]
    assert await other.package("pause-1.0.0") == package()
    assert await other.package(digest(package("1.1.0-rc.1"))) == package("1.1.0-rc.1")
    with pytest.raises(ClientError, match=r'no package "pause-1\.0"; .*wpk packages'):
        await other.package("pause-1.0")
    with pytest.raises(ClientError, match=r"there are pause-1\.0\.0, pause-1\.1\.0-rc\.1"):
        await other.package("pause-3.0.0")


async def test_of_those_who_publish_a_version_at_once_one_wins_and_the_others_know(
    connection: KafkaConnection, names: TopicNames
) -> None:
    hands = [Client(connection, names).registry() for _ in range(3)]
    came = await asyncio.gather(
        *(hand.publish(package(duration=f"{number}s")) for number, hand in enumerate(hands)), return_exceptions=True
    )
    won = [each for each in came if not isinstance(each, BaseException)]
    lost = [each for each in came if isinstance(each, ClientError)]
    assert (len(won), len(lost)) == (1, 2), came
    reader = Client(connection, names).registry()
    assert [each.digest for each in await reader.packages()] == [won[0].package.digest]
    newest = {
        record.key: record.value
        async for record in read_partition(connection, names.name(topics.SharedTopic.REGISTRY), 0)
    }
    assert len([value for value in newest.values() if value is not None]) == 1, "who lost took its record out"


async def test_the_first_record_counts_whatever_is_written_after_it(
    registry: Registry, connection: KafkaConnection, names: TopicNames, producer: AIOKafkaProducer
) -> None:
    await registry.publish(package())
    topic = names.name(topics.SharedTopic.REGISTRY)
    records = [record async for record in read_partition(connection, topic, 0)]
    value = records[0].value or b""
    forged = value.replace(b'"0s"', b'"9s"')
    second = forged.replace(digest(package()).encode(), digest(package(duration="9s")).encode())
    for number, bad in enumerate((forged, b"no json", b'{"workflow_id": "x"}', second)):
        await producer.send_and_wait(topic, bad, key=b"stray %d" % number, partition=0)
    await registry.publish(package("2.0.0"))

    reader = Client(connection, names).registry()
    assert await reader.package("pause-1.0.0") == package()
    assert [each.workflow_id for each in await reader.packages()] == ["pause-1.0.0", "pause-2.0.0"]


async def test_what_was_taken_out_of_the_topic_is_not_found_any_more(
    registry: Registry, connection: KafkaConnection, names: TopicNames, producer: AIOKafkaProducer
) -> None:
    outcome = await registry.publish(package())
    before = Publications(connection, names)
    assert (await before.resolve("pause-1.0.0")).content == package()
    topic = names.name(topics.SharedTopic.REGISTRY)
    await producer.send_and_wait(topic, None, key=outcome.package.key, partition=0)
    for reader in (before, Publications(connection, names)):
        await reader.refresh()
        with pytest.raises(PermanentError) as caught:
            await reader.resolve("pause-1.0.0")
        assert caught.value.code == "unknown_package"


async def test_without_the_topic_all_is_said_and_nothing_is_created(kafka: KafkaBroker, prefix: str) -> None:
    connection = KafkaConnection.of(agents.settings(kafka, prefix), client_id="test")
    for _ in range(2):
        with pytest.raises(ClientError, match="wpk topics create"):
            await Client(connection, TopicNames(prefix)).registry().packages()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    found = await admin.list_topics()
    await admin.close()
    assert not [name for name in found if name.startswith(prefix)]


async def test_a_command_that_names_a_published_package_runs_it(config: Settings, registry: Registry) -> None:
    async with agents.running(config), agents.user(config) as user:
        await user.publish("execute", {"workflow_id": "pause-1.0.0"}, "early")
        refused = await user.over("early")
        outcome = await registry.publish(package())  # the agent runs already and has read the topic
        await user.publish("execute", {"workflow_id": "pause-1.0.0"}, "named")
        await user.publish("execute", {"workflow_id": outcome.package.digest}, "by-digest")
        states = [await user.over(name) for name in ("named", "by-digest")]
        user.assert_whole("named")

    assert refused.status is Status.REJECTED
    assert "wpk publish FILE" in (refused.error_message or "")
    assert [(state.status, state.workflow_id, state.wpk_digest) for state in states] == [
        (Status.COMPLETED, "pause-1.0.0", outcome.package.digest)
    ] * 2


async def test_the_command_line_publishes_lists_and_runs_by_name(
    config: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(context, "_quiet", lambda *, verbose: None)  # it is not to last for the tests after this one
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", config.kafka_bootstrap_servers)
    monkeypatch.setenv("WPK_TOPIC_PREFIX", config.topic_prefix)
    file = tmp_path / "pause.json"
    file.write_text(json.dumps(package()))
    assert await published.publish(PublishOptions(file=str(file), published_by="alice")) == 0
    assert "run it with: wpk submit pause-1.0.0" in capfd.readouterr().out
    file.write_text(json.dumps(package(duration="1s")))
    with pytest.raises(ClientError, match="never changes"):
        await published.publish(PublishOptions(file=str(file)))

    assert await published.listed(PackagesOptions()) == 0
    assert f"alice  {digest(package())}" in capfd.readouterr().out
    assert await published.listed(PackagesOptions(reference="nothing")) == 1
    assert await published.listed(PackagesOptions(reference="pause-1.0.0")) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1]) == package()
    async with agents.running(config):
        assert await run.submit(SubmitOptions(file="pause-1.0.0", watch=True)) == 0
    assert "its package is pause-1.0.0 of" in capfd.readouterr().out
