"""Tokens for OAUTHBEARER: from a token endpoint or from a file, and what the broker says of one that it refuses.

aiokafka asks for a token once per connection; what is raised here as a KafkaError fails that connection and no more.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson
from aiokafka import conn as connections
from aiokafka.errors import KafkaError, SaslAuthenticationFailed

from consumer.errors import SettingsError

MAX_BYTES = 64 * 1024
#: What may stand behind "Bearer" (RFC 6750, section 2.1).
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
#: Ends the exchange after the server told its error (RFC 7628, section 3.2.3).
_DUMMY_RESPONSE = b"\x01"


class TokenError(KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """There is no token; the text is a sentence with the remedy."""

    def __str__(self) -> str:
        return str(self.args[0])


class TokenUnavailable(TokenError):
    """There is no token now; there may be one later."""

    retriable = True


class TokenRefused(TokenError):
    """There will be no token until somebody mends the settings or the endpoint."""

    retriable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a JWT says of itself, unverified: for messages only."""

    subject: str | None = None
    expires_at: float | None = None
    """Seconds since 1970."""


@dataclass(kw_only=True)
class TokenFile:
    """A file that somebody else renews, as the kubelet does a projected token. It is read for each connection."""

    path: Path
    clock: Callable[[], float] = time.time
    subject: str | None = None
    """Whose the last token was, where it says so."""

    async def __call__(self) -> str:
        """The file's token. Raises TokenRefused, and TokenUnavailable where it has expired: it may be renewed."""
        token = await asyncio.to_thread(self._read)
        if not TOKEN.fullmatch(token):
            raise TokenRefused(f"KAFKA_OAUTH_TOKEN_FILE is {self.path}, which does not hold one token and nothing else")
        claims = claims_of(token)
        self.subject = claims.subject
        if claims.expires_at is not None and claims.expires_at <= self.clock():
            ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(claims.expires_at))
            raise TokenUnavailable(
                f"KAFKA_OAUTH_TOKEN_FILE is {self.path}, whose token has expired at {ended}; who renews it?"
            )
        return token

    def _read(self) -> str:
        try:
            with self.path.open("rb") as file:
                return file.read(MAX_BYTES).decode("ascii", errors="replace").strip()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise TokenRefused(f"KAFKA_OAUTH_TOKEN_FILE is {self.path}, which can't be read: {reason}") from error


def claims_of(token: str) -> Claims:
    """What the token says of itself; nothing where it is no JWT (RFC 7519)."""
    parts = token.split(".")
    if len(parts) != 3:
        return Claims()
    try:
        body = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return Claims()
    if not isinstance(body, dict):
        return Claims()
    subject, ends = body.get("sub"), body.get("exp")
    return Claims(
        subject=subject if isinstance(subject, str) else None,
        expires_at=float(ends) if isinstance(ends, int | float) else None,
    )


class _Authenticator(Protocol):
    _token_sent: bool


_Step = Callable[[_Authenticator, bytes | None], Awaitable[tuple[str | bytes, bool] | None]]


def install() -> None:
    """Makes aiokafka 0.14 hear that a broker refuses a token; does nothing the second time.

    A server refuses by a message that is no error of Kafka's protocol yet: the client has to answer it before the error
    comes (RFC 7628, section 3.2.3). aiokafka takes that message for success, and then loses the connection over and
    over without ever knowing why.
    """
    authenticator = connections.OAuthAuthenticator
    if not hasattr(authenticator.step, "__wrapped__"):
        authenticator.step = _hearing_refusals(authenticator.step)


def _hearing_refusals(original: _Step) -> _Step:
    @functools.wraps(original)
    async def step(self: _Authenticator, payload: bytes | None) -> tuple[str | bytes, bool] | None:
        if self._token_sent and payload:
            if getattr(self, "_refused", False):  # it should have ended with an error by now
                raise SaslAuthenticationFailed("the server goes on after it refused the token")
            self._refused = True  # type: ignore[attr-defined]
            return _DUMMY_RESPONSE, True
        return await original(self, payload)

    return step


class Source(Protocol):
    """Gives a token that holds, cached by itself. Raises TokenError."""

    subject: str | None

    async def __call__(self) -> str: ...


NO_SOURCE = (
    "KAFKA_SASL_MECHANISM is OAUTHBEARER but there is no source of tokens: set KAFKA_OAUTH_TOKEN_URL "
    "(with KAFKA_OAUTH_CLIENT_ID and KAFKA_OAUTH_CLIENT_SECRET) or KAFKA_OAUTH_TOKEN_FILE"
)


def source(
    *,
    url: str | None,
    client_id: str | None,
    client_secret: str | None,
    scope: str | None,
    cafile: str | None,
    file: Path | None,
) -> Source:
    """Where the settings say that tokens come from. Raises SettingsError where they don't, or contradict each other."""
    if url and file:
        raise SettingsError("KAFKA_OAUTH_TOKEN_URL and KAFKA_OAUTH_TOKEN_FILE are both set: set one of them")
    if file:
        return TokenFile(path=file)
    if not url:
        raise SettingsError(NO_SOURCE)
    if not client_id or not client_secret:
        raise SettingsError(
            "KAFKA_OAUTH_TOKEN_URL is set: KAFKA_OAUTH_CLIENT_ID and KAFKA_OAUTH_CLIENT_SECRET must be set too"
        )
    from consumer.journal.token_endpoint import ClientCredentials  # noqa: PLC0415 - httpx takes long to import

    return ClientCredentials(url=url, client_id=client_id, client_secret=client_secret, scope=scope, cafile=cafile)
