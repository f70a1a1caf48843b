"""An agent that is started before its Kafka waits for it, and does not wait for what no time mends."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import trustme
from aiokafka import errors

from consumer.errors import KafkaRefused, SettingsError
from consumer.journal import diagnosis, reach
from consumer.journal.connection import KafkaConnection
from tests.support import agents
from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker


def unused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


async def asked(port: int, path: str) -> tuple[int, str]:
    """What the agent's probe says."""

    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    return await asyncio.to_thread(get)


async def relay(broker: KafkaBroker, port: int) -> asyncio.Server:
    """The broker, from now on at that port too."""
    host, _, target = broker.bootstrap.rpartition(":")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(target))
        await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

    return await asyncio.start_server(serve, "127.0.0.1", port)


@pytest.mark.long
async def test_an_agent_that_is_started_before_its_broker_waits_alive_and_not_ready(
    embedded_kafka: KafkaBroker, prefix: str
) -> None:
    await agents.create_topics(agents.settings(embedded_kafka, prefix))
    port, probes = unused_port(), unused_port()
    config = agents.settings(
        embedded_kafka, prefix, kafka_bootstrap_servers=f"127.0.0.1:{port}", prometheus_port=probes
    )

    async def live() -> None:
        async with agents.running(config):
            pass

    living = asyncio.create_task(live())
    try:

        async def waits() -> bool:
            status, text = await asked(probes, "/readyz")
            return status == 503 and any("connection was refused" in each for each in json.loads(text)["problems"])

        await eventually(waits, because="/readyz says why")
        assert (await asked(probes, "/healthz"))[0] == 200
        assert not living.done()
        async with await relay(embedded_kafka, port):
            await living  # it becomes ready, and is stopped
    finally:
        living.cancel()
        await asyncio.wait([living])


class Asked:
    """Fails as often as the test says, and counts."""

    def __init__(self, *failures: SettingsError) -> None:
        self.failures = list(failures)
        self.times = 0

    async def __call__(self) -> str:
        self.times += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


def failed(text: str, cause: Exception | None) -> SettingsError:
    error = SettingsError(text)
    error.__cause__ = cause
    return error


async def test_it_is_asked_until_kafka_answers_and_told_why_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_PAUSES", (0.0, 0.0))
    told: list[str] = []
    ask = Asked(failed("away", errors.KafkaConnectionError()), failed("starts", errors.NodeNotReadyError()))
    assert await reach.patiently(ask, within=3600, on_trouble=told.append) == "answer"
    assert told == ["away", "starts"]


@pytest.mark.parametrize(
    "error",
    [failed("topic wpk.state does not exist", None), failed("forbidden", errors.TopicAuthorizationFailedError())],
    ids=str,
)
async def test_what_kafka_answered_is_believed_at_once(error: SettingsError) -> None:
    ask = Asked(error)
    with pytest.raises(SettingsError) as raised:
        await reach.patiently(ask, within=3600, on_trouble=lambda reason: None)
    assert raised.value is error
    assert ask.times == 1


async def test_when_the_time_is_over_the_last_reason_is_raised() -> None:
    ask = Asked(failed("away", errors.KafkaConnectionError()))
    with pytest.raises(SettingsError, match="away"):
        await reach.patiently(ask, within=0, on_trouble=lambda reason: None)


async def test_a_certificate_that_is_not_trusted_is_not_waited_for(tmp_path: Path) -> None:
    mine, other = trustme.CA(), trustme.CA()
    other.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    mine.issue_cert("127.0.0.1").configure_cert(context)

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0, ssl=context) as server:
        there = KafkaConnection(
            bootstrap_servers=f"127.0.0.1:{server.sockets[0].getsockname()[1]}",
            security_protocol="SSL",
            ssl_cafile=str(tmp_path / "ca.pem"),
        )

        async def ask() -> str:
            raise await diagnosis.failure(there, errors.KafkaConnectionError()) from errors.KafkaConnectionError()

        with pytest.raises(KafkaRefused, match=r"no authority of KAFKA_SSL_CAFILE .*ca\.pem"):
            await reach.patiently(ask, within=3600, on_trouble=lambda reason: None)
