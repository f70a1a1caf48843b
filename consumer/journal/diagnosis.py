"""Why Kafka can't be worked with: aiokafka logs a cause at best, so each server is looked at once more.

What a look finds is certain or it is not told as such: a listener that closes the connection is asked whether it speaks
TLS, plain Kafka or SASL, without a secret being sent. So an absent broker is told from one that refuses: the first may
be waited for, the second not.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from consumer.errors import KafkaRefused, SettingsError
from consumer.journal import rights, scram, tokens
from consumer.journal.connection import KafkaConnection, chain, explain, host_and_port

#: How long a look at a server may take (seconds); it is made of a few of them at worst.
LOOK_SECONDS = 5.0
_MAX_TEXT = 200
#: OpenSSL's verify codes (x509_vfy.h).
_EXPIRED, _NOT_YET_VALID, _OTHER_NAME, _OTHER_ADDRESS = 10, 9, 62, 64
#: Parts of the names of TLS alerts by which a server refuses a client's certificate, or the want of one.
_ABOUT_CERTIFICATES = ("certificate", "unknown ca", "handshake failure")


#: Somebody was there, and ended the connection.
_CLOSED = (
    ssl.SSLError,
    EOFError,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    errors.KafkaConnectionError,
)


@dataclass(frozen=True, slots=True)
class _Finding:
    text: str
    final: bool
    """Whether no time mends it."""


async def failure(connection: KafkaConnection, error: BaseException, *, timeout: float = LOOK_SECONDS) -> SettingsError:
    """The error to raise for one of a client's: a sentence with the remedy; KafkaRefused where no time mends it.

    The given error's own sentence where all servers answer. `timeout` (seconds) is for each server.
    """
    if isinstance(error, SettingsError):
        return error
    refusal = rights.refusal(connection, error)
    if refusal is not None:
        return KafkaRefused(refusal)
    findings = [(server, await _look(connection, server, timeout)) for server in connection.servers()]
    # That of two servers one is down is told only where the other one does not refuse.
    for final in (True, False):
        for server, found in findings:
            if found is not None and found.final is final:
                text = f"Kafka at {server}: {found.text}"
                return KafkaRefused(text) if final else SettingsError(text)
    return SettingsError(explain(error))


async def check_rights(connection: KafkaConnection, prefix: str, group: str) -> None:
    """Raises KafkaRefused that names all rights that an agent lacks, and SettingsError where Kafka can't be asked."""
    try:
        lacking = await rights.missing(connection, prefix, group)
    except (errors.KafkaError, OSError) as error:
        raise await failure(connection, error) from error
    if lacking:
        raise KafkaRefused(rights.told(connection, lacking))


async def _look(connection: KafkaConnection, server: str, timeout: float) -> _Finding | None:
    """What is wrong with that server; None where it answers."""
    host, port = host_and_port(server)
    look = _Look(connection, host, port, timeout)
    try:
        opened = await look.connect(connection.security())
    except (OSError, errors.KafkaError, TimeoutError) as error:
        return await look.unconnected(error)
    try:
        async with asyncio.timeout(timeout):
            await opened.send(MetadataRequest([]))
    except (OSError, errors.KafkaError, TimeoutError) as error:
        return await look.unanswered(error)
    finally:
        opened.close()
    return None


