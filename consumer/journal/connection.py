"""How to reach Kafka: one value for all clients, and one sentence with a remedy for each way it can fail."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aiokafka import errors
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import create_conn
from aiokafka.helpers import create_ssl_context

from consumer.errors import SettingsError
from consumer.journal import guards
from consumer.settings import Settings

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]

#: Longer texts of foreign errors are cut.
MAX_TEXT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConnection:
    """What the settings `KAFKA_*` say. Raises SettingsError where they contradict each other."""

    bootstrap_servers: str
    """`host:port`, several by commas."""
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism = "PLAIN"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    sasl_token: Callable[[], Awaitable[str]] | None = field(default=None, repr=False)
    """For OAUTHBEARER: gives a valid token, cached by itself; asked once per connection."""
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    client_id: str = "wpk"

    def __post_init__(self) -> None:
        if not any(self.servers()):
            raise SettingsError("KAFKA_BOOTSTRAP_SERVERS is empty; write host:port, several by commas")
        if not self.security_protocol.startswith("SASL_"):
            return
        if self.sasl_mechanism == "OAUTHBEARER":
            if self.sasl_token is None:
                raise SettingsError("KAFKA_SASL_MECHANISM is OAUTHBEARER but there is no source of tokens")
        elif not self.sasl_username or self.sasl_password is None:
            raise SettingsError(
                f"KAFKA_SECURITY_PROTOCOL is {self.security_protocol}: "
                "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD must be set too"
            )

    @classmethod
    def of(cls, settings: Settings, *, client_id: str) -> KafkaConnection:
        """What the settings say. Raises SettingsError where they contradict each other."""
        password = settings.kafka_sasl_password
        return cls(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            security_protocol=settings.kafka_security_protocol,
            sasl_mechanism=settings.kafka_sasl_mechanism,
            sasl_username=settings.kafka_sasl_username,
            sasl_password=password.get_secret_value() if password is not None else None,
            ssl_cafile=_path(settings.kafka_ssl_cafile),
            ssl_certfile=_path(settings.kafka_ssl_certfile),
            ssl_keyfile=_path(settings.kafka_ssl_keyfile),
            client_id=client_id,
        )

    def servers(self) -> list[str]:
        """The bootstrap servers one by one."""
        return [server.strip() for server in self.bootstrap_servers.split(",") if server.strip()]

    def options(self, role: str | None = None) -> dict[str, object]:
        """The keyword arguments that aiokafka's producer, consumer and admin client share.

        Reads the certificate files each time, so that a renewed certificate is used by the next client. Raises
        SettingsError where a file can't be read.
        """
        guards.install()
        options = self._security()
        options |= {
            "bootstrap_servers": self.servers(),
            "client_id": f"{self.client_id}-{role}" if role else self.client_id,
            "retry_backoff_ms": 50,
            "metadata_max_age_ms": 60_000,
        }
        return options

    async def diagnose(self, error: BaseException, *, timeout: float = 5.0) -> str:
        """Why a client could not start: aiokafka only logs the cause, so each server is tried once more.

        One sentence with the remedy; the given error's own where all servers answer.
        """
        if isinstance(error, SettingsError):
            return str(error)
        for server in self.servers():
            cause = await self._try(server, timeout)
            if cause is not None:
                return f"Kafka at {server}: {explain(cause)}"
        return explain(error)

    async def refuses(self, *, timeout: float = 5.0) -> bool:
        """Whether a server is there and will not have this agent, or the agent not it: to try again does not help."""
        causes = [await self._try(server, timeout) for server in self.servers()]
        return any(isinstance(each, _REFUSALS) for cause in causes for each in _chain(cause))

    async def _try(self, server: str, timeout: float) -> BaseException | None:
        """Why that server can't be talked to; None where it can."""
        host, port = _host_and_port(server)
        try:
            connection = await create_conn(
                host, port, client_id=self.client_id, request_timeout_ms=int(timeout * 1000), **self._security()
            )
        except (OSError, errors.KafkaError, TimeoutError) as cause:
            return cause
        connection.close()
        return None

    def _security(self) -> dict[str, object]:
        options: dict[str, object] = {"security_protocol": self.security_protocol}
        if self.security_protocol.startswith("SASL_"):
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password,
            }
            if self.sasl_token is not None:
                options["sasl_oauth_token_provider"] = _TokenProvider(self.sasl_token)
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context()
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        files = {
            "KAFKA_SSL_CAFILE": self.ssl_cafile,
            "KAFKA_SSL_CERTFILE": self.ssl_certfile,
            "KAFKA_SSL_KEYFILE": self.ssl_keyfile,
        }
        for setting, file in files.items():
            if file is not None and not Path(file).is_file():
                raise SettingsError(f"{setting} is {file}, and there is no such file")
        if self.ssl_keyfile and not self.ssl_certfile:
            raise SettingsError("KAFKA_SSL_KEYFILE is set but KAFKA_SSL_CERTFILE is not: a client needs both")
        try:
            context: ssl.SSLContext = create_ssl_context(
                cafile=self.ssl_cafile, certfile=self.ssl_certfile, keyfile=self.ssl_keyfile
            )
        except (ssl.SSLError, OSError) as error:
            named = ", ".join(f"{setting}={file}" for setting, file in files.items() if file)
            raise SettingsError(f"a TLS file can't be used ({named}): {_text(error)}; PEM is expected") from error
        return context


