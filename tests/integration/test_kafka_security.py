"""Kafka's own security on a real Apache Kafka: every way in, the least ACLs, and what is told where one is wrong."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from consumer import agent
from consumer.client import Client, Refused
from consumer.errors import KafkaRefused, SettingsError
from consumer.journal import diagnosis, probe, rights, topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.rights import Kind, Right
from consumer.journal.topics import TopicNames
from consumer.settings import Settings
from schemas.commands import ControlCommand, ExecuteCommand, RollbackCommand
from tests.support import agents, processes
from tests.support.eventually import eventually
from tests.support.http_server import Exchange, Server, serve
from tests.support.kafka import Unavailable
from tests.support.kafka.secured import HOST, PASSWORD, WAYS, SecuredKafka, Way, binding, secured_kafka
from tests.support.require import require

pytestmark = [pytest.mark.long, pytest.mark.kafka]

CLIENT_SECRET = "s3cret-of-the-client"
PACKAGE = {
    "metadata": {"name": "wait", "version": "1.0.0"},
    "spec": {"handlers": [{"name": "rest", "type": "delay", "config": {"duration": "0s"}}]},
}


@pytest.fixture(scope="module")
def started() -> Iterator[SecuredKafka | None]:
    with contextlib.ExitStack() as stack:
        try:
            broker = stack.enter_context(secured_kafka())
        except Unavailable as error:
            require(False, f"there is no Apache Kafka: {error}")
            raise
        yield broker


@pytest.fixture
def kafka(started: SecuredKafka, request: pytest.FixtureRequest) -> Iterator[SecuredKafka]:
    """The broker of this module; where a test fails, what it wrote is shown."""
    failed = request.session.testsfailed
    yield started
    if request.session.testsfailed > failed:
        print(started.process.output[-4000:])  # noqa: T201 - pytest shows it


@pytest.fixture
async def issuer(kafka: SecuredKafka) -> AsyncIterator[Server]:
    """A token endpoint: gives each client that knows the secret a token for the user of its id."""

    async def token(exchange: Exchange) -> None:
        sent = base64.b64decode(exchange.request.headers["authorization"].removeprefix("Basic "))
        client, _, secret = sent.decode().partition(":")
        if secret != CLIENT_SECRET:
            await exchange.reply_json({"error": "invalid_client"}, 401)
            return
        await exchange.reply_json({"access_token": kafka.issuer.token(client), "expires_in": 3600})

    async with serve() as server:
        server.route("/token", token)
        yield server


def settings(kafka: SecuredKafka, prefix: str, **more: Any) -> Settings:
    """An agent's settings, by the super user's way in unless `more` names another."""
    return agents.settings(
        kafka.process, prefix, partitions=1, policy_file=None, processing_guarantee="exactly_once", **more
    )


def connection_of(config: Settings) -> KafkaConnection:
    return KafkaConnection.of(config, client_id="test")


def allow(kafka: SecuredKafka, user: str, *granted: Right) -> None:
    kafka.allow(_bindings(user, granted))


def forbid(kafka: SecuredKafka, user: str, *taken: Right) -> None:
    kafka.forbid(_bindings(user, taken))


def _bindings(user: str, table: tuple[Right, ...]) -> list[Any]:
    return [
        binding(f"User:{user}", right.resource, right.name, right.operation, prefixed=right.prefixed) for right in table
    ]


def rights_of(config: Settings, kind: Kind) -> tuple[Right, ...]:
    return rights.rights_of(kind, config.topic_prefix, config.group_id)


# --- every way in ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """How the agent and a user of it come in by the same way."""

    agent: dict[str, Any]
    user: dict[str, Any]


def sides(kafka: SecuredKafka, way: Way, issuer: Server, directory: Path) -> Sides:
    found = Sides(agent=kafka.settings(way), user=kafka.settings(way, "user"))
    if way == "MTLS":
        certificates = kafka.certificates
        found.agent.update(kafka_ssl_keyfile=certificates.sealed_key, kafka_ssl_keypassword=certificates.key_password)
    if way == "OAUTHBEARER":
        found.agent.update(
            kafka_oauth_token_url=issuer.url("/token"),
            kafka_oauth_client_id="agent",
            kafka_oauth_client_secret=CLIENT_SECRET,
        )
        file = directory / "token"
        file.write_text(kafka.issuer.token("user"))
        found.user["kafka_oauth_token_file"] = file
    return found


@pytest.mark.parametrize("way", WAYS)
async def test_agent_client_and_command_line_work_with_the_least_rights_by(
    kafka: SecuredKafka, issuer: Server, prefix: str, tmp_path: Path, way: Way
) -> None:
    come = sides(kafka, way, issuer, tmp_path)
    config = settings(kafka, prefix, **come.agent)
    await agents.create_topics(settings(kafka, prefix))
    allow(kafka, "agent", *rights_of(config, "agent"))
    allow(kafka, "user", *rights_of(config, "requester"), *rights_of(config, "reader"))
    client = Client(connection_of(settings(kafka, prefix, **come.user)), TopicNames(prefix))
    async with agents.running(config) as running:
        assert running.started.guarantee == "exactly_once"
        async with client.publisher() as publisher:
            sent = await publisher.publish(ExecuteCommand.model_validate({"wpk_content": PACKAGE}))
        state = await client.result(sent.execution_id, timeout=agents.PATIENCE)
        assert state.status == "completed"
        if way == "OAUTHBEARER":  # the command line has its settings from the same place: one way does
            variables = {name.upper(): str(value) for name, value in come.user.items()}
            done = await processes.wpk(processes.environment("", prefix, **variables), "status", sent.execution_id)
            assert done.code == 0, done.stderr
            assert "completed" in done.stdout
    if way == "OAUTHBEARER":
        assert len(issuer.requests) == 1, "one token serves all connections"


# --- the least rights -----------------------------------------------------------------------------------------------


async def refused(act: Callable[[], Awaitable[object]]) -> str:
    """How it is refused."""
    with pytest.raises((KafkaRefused, Refused)) as raised:
        await act()
    return str(raised.value)


async def every_right_counts(
    kafka: SecuredKafka, user: str, table: tuple[Right, ...], act: Callable[[], Awaitable[object]]
) -> None:
    """With the whole table it works; with each right left out it is refused, and the right is told as it is granted."""
    allow(kafka, user, *table[1:])
    for right in table:
        forbid(kafka, user, right)
        assert right.command(f"User:{user}") in await refused(act)
        allow(kafka, user, right)
        await act()


async def test_an_agent_needs_each_of_its_rights_and_says_which_it_lacks(kafka: SecuredKafka, prefix: str) -> None:
    config = settings(kafka, prefix, **kafka.settings("PLAIN"))
    await agents.create_topics(settings(kafka, prefix))
    names, connection = TopicNames(prefix), connection_of(config)

    async def start() -> None:
        await diagnosis.check_rights(connection, prefix, config.group_id)
        assert not (await topics.check(connection, names, partitions=1)).problems
        own = f"{rights.transactional_ids(prefix, config.group_id)}{rights.PROBE}-x"
        await probe.decide(connection, "exactly_once", own)

    await every_right_counts(kafka, "agent", rights_of(config, "agent"), start)


async def test_an_agent_tells_all_that_it_lacks_at_once_and_does_not_wait(kafka: SecuredKafka, prefix: str) -> None:
    config = settings(kafka, prefix, start_timeout=3600, **kafka.settings("PLAIN", "other"))
    await agents.create_topics(settings(kafka, prefix))
    with pytest.raises(KafkaRefused) as raised:
        await agent.work(config, asyncio.Event())
    for right in rights_of(config, "agent"):
        if right.resource != "transactional-id":  # Kafka can't be asked for these; the start of a producer tells
            assert right.command("User:other") in str(raised.value)


async def test_a_requester_and_an_approver_need_each_of_their_rights(kafka: SecuredKafka, prefix: str) -> None:
    await agents.create_topics(settings(kafka, prefix))
    config = settings(kafka, prefix, **kafka.settings("PLAIN", "user"))
    client = Client(connection_of(config), TopicNames(prefix))

    async def ask() -> None:
        async with client.publisher() as publisher:
            await publisher.publish(ExecuteCommand.model_validate({"wpk_content": PACKAGE}))

    await every_right_counts(kafka, "user", rights_of(config, "requester"), ask)
    forbid(kafka, "user", *rights_of(config, "requester"))

    async def steer() -> None:
        async with client.publisher() as publisher:
            await publisher.publish(ControlCommand.model_validate({"execution_id": "x", "action": "approve"}))
            await publisher.publish(RollbackCommand(execution_id="x"))

    await every_right_counts(kafka, "user", rights_of(config, "approver"), steer)
    assert f"--operation Write --topic {prefix}.commands.execute" in await refused(ask)


async def test_a_reader_needs_each_of_its_rights_and_can_not_write(kafka: SecuredKafka, prefix: str) -> None:
    await agents.create_topics(settings(kafka, prefix))
    config = settings(kafka, prefix, **kafka.settings("PLAIN", "user"))
    client = Client(connection_of(config), TopicNames(prefix))

    async def read() -> None:
        await client.executions()
        await client.verify()
        async with client.follower("x", since="now"):
            pass
        async for _ in client.dead_letters().all():
            raise AssertionError("there are none")

    await every_right_counts(kafka, "user", rights_of(config, "reader"), read)
    said = await refused(client.publisher().__aenter__)
    assert f"does not allow User:user: Describe on topics that begin with {prefix}.commands." in said


async def test_a_publisher_needs_each_of_its_rights(kafka: SecuredKafka, prefix: str) -> None:
    await agents.create_topics(settings(kafka, prefix))
    config = settings(kafka, prefix, **kafka.settings("PLAIN", "user"))
    client, version = Client(connection_of(config), TopicNames(prefix)), itertools.count()

    async def publish() -> None:
        package = {**PACKAGE, "metadata": {"name": "wait", "version": f"1.0.{next(version)}"}}
        await client.registry().publish(package)

    await every_right_counts(kafka, "user", rights_of(config, "publisher"), publish)


async def test_an_operator_needs_each_of_its_rights_to_make_and_check_topics(kafka: SecuredKafka, prefix: str) -> None:
    config = settings(kafka, prefix, **kafka.settings("PLAIN", "user"))
    connection, names = connection_of(config), TopicNames(prefix)

    async def make() -> None:
        await topics.create(connection, names, 1)
        assert not (await topics.check(connection, names)).problems

    await every_right_counts(kafka, "user", rights_of(config, "operator"), make)


async def test_a_right_that_is_taken_away_ends_no_agent_and_nothing_is_lost(kafka: SecuredKafka, prefix: str) -> None:
    config = settings(kafka, prefix, **kafka.settings("PLAIN"))
    await agents.create_topics(settings(kafka, prefix))
    table = rights_of(config, "agent")
    state = next(right for right in table if right.name.endswith(".state") and right.operation == "Write")
    allow(kafka, "agent", *table)
    client = Client(connection_of(settings(kafka, prefix)), TopicNames(prefix))
    async with agents.running(config) as running:
        forbid(kafka, "agent", state)
        async with client.publisher() as publisher:
            sent = await publisher.publish(ExecuteCommand.model_validate({"wpk_content": PACKAGE}))
        ready = running.started.metrics_url.replace("/metrics", "/readyz")

        async def told() -> bool:
            status, body = await asyncio.to_thread(processes.fetch, ready)
            return status == 503 and state.name in body

        await eventually(told, timeout=agents.PATIENCE, because="/readyz says why")
        allow(kafka, "agent", state)
        assert (await client.result(sent.execution_id, timeout=agents.PATIENCE)).status == "completed"


async def test_an_agent_that_loses_the_right_on_its_group_ends_and_says_so(kafka: SecuredKafka, prefix: str) -> None:
    come = kafka.settings("PLAIN")
    variables = processes.environment("", prefix, **{name.upper(): value for name, value in come.items()})
    config = settings(kafka, prefix, group_id=variables["WPK_GROUP_ID"])
    await agents.create_topics(config)
    table = rights_of(config, "agent")
    group = next(right for right in table if right.resource == "group")
    allow(kafka, "agent", *table)
    async with processes.agent({**variables, "WPK_PARTITIONS": "1"}) as running:
        forbid(kafka, "agent", group)
        assert await running.ended() == 2
        assert group.command("User:agent") in running.output.splitlines()[-1]


# --- what is wrong --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mistake:
    """Settings with one thing wrong, and what must be told of it."""

    way: Way
    wrong: dict[str, Any]
    told: tuple[str, ...]


def mistakes(kafka: SecuredKafka) -> dict[str, Mistake]:
    files, at = kafka.certificates, kafka.at
    no_key = {"kafka_ssl_certfile": None, "kafka_ssl_keyfile": None}
    expired = {"kafka_ssl_certfile": files.expired, "kafka_ssl_keyfile": files.expired_key}
    foreign = {"kafka_ssl_certfile": files.foreign, "kafka_ssl_keyfile": files.foreign_key}
    bearer = {"kafka_oauth_token_file": files.authority.parent / "stale-token"}
    bearer["kafka_oauth_token_file"].write_text(kafka.issuer.token("agent", audience="others"))
    return {
        "a wrong password": Mistake(
            "PLAIN",
            {"kafka_sasl_password": "guess"},
            ("authentication failed", "KAFKA_SASL_USERNAME (agent)", "KAFKA_SASL_PASSWORD", "PLAIN"),
        ),
        "a wrong password of SCRAM": Mistake(
            "SCRAM-SHA-512",
            {"kafka_sasl_password": "guess"},
            ("authentication failed", "KAFKA_SASL_PASSWORD", "KAFKA_SASL_MECHANISM SCRAM-SHA-512"),
        ),
        "a user that is not there": Mistake(
            "SCRAM-SHA-256", {"kafka_sasl_username": "nobody"}, ("KAFKA_SASL_USERNAME (nobody)",)
        ),
        "another mechanism": Mistake(
            "PLAIN",
            {"kafka_bootstrap_servers": at("BEARER")},
            ("does not offer the KAFKA_SASL_MECHANISM PLAIN", "set it to OAUTHBEARER"),
        ),
        "an unknown authority": Mistake(
            "SSL",
            {"kafka_ssl_cafile": files.other_authority},
            ("signed by no authority of KAFKA_SSL_CAFILE", "other-authority.pem"),
        ),
        "the system's authorities": Mistake("SSL", {"kafka_ssl_cafile": None}, ("KAFKA_SSL_CAFILE is not set",)),
        "another host name": Mistake(
            "SSL",
            {"kafka_bootstrap_servers": at("TLS", "localhost")},
            ("for another name than localhost", "KAFKA_BOOTSTRAP_SERVERS"),
        ),
        "no TLS on a listener with it": Mistake(
            "SSL",
            {"kafka_security_protocol": "PLAINTEXT"},
            ("it speaks TLS", "KAFKA_SECURITY_PROTOCOL is PLAINTEXT: set it to SSL"),
        ),
        "SASL without TLS on a listener with it": Mistake(
            "PLAIN", {"kafka_security_protocol": "SASL_PLAINTEXT"}, ("it speaks TLS", "set it to SASL_SSL")
        ),
        "TLS on a listener without it": Mistake(
            "SSL",
            {"kafka_bootstrap_servers": at("PLAINTEXT")},
            ("does not speak TLS", "KAFKA_SECURITY_PROTOCOL is SSL", "PLAINTEXT"),
        ),
        "no SASL on a listener with it": Mistake(
            "SSL",
            {"kafka_bootstrap_servers": at("SASL")},
            ("set it to SASL_SSL, with KAFKA_SASL_MECHANISM PLAIN or SCRAM-SHA-256 or SCRAM-SHA-512",),
        ),
        "neither TLS nor SASL on a listener with SASL": Mistake(
            "SSL",
            {"kafka_bootstrap_servers": at("SASLPLAIN"), "kafka_security_protocol": "PLAINTEXT"},
            ("set it to SASL_PLAINTEXT, with KAFKA_SASL_MECHANISM SCRAM-SHA-512",),
        ),
        "SASL on a listener without it": Mistake(
            "PLAIN", {"kafka_bootstrap_servers": at("TLS")}, ("does not use SASL", "set it to SSL")
        ),
        "no certificate of the client": Mistake("MTLS", no_key, ("set KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE",)),
        "an expired certificate of the client": Mistake("MTLS", expired, ("expired.crt) has expired at", "renew it")),
        "a foreign certificate of the client": Mistake("MTLS", foreign, ("foreign.crt)", "ssl.truststore")),
        "a key that is locked": Mistake(
            "MTLS", {"kafka_ssl_keyfile": files.sealed_key}, ("sealed.key", "set KAFKA_SSL_KEYPASSWORD")
        ),
        "a token for others": Mistake("OAUTHBEARER", bearer, ("does not take the token of 'agent'", "invalid_token")),
        "no token": Mistake(
            "OAUTHBEARER",
            {"kafka_oauth_token_file": files.authority.parent / "no-token"},
            ("KAFKA_OAUTH_TOKEN_FILE is", "no-token, which can't be read: No such file"),
        ),
        "no source of tokens": Mistake("OAUTHBEARER", {}, ("no source of tokens", "KAFKA_OAUTH_TOKEN_URL")),
    }


async def test_each_wrong_setting_ends_the_start_at_once_with_its_name_and_the_remedy(
    kafka: SecuredKafka, prefix: str
) -> None:
    """An agent that would wait an hour for Kafka does not wait for what no time mends."""
    for name, mistake in mistakes(kafka).items():
        with pytest.raises(SettingsError) as raised:
            config = settings(kafka, prefix, **{**kafka.settings(mistake.way), "start_timeout": 3600, **mistake.wrong})
            await agent.work(config, asyncio.Event())
        text = str(raised.value)
        for part in mistake.told:
            assert part in text, name
        for secret in (PASSWORD, "guess", CLIENT_SECRET):
            assert secret not in text, name


async def test_a_client_that_the_token_endpoint_does_not_know_is_told(
    kafka: SecuredKafka, issuer: Server, prefix: str
) -> None:
    config = settings(
        kafka,
        prefix,
        **kafka.settings("OAUTHBEARER"),
        kafka_oauth_token_url=issuer.url("/token"),
        kafka_oauth_client_id="agent",
        kafka_oauth_client_secret="guess",
        start_timeout=3600,
    )
    with pytest.raises(KafkaRefused, match=r"status 401, invalid_client; check KAFKA_OAUTH_CLIENT_ID"):
        await agent.work(config, asyncio.Event())


async def test_a_token_endpoint_that_is_not_there_is_waited_for_as_a_broker_is(
    kafka: SecuredKafka, prefix: str
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        config = settings(
            kafka,
            prefix,
            **kafka.settings("OAUTHBEARER"),
            kafka_oauth_token_url=f"http://127.0.0.1:{unused.getsockname()[1]}/token",
            kafka_oauth_client_id="agent",
            kafka_oauth_client_secret=CLIENT_SECRET,
            start_timeout=0,
        )
        with pytest.raises(SettingsError, match=r"KAFKA_OAUTH_TOKEN_URL \(.*/token\) can't be reached") as raised:
            await agent.work(config, asyncio.Event())
    assert not isinstance(raised.value, KafkaRefused), "that is what is not waited for"


@contextlib.asynccontextmanager
async def impostor(kafka: SecuredKafka) -> AsyncIterator[str]:
    """Stands between a client and the broker, and spoils the proof that the broker knows the password."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, spoil: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(re.sub(rb"v=[\w+/]{20}", b"v=" + 20 * b"A", data) if spoil else data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(HOST, kafka.ports["SASLPLAIN"])
        await asyncio.gather(pipe(reader, back, spoil=False), pipe(there, writer, spoil=True))

    server = await asyncio.start_server(connected, HOST, 0)
    async with server:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}"