@dataclass(frozen=True, slots=True)
class _Look:
    """One server, looked at in several ways."""

    connection: KafkaConnection
    host: str
    port: int
    timeout: float

    async def connect(self, security: Mapping[str, object]) -> AIOKafkaConnection:
        milliseconds = int(self.timeout * 1000)
        client = self.connection.client_id
        return await create_conn(self.host, self.port, client_id=client, request_timeout_ms=milliseconds, **security)

    async def unanswered(self, error: BaseException) -> _Finding:
        """The connection was made, and closed at the first request."""
        speaks = self.connection.security_protocol
        offered = None if self.connection.uses_sasl else await self._offered()
        if offered:
            return _Finding(
                f"it takes only clients that authenticate by SASL, and KAFKA_SECURITY_PROTOCOL is {speaks}: set it to "
                f"{'SASL_SSL' if self.connection.uses_tls else 'SASL_PLAINTEXT'}, with KAFKA_SASL_MECHANISM "
                f"{' or '.join(offered)}",
                final=True,
            )
        return await self.unconnected(error)

    async def unconnected(self, error: BaseException) -> _Finding:
        """The connection was not made."""
        for cause in chain(error):
            if isinstance(cause, tokens.TokenError):
                return _Finding(str(cause), final=not cause.retriable)
            if (text := await self._refusal(cause)) is not None:
                return _Finding(text, final=True)
        if not any(isinstance(each, _CLOSED) for each in chain(error)):
            return _Finding(explain(error), final=False)  # nobody answered: a second look would only take longer
        # A handshake that just ends may be a proxy whose broker is away.
        failed = [each for each in chain(error) if isinstance(each, ssl.SSLError)]
        final = any(not isinstance(each, ssl.SSLEOFError | ssl.SSLZeroReturnError) for each in failed)
        return await self._other_protocol() or _Finding(explain(error), final=final)

    async def _refusal(self, cause: BaseException) -> str | None:
        """The sentence for an error that is certain to be a refusal."""
        match cause:
            case scram.ServerNotProven():
                return scram.NOT_PROVEN
            case errors.SaslAuthenticationFailed() | errors.AuthenticationFailedError():
                return self._unproven(cause)
            case errors.UnsupportedSaslMechanismError():
                return await self._other_mechanism()
            case errors.IllegalSaslStateError():
                plain = "SSL" if self.connection.uses_tls else "PLAINTEXT"
                return (
                    f"it does not use SASL, and KAFKA_SECURITY_PROTOCOL is {self.connection.security_protocol}: "
                    f"set it to {plain}, or take the port of a listener with SASL"
                )
            case ssl.SSLCertVerificationError():
                return self._untrusted(cause)
        return None

    async def _other_protocol(self) -> _Finding | None:
        """Whether the listener speaks another protocol, or wants another certificate."""
        speaks = self.connection.security_protocol
        sasl = "SASL_" if self.connection.uses_sasl else ""
        if not self.connection.uses_tls:
            if await self._speaks_tls():
                text = f"it speaks TLS, and KAFKA_SECURITY_PROTOCOL is {speaks}: set it to {sasl}SSL"
                return _Finding(f"{text}, with KAFKA_SSL_CAFILE", final=True)
            return None
        if await self._speaks_plain():
            text = f"it does not speak TLS, and KAFKA_SECURITY_PROTOCOL is {speaks}"
            return _Finding(f"{text}: take the port of a listener that does, or set it to {sasl}PLAINTEXT", final=True)
        alert = await self._alert()
        if not alert or not any(word in alert for word in _ABOUT_CERTIFICATES):
            return None
        return _Finding(self._certificate(alert), final=True)

    async def _speaks_tls(self) -> bool:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent but the greeting
        try:
            async with asyncio.timeout(self.timeout):
                _, writer = await asyncio.open_connection(self.host, self.port, ssl=context)
        except ssl.SSLError as error:
            return _alert_of(error) is not None
        except (OSError, TimeoutError):
            return False
        await _close(writer)
        return True

    async def _speaks_plain(self) -> bool:
        """Whether it answers to the one request that is allowed before anything is proven."""
        try:
            opened = await self.connect({"security_protocol": "PLAINTEXT"})
        except (OSError, errors.KafkaError, TimeoutError):
            return False
        opened.close()
        return True

    async def _alert(self) -> str | None:
        """What the server says to the client's certificate, or to its want of one.

        In TLS 1.3 the handshake has ended for the client when the server looks at that: it is read without a request,
        which could cross the server's alert and make it lost.
        """
        try:
            async with asyncio.timeout(self.timeout):
                reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.connection.tls())
        except ssl.SSLError as error:
            return _alert_of(error)
        except (OSError, TimeoutError):
            return None
        try:
            async with asyncio.timeout(self.timeout):
                await reader.read(1)
        except ssl.SSLError as error:
            return _alert_of(error)
        except (OSError, TimeoutError):
            return None
        finally:
            await _close(writer)
        return None

    async def _offered(self) -> list[str]:
        """The mechanisms that the listener offers; none where it does not use SASL."""
        security: dict[str, object] = {"security_protocol": "SSL" if self.connection.uses_tls else "PLAINTEXT"}
        if self.connection.uses_tls:
            security["ssl_context"] = self.connection.tls()
        try:
            opened = await self.connect(security)
        except (OSError, errors.KafkaError, TimeoutError):
            return []
        try:
            async with asyncio.timeout(self.timeout):
                answer = await opened.send(SaslHandShakeRequest("unknown"))
        except (OSError, errors.KafkaError, TimeoutError):
            return []
        finally:
            opened.close()
        if answer.error_code != errors.UnsupportedSaslMechanismError.errno:
            return []
        return sorted(str(each)[:40] for each in answer.enabled_mechanisms)

    # --- sentences ---

    async def _other_mechanism(self) -> str:
        text = f"it does not offer the KAFKA_SASL_MECHANISM {self.connection.sasl_mechanism}"
        offered = await self._offered()
        return f"{text}: set it to {' or '.join(offered)}" if offered else text

    def _unproven(self, cause: errors.KafkaError) -> str:
        said = f" (it says: {str(cause.args[0])[:_MAX_TEXT]})" if cause.args and cause.args[0] else ""
        if self.connection.sasl_mechanism == "OAUTHBEARER":
            subject = getattr(self.connection.sasl_token, "subject", None)
            whose = f" of {subject!r}" if subject else ""
            return (
                f"it does not take the token{whose}{said}; are issuer, audience and signing keys those that the broker "
                "expects (KAFKA_OAUTH_TOKEN_URL, KAFKA_OAUTH_SCOPE, KAFKA_OAUTH_TOKEN_FILE), and its clock right?"
            )
        return (
            f"authentication failed{said}; check KAFKA_SASL_USERNAME ({self.connection.sasl_username}) and "
            f"KAFKA_SASL_PASSWORD, and that the broker has this user for the KAFKA_SASL_MECHANISM "
            f"{self.connection.sasl_mechanism}"
        )

    def _untrusted(self, cause: ssl.SSLCertVerificationError) -> str:
        match cause.verify_code:
            case code if code in (_OTHER_NAME, _OTHER_ADDRESS):
                return (
                    f"its certificate is for another name than {self.host}; write a name that it has into "
                    "KAFKA_BOOTSTRAP_SERVERS, or let the broker have a certificate with this one"
                )
            case code if code in (_EXPIRED, _NOT_YET_VALID):
                return f"its certificate does not hold now ({cause.verify_message}); renew it, or set the clock right"
        trusted = self.connection.ssl_cafile
        where = f"KAFKA_SSL_CAFILE ({trusted})" if trusted else "this system, and KAFKA_SSL_CAFILE is not set"
        return (
            f"its certificate is signed by no authority of {where} ({cause.verify_message}); set KAFKA_SSL_CAFILE to "
            "the authority that signed it"
        )

    def _certificate(self, alert: str) -> str:
        said = f"it ends the TLS handshake ({alert})"
        file = self.connection.ssl_certfile
        if file is None:
            return f"{said}: it may want a certificate of the client; set KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"
        ended = _ended(file)
        if ended is not None:
            return f"{said}: KAFKA_SSL_CERTFILE ({file}) has expired at {ended:%Y-%m-%dT%H:%M:%SZ}; renew it"
        return (
            f"{said}: it does not take KAFKA_SSL_CERTFILE ({file}); the authority that signed it must be in the "
            "broker's ssl.truststore"
        )


def _alert_of(error: ssl.SSLError) -> str | None:
    """The alert that the other side sent, in OpenSSL's words: `bad certificate`."""
    _, found, name = (error.reason or "").partition("ALERT_")
    return name.lower().replace("_", " ") if found else None


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()


def _ended(certfile: str) -> datetime | None:
    """When the client's certificate expired; None where it did not, or can't be read."""
    from cryptography import x509  # noqa: PLC0415 - most commands do without it

    try:
        ends = x509.load_pem_x509_certificate(Path(certfile).read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
    return ends if ends < datetime.now(UTC) else None