class _TokenProvider(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, token: Callable[[], Awaitable[str]]) -> None:
        self._token = token

    async def token(self) -> str:
        return await self._token()


def _path(value: Path | None) -> str | None:
    return str(value) if value is not None else None


def _host_and_port(server: str) -> tuple[str, int]:
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"KAFKA_BOOTSTRAP_SERVERS: {server!r} is no host:port")
    return host.strip("[]"), int(port)


_REFUSED = "the connection was refused; is Kafka running there, and is the port right?"
#: What no time mends: the certificate, the user or the mechanism is wrong.
_REFUSALS = (
    ssl.SSLError,
    errors.SaslAuthenticationFailed,
    errors.AuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)
_REMEDIES: tuple[tuple[type[BaseException], str], ...] = (
    (errors.ProducerFenced, "another agent took the partition over"),
    (socket.gaierror, "the host name does not resolve; check KAFKA_BOOTSTRAP_SERVERS and the DNS"),
    (ConnectionRefusedError, _REFUSED),
    (
        ssl.SSLCertVerificationError,
        "its certificate is not trusted or is for another name; set KAFKA_SSL_CAFILE to the authority that signed it",
    ),
    (
        ssl.SSLError,
        "the TLS handshake failed; does this listener speak TLS? KAFKA_SECURITY_PROTOCOL must be what it speaks",
    ),
    (
        errors.SaslAuthenticationFailed,
        "authentication failed; check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM",
    ),
    (
        errors.AuthenticationFailedError,
        "authentication failed; check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM",
    ),
    (errors.UnsupportedSaslMechanismError, "it does not offer this KAFKA_SASL_MECHANISM"),
    (errors.IllegalSaslStateError, "this listener does not use SASL; check KAFKA_SECURITY_PROTOCOL"),
    (
        errors.TopicAuthorizationFailedError,
        "not allowed on a topic; the agent's user needs Read, Write and Describe on the topics of its prefix",
    ),
    (errors.GroupAuthorizationFailedError, "not allowed; the agent's user needs Read on the group WPK_GROUP_ID"),
    (
        errors.TransactionalIdAuthorizationFailed,
        "not allowed; the agent's user needs Write and Describe on transactional ids of the topic prefix",
    ),
    (errors.ClusterAuthorizationFailedError, "not allowed; the agent's user lacks a permission on the cluster"),
    (errors.UnknownTopicOrPartitionError, "a topic does not exist; run `wpk topics create`"),
    (
        TimeoutError,
        "no answer in time; check the address, firewalls, and that KAFKA_SECURITY_PROTOCOL is what the listener speaks",
    ),
    (errors.RequestTimedOutError, "no answer in time; are all brokers up?"),
    (
        ConnectionError,
        "the connection was closed; check that KAFKA_SECURITY_PROTOCOL is what the listener speaks",
    ),
    (
        errors.KafkaConnectionError,
        "the connection was closed; is Kafka running, and is KAFKA_SECURITY_PROTOCOL what the listener speaks?",
    ),
)


def explain(error: BaseException, *, connected: bool = False) -> str:
    """One sentence for a human: what is wrong between the agent and Kafka, and what to do.

    `connected`: they did understand each other before, so that no setting is to blame for a connection that ends.
    """
    if isinstance(error, SettingsError):
        return str(error)
    causes = list(_chain(error))
    if connected and any(isinstance(each, OSError | errors.KafkaConnectionError) for each in causes):
        return f"the connection to Kafka was lost or refused ({_text(error)}); are all brokers up?"
    if any(isinstance(each, OSError) and f"[Errno {errno.ECONNREFUSED}]" in str(each) for each in causes):
        return _REFUSED  # where a name has several addresses asyncio gives an OSError with all of their texts
    for kind, remedy in _REMEDIES:
        if any(isinstance(each, kind) for each in causes):
            return remedy
    return _text(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _text(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