async def test_a_broker_that_does_not_know_the_password_itself_is_told_in_one_sentence(
    kafka: SecuredKafka, prefix: str
) -> None:
    """RFC 5802: the server proves itself too."""
    async with impostor(kafka) as address:
        come = kafka.settings("SCRAM-SHA-512") | {"kafka_bootstrap_servers": address}
        come |= {"kafka_security_protocol": "SASL_PLAINTEXT"}
        variables = {name.upper(): str(value) for name, value in come.items()}
        done = await processes.wpk(processes.environment("", prefix, LOG_LEVEL="error", **variables), "agent")
    assert done.code == 2, done.stderr
    assert "did not prove that it knows the password of KAFKA_SASL_USERNAME" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stderr


@pytest.mark.parametrize("verb", ["agent", "list"])
async def test_a_refused_password_ends_with_2_and_one_sentence(kafka: SecuredKafka, prefix: str, verb: str) -> None:
    come = {**kafka.settings("SCRAM-SHA-256"), "kafka_sasl_password": "guess-again"}
    variables = {name.upper(): str(value) for name, value in come.items()}
    done = await processes.wpk(processes.environment("", prefix, LOG_LEVEL="error", **variables), verb)
    assert done.code == 2, done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert "authentication failed" in sentence
    assert "KAFKA_SASL_PASSWORD" in sentence
    assert "guess-again" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "wpk dev" not in done.stderr, "Kafka was reached: that is no remedy"
