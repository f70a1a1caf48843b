"""How to reach Kafka: one value for all clients, and one sentence with a remedy for each way it can fail."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from aiokafka import errors
from aiokafka.abc import AbstractTokenProvider
from aiokafka.helpers import create_ssl_context
from pydantic import SecretStr

from consumer.errors import SettingsError
from consumer.journal import guards, scram, tokens
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
    """Without it the key is in `ssl_certfile` too."""
    ssl_keypassword: str | None = field(default=None, repr=False)
    client_id: str = "wpk"

    def __post_init__(self) -> None:
        if not any(self.servers()):
            raise SettingsError("KAFKA_BOOTSTRAP_SERVERS is empty; write host:port, several by commas")
        if not self.security_protocol.startswith("SASL_"):
            return
        if self.sasl_mechanism == "OAUTHBEARER":
            if self.sasl_token is None:
                raise SettingsError(tokens.NO_SOURCE)
        elif not self.sasl_username or self.sasl_password is None:
            raise SettingsError(
                f"KAFKA_SECURITY_PROTOCOL is {self.security_protocol}: "
                "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD must be set too"
            )

    @classmethod
    def of(cls, settings: Settings, *, client_id: str) -> KafkaConnection:
        """What the settings say. Raises SettingsError where they contradict each other."""
        return cls(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            security_protocol=settings.kafka_security_protocol,
            sasl_mechanism=settings.kafka_sasl_mechanism,
            sasl_username=settings.kafka_sasl_username,
            sasl_password=_secret(settings.kafka_sasl_password),
            sasl_token=_source_of_tokens(settings),
            ssl_cafile=_path(settings.kafka_ssl_cafile),
            ssl_certfile=_path(settings.kafka_ssl_certfile),
            ssl_keyfile=_path(settings.kafka_ssl_keyfile),
            ssl_keypassword=_secret(settings.kafka_ssl_keypassword),
            client_id=client_id,
        )

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL_")

    @property
    def uses_tls(self) -> bool:
        return self.security_protocol.endswith("SSL")

    def servers(self) -> list[str]:
        """The bootstrap servers one by one."""
        return [server.strip() for server in self.bootstrap_servers.split(",") if server.strip()]

    def options(self, role: str | None = None) -> dict[str, object]:
        """The keyword arguments that aiokafka's producer, consumer and admin client share.

        Reads the certificate files each time, so that a renewed certificate is used by the next client. Raises
        SettingsError where a file can't be read.
        """
        guards.install()
        options = self.security()
        options |= {
            "bootstrap_servers": self.servers(),
            "client_id": f"{self.client_id}-{role}" if role else self.client_id,
            "retry_backoff_ms": 50,
            "metadata_max_age_ms": 60_000,
        }
        return options

    def security(self) -> dict[str, object]:
        """Those of the options that say how to come in; they do for a single connection too.

        Raises SettingsError where a file can't be read.
        """
        options: dict[str, object] = {"security_protocol": self.security_protocol}
        if self.uses_sasl:
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password,
            }
            scram.install()
            if self.sasl_token is not None:
                tokens.install()
                options["sasl_oauth_token_provider"] = _TokenProvider(self.sasl_token)
        if self.uses_tls:
            options["ssl_context"] = self.tls()
        return options

    def tls(self) -> ssl.SSLContext:
        """Whom to trust, and who the client is. Raises SettingsError where a file can't be read or used."""
        files = {
            "KAFKA_SSL_CAFILE": self.ssl_cafile,
            "KAFKA_SSL_CERTFILE": self.ssl_certfile,
            "KAFKA_SSL_KEYFILE": self.ssl_keyfile,
        }
        for setting, file in files.items():
            if file is not None:
                _check_file(setting, file)
        if self.ssl_keyfile and not self.ssl_certfile:
            raise SettingsError("KAFKA_SSL_KEYFILE is set but KAFKA_SSL_CERTFILE is not: a client needs both")
        try:
            context = create_ssl_context(cafile=self.ssl_cafile)
        except (ssl.SSLError, OSError) as error:
            raise SettingsError(
                f"KAFKA_SSL_CAFILE is {self.ssl_cafile}, which is no PEM file of certificates"
            ) from error
        if self.ssl_certfile is not None:
            self._load_own(context, self.ssl_certfile)
        return cast(ssl.SSLContext, context)

    def _load_own(self, context: ssl.SSLContext, certfile: str) -> None:
        key = f"KAFKA_SSL_KEYFILE is {self.ssl_keyfile}" if self.ssl_keyfile else f"KAFKA_SSL_CERTFILE is {certfile}"

        def password() -> str:
            """Without it OpenSSL would ask on the terminal, and wait for ever."""
            if self.ssl_keypassword is None:
                raise SettingsError(f"{key}, whose key is encrypted: set KAFKA_SSL_KEYPASSWORD")
            return self.ssl_keypassword

        try:
            context.load_cert_chain(certfile, self.ssl_keyfile, password)
        except (ssl.SSLError, OSError, ValueError) as error:
            if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                problem = f"{key}, which is not the key of KAFKA_SSL_CERTFILE ({certfile})"
            elif self.ssl_keypassword is not None:
                problem = f"{key}, whose key KAFKA_SSL_KEYPASSWORD does not open, or the files are not PEM"
            else:
                problem = f"{key}, and with KAFKA_SSL_CERTFILE ({certfile}) it gives no certificate with its key in PEM"
            raise SettingsError(problem) from error


