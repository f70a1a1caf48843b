"""How to reach Kafka, and what is said when it can't be reached."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from aiokafka import AIOKafkaProducer, errors
from cryptography.hazmat.primitives import serialization

from consumer.errors import KafkaRefused, SettingsError
from consumer.journal import diagnosis
from consumer.journal.connection import KafkaConnection, explain
from consumer.settings import Settings


def test_options_are_what_aiokafkas_clients_take() -> None:
    connection = KafkaConnection(
        bootstrap_servers="one:9092, two:9092,",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="alice",
        sasl_password="secret",
        client_id="agent-1",
    )
    options = connection.options("journal")
    assert options["bootstrap_servers"] == ["one:9092", "two:9092"]
    assert options["client_id"] == "agent-1-journal"
    assert options["sasl_plain_username"] == "alice"
    assert "ssl_context" not in options


def test_the_password_is_not_shown() -> None:
    connection = KafkaConnection(
        bootstrap_servers="h:1", security_protocol="SASL_SSL", sasl_username="a", sasl_password="hunter2"
    )
    assert "hunter2" not in repr(connection)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"bootstrap_servers": " , "}, "KAFKA_BOOTSTRAP_SERVERS is empty", id="no server"),
        pytest.param(
            {"bootstrap_servers": "h:1", "security_protocol": "SASL_SSL"}, "KAFKA_SASL_USERNAME", id="no user"
        ),
        pytest.param(
            {"bootstrap_servers": "h:1", "security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"},
            "no source of tokens",
            id="no token",
        ),
    ],
)
def test_contradicting_settings_are_named(fields: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        KafkaConnection(**fields)  # type: ignore[arg-type]


def test_a_missing_certificate_file_is_named(tmp_path: Path) -> None:
    connection = KafkaConnection(
        bootstrap_servers="h:1", security_protocol="SSL", ssl_cafile=str(tmp_path / "absent.pem")
    )
    with pytest.raises(SettingsError, match=r"KAFKA_SSL_CAFILE is .*absent\.pem, and there is no such file"):
        connection.options()


def test_a_broken_certificate_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("this is no certificate")
    connection = KafkaConnection(bootstrap_servers="h:1", security_protocol="SSL", ssl_cafile=str(broken))
    with pytest.raises(SettingsError, match=r"KAFKA_SSL_CAFILE is .*broken\.pem, which is no PEM file"):
        connection.options()


def test_client_certificates_are_loaded(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("agent")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "agent.pem")
    connection = KafkaConnection(
        bootstrap_servers="h:1",
        security_protocol="SSL",
        ssl_cafile=str(tmp_path / "ca.pem"),
        ssl_certfile=str(tmp_path / "agent.pem"),
    )
    context = connection.options()["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (socket.gaierror(-2, "Name or service not known"), "does not resolve"),
        (ConnectionRefusedError(111, "Connect call failed"), "refused"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] Connect call failed"), "refused"),
        (ssl.SSLCertVerificationError(1, "self-signed"), "KAFKA_SSL_CAFILE"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "KAFKA_SECURITY_PROTOCOL"),
        (errors.SaslAuthenticationFailed("bad"), "KAFKA_SASL_PASSWORD"),
        (errors.TopicAuthorizationFailedError("wpk.state"), "Read, Write and Describe"),
        (errors.TransactionalIdAuthorizationFailed("wpk-0"), "transactional ids"),
        (errors.UnknownTopicOrPartitionError(), "wpk topics create"),
        (errors.ProducerFenced(), "another agent"),
        (TimeoutError(), "no answer in time"),
        (SettingsError("as it is"), "as it is"),
        (RuntimeError("x" * 1000), "…"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_each_failure_is_explained_with_a_remedy(error: Exception, part: str) -> None:
    assert part in explain(error)


def test_the_cause_of_an_error_is_explained() -> None:
    error = errors.KafkaError("Unexpected error during batch delivery")
    error.__cause__ = errors.ProducerFenced()
    assert "another agent" in explain(error)


async def failed_start(connection: KafkaConnection) -> str:
    """What is said after a producer could not start."""
    producer = AIOKafkaProducer(**connection.options())
    try:
        with pytest.raises(errors.KafkaError) as raised:
            await producer.start()
    finally:
        await producer.stop()
    return str(await diagnosis.failure(connection, raised.value, timeout=2))


@pytest.fixture
async def silent_server() -> AsyncIterator[str]:
    """Accepts connections, and closes each at the first byte, as a listener of another protocol may."""

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_refused_connection_is_told_with_its_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        text = await failed_start(KafkaConnection(bootstrap_servers=address))
    assert text.startswith(f"Kafka at {address}: the connection was refused")


async def test_a_name_that_does_not_resolve_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unresolved(*_: object, **__: object) -> None:  # a real resolver may take longer than the test waits
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unresolved)
    text = await failed_start(KafkaConnection(bootstrap_servers="no-such-host.invalid:9092"))
    assert "does not resolve" in text


async def test_a_listener_of_another_protocol_is_told(silent_server: str) -> None:
    text = await failed_start(KafkaConnection(bootstrap_servers=silent_server))
    assert "KAFKA_SECURITY_PROTOCOL" in text


async def test_a_server_without_a_port_is_told() -> None:
    connection = KafkaConnection(bootstrap_servers="localhost")
    with pytest.raises(SettingsError, match="no host:port"):
        await diagnosis.failure(connection, errors.KafkaConnectionError())


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A client's certificate and its key in all its forms, as files."""
    directory = tmp_path_factory.mktemp("own")
    issued, other = (trustme.CA().issue_cert("agent") for _ in range(2))
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    sealed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open sesame"),
    )
    files = {
        "certificate": issued.cert_chain_pems[0].bytes(),
        "key": issued.private_key_pem.bytes(),
        "sealed": sealed,
        "other": other.private_key_pem.bytes(),
        "both": sealed + issued.cert_chain_pems[0].bytes(),
        "nonsense": b"this is no PEM",
    }
    for name, data in files.items():
        (directory / name).write_bytes(data)
    (directory / "directory").mkdir()
    return {name: str(directory / name) for name in (*files, "directory")}