class _TokenProvider(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, token: Callable[[], Awaitable[str]]) -> None:
        self._token = token

    async def token(self) -> str:
        return await self._token()


def _path(value: Path | None) -> str | None:
    return str(value) if value is not None else None


def _secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value is not None else None


def _source_of_tokens(settings: Settings) -> tokens.Source | None:
    """Raises SettingsError where it is not said, or said twice, where tokens come from."""
    if settings.kafka_sasl_mechanism != "OAUTHBEARER" or not settings.kafka_security_protocol.startswith("SASL_"):
        return None
    return tokens.source(
        url=settings.kafka_oauth_token_url,
        client_id=settings.kafka_oauth_client_id,
        client_secret=_secret(settings.kafka_oauth_client_secret),
        scope=settings.kafka_oauth_scope,
        cafile=_path(settings.kafka_oauth_cafile),
        file=settings.kafka_oauth_token_file,
    )


def _check_file(setting: str, file: str) -> None:
    try:
        with Path(file).open("rb") as opened:
            opened.read(1)
    except FileNotFoundError as error:
        raise SettingsError(f"{setting} is {file}, and there is no such file") from error
    except OSError as error:
        raise SettingsError(f"{setting} is {file}, which can't be read: {error.strerror}") from error


def host_and_port(server: str) -> tuple[str, int]:
    """The two parts of one of the servers. Raises SettingsError."""
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"KAFKA_BOOTSTRAP_SERVERS: {server!r} is no host:port")
    return host.strip("[]"), int(port)


_REFUSED = "the connection was refused; is Kafka running there, and is the port right?"
#: These name what they are about.
_FORBIDDEN = (errors.TopicAuthorizationFailedError, errors.GroupAuthorizationFailedError)
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
    (scram.ServerNotProven, scram.NOT_PROVEN),
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
    if isinstance(error, SettingsError | tokens.TokenError):
        return str(error)
    causes = list(chain(error))
    if connected and any(isinstance(each, OSError | errors.KafkaConnectionError) for each in causes):
        return f"the connection to Kafka was lost or refused ({_text(error)}); are all brokers up?"
    if any(isinstance(each, OSError) and f"[Errno {errno.ECONNREFUSED}]" in str(each) for each in causes):
        return _REFUSED  # where a name has several addresses asyncio gives an OSError with all of their texts
    for kind, remedy in _REMEDIES:
        for each in causes:
            if isinstance(each, kind):
                return f"{remedy} ({_text(each)})" if isinstance(each, _FORBIDDEN) and each.args else remedy
    return _text(error)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__


def _text(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