@pytest.mark.parametrize(
    ("certificate", "key", "password"),
    [("certificate", "key", None), ("certificate", "sealed", "open sesame"), ("both", None, "open sesame")],
)
def test_a_clients_key_may_be_encrypted_and_in_one_file_with_its_certificate(
    own: dict[str, str], certificate: str, key: str | None, password: str | None
) -> None:
    connection = KafkaConnection(
        bootstrap_servers="h:1",
        security_protocol="SSL",
        ssl_certfile=own[certificate],
        ssl_keyfile=own[key] if key else None,
        ssl_keypassword=password,
    )
    assert isinstance(connection.tls(), ssl.SSLContext)
    assert "sesame" not in repr(connection)


@pytest.mark.parametrize(
    ("key", "password", "message"),
    [
        ("sealed", None, r"KAFKA_SSL_KEYFILE is .*sealed, whose key is encrypted: set KAFKA_SSL_KEYPASSWORD"),
        ("sealed", "guess", r"KAFKA_SSL_KEYFILE is .*sealed, whose key KAFKA_SSL_KEYPASSWORD does not open"),
        ("other", None, r"KAFKA_SSL_KEYFILE is .*other, which is not the key of KAFKA_SSL_CERTFILE \(.*certificate\)"),
        ("nonsense", None, r"KAFKA_SSL_KEYFILE is .*nonsense, and .* no certificate with its key in PEM"),
        ("directory", None, r"KAFKA_SSL_KEYFILE is .*directory, which can't be read: Is a directory"),
        ("absent", None, r"KAFKA_SSL_KEYFILE is .*absent, and there is no such file"),
    ],
)
def test_a_key_that_can_not_be_used_is_named_with_the_reason(
    own: dict[str, str], key: str, password: str | None, message: str
) -> None:
    connection = KafkaConnection(
        bootstrap_servers="h:1",
        security_protocol="SSL",
        ssl_certfile=own["certificate"],
        ssl_keyfile=own.get(key, "/absent"),
        ssl_keypassword=password,
    )
    with pytest.raises(SettingsError, match=message) as raised:
        connection.tls()
    assert "guess" not in str(raised.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "no source of tokens: set KAFKA_OAUTH_TOKEN_URL"),
        ({"kafka_oauth_token_url": "https://issuer/token"}, "KAFKA_OAUTH_CLIENT_ID and KAFKA_OAUTH_CLIENT_SECRET"),
        (
            {"kafka_oauth_token_url": "https://issuer/token", "kafka_oauth_token_file": "/token"},
            "are both set: set one of them",
        ),
    ],
)
def test_it_is_told_where_tokens_could_come_from(more: dict[str, str], message: str) -> None:
    settings = Settings.model_validate(
        {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER", **more}
    )
    with pytest.raises(SettingsError, match=message):
        KafkaConnection.of(settings, client_id="test")


async def test_of_two_servers_the_one_that_refuses_is_told_before_the_one_that_is_down(tmp_path: Path) -> None:
    mine, other = trustme.CA(), trustme.CA()
    other.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    mine.issue_cert("127.0.0.1").configure_cert(context)

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with await asyncio.start_server(close, "127.0.0.1", 0, ssl=context) as server:
            down, refusing = unused.getsockname()[1], server.sockets[0].getsockname()[1]
            connection = KafkaConnection(
                bootstrap_servers=f"127.0.0.1:{down},127.0.0.1:{refusing}",
                security_protocol="SSL",
                ssl_cafile=str(tmp_path / "ca.pem"),
            )
            found = await diagnosis.failure(connection, errors.KafkaConnectionError())
    assert isinstance(found, KafkaRefused)
    assert str(found).startswith(f"Kafka at 127.0.0.1:{refusing}: its certificate is signed by no authority")
