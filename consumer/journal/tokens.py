"""Tokens for OAUTHBEARER: from a token endpoint or from a file, and what the broker says of one that it refuses.

aiokafka asks for a token once per connection; what is raised here as a KafkaError fails that connection and no more.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import httpx
import orjson
from aiokafka import conn as connections
from aiokafka.errors import KafkaError, SaslAuthenticationFailed
from pydantic import BaseModel, ValidationError

from consumer.errors import SettingsError

#: How long the endpoint may take for everything (seconds).
ENDPOINT_SECONDS = 10.0
#: A token is used until so much of its life has passed, so that clocks may differ and no connection begins with one
#: that is about to end.
USED_SHARE = 0.8
#: RFC 6749 leaves `expires_in` out where "the documentation" says it; then the token is asked for anew after that time.
UNTOLD_LIFETIME = 60.0
#: An endpoint that failed is asked again after this pause only, however many connections wait (seconds).
FAILED_PAUSE = 1.0
_MAX_BYTES = 64 * 1024
#: What may stand behind "Bearer" (RFC 6750, section 2.1).
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
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


class _Answer(BaseModel):
    """RFC 6749, section 5.1."""

    access_token: str
    expires_in: float | None = None


class _Refusal(BaseModel):
    """RFC 6749, section 5.2."""

    error: str = ""
    error_description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a JWT says of itself, unverified: for messages only."""

    subject: str | None = None
    expires_at: float | None = None
    """Seconds since 1970."""


@dataclass(slots=True)
class _Cached:
    token: str
    use_until: float
    """On the monotonic clock, as is what follows."""
    ends_at: float


@dataclass(kw_only=True)
class ClientCredentials:
    """The client credentials grant (RFC 6749, section 4.4), with the secret in the Authorization header.

    Any number of connections may ask at once: the endpoint is asked by one of them. Where it fails, a token that has
    not ended is still given.
    """

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str | None = None
    cafile: str | None = None
    now: Callable[[], float] = time.monotonic
    subject: str | None = None
    """Whose the last token was, where it says so."""

    def __post_init__(self) -> None:
        self._lock = asyncio.Lock()
        self._cached: _Cached | None = None
        self._failed: tuple[float, KafkaError] | None = None

    async def __call__(self) -> str:
        """A token that holds. Raises TokenUnavailable and TokenRefused."""
        async with self._lock:
            cached = self._cached
            if cached is not None and self.now() < cached.use_until:
                return cached.token
            try:
                self._cached = await self._renewed()
            except KafkaError:
                if cached is not None and self.now() < cached.ends_at:
                    return cached.token
                raise
            return self._cached.token

    async def _renewed(self) -> _Cached:
        if self._failed is not None and self.now() < self._failed[0] + FAILED_PAUSE:
            raise self._failed[1]
        asked_at = self.now()
        try:
            answer = await self._asked()
        except KafkaError as error:
            self._failed = self.now(), error
            raise
        self._failed = None
        self.subject = claims_of(answer.access_token).subject
        lifetime = UNTOLD_LIFETIME if answer.expires_in is None else answer.expires_in
        ends_at = asked_at + lifetime
        return _Cached(answer.access_token, asked_at + lifetime * USED_SHARE, ends_at)

    async def _asked(self) -> _Answer:
        fields = {"grant_type": "client_credentials"}
        if self.scope:
            fields["scope"] = self.scope
        # RFC 6749, section 2.3.1: both are form-encoded before they are put together.
        credentials = httpx.BasicAuth(quote(self.client_id, safe=""), quote(self.client_secret, safe=""))
        verify = await asyncio.to_thread(self._trusted)
        try:
            async with asyncio.timeout(ENDPOINT_SECONDS), httpx.AsyncClient(verify=verify, trust_env=False) as client:
                response = await client.post(
                    self.url, data=fields, auth=credentials, headers={"Accept": "application/json"}
                )
        except TimeoutError as error:
            raise TokenUnavailable(self._sentence(f"does not answer within {ENDPOINT_SECONDS:g} s")) from error
        except httpx.ConnectError as error:
            raise self._unconnected(error) from error
        except httpx.HTTPError as error:
            raise TokenUnavailable(self._sentence(f"can't be asked ({str(error) or type(error).__name__})")) from error
        return self._read(response)

    def _trusted(self) -> ssl.SSLContext:
        """Reads the file each time: an authority may be renewed."""
        try:
            return ssl.create_default_context(cafile=self.cafile)
        except (OSError, ssl.SSLError) as error:
            raise TokenRefused(f"KAFKA_OAUTH_CAFILE is {self.cafile}, which can't be used: {error}") from error

    def _unconnected(self, error: httpx.ConnectError) -> KafkaError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                reason = f"has a certificate that is not trusted ({cause.verify_message})"
                return TokenRefused(self._sentence(reason, "set KAFKA_OAUTH_CAFILE to the authority that signed it"))
            cause = cause.__cause__ or cause.__context__
        return TokenUnavailable(self._sentence(f"can't be reached ({error})", "is it right, and does it run?"))

    def _read(self, response: httpx.Response) -> _Answer:
        """Raises TokenUnavailable and TokenRefused. What the endpoint sent is never shown but for RFC 6749's error."""
        if response.status_code == 429 or response.status_code >= 500:
            raise TokenUnavailable(self._sentence(f"answers with status {response.status_code}"))
        if response.status_code >= 400:
            raise TokenRefused(self._refusal(response))
        if response.status_code != 200 or len(response.content) > _MAX_BYTES:
            raise TokenRefused(
                self._sentence(f"answers with status {response.status_code}", "is this the token endpoint itself?")
            )
        try:
            answer = _Answer.model_validate_json(response.content)
        except ValidationError:
            raise TokenRefused(  # the cause would show the token
                self._sentence("gives no access_token in JSON", "is this the token endpoint itself?")
            ) from None
        if not _TOKEN.fullmatch(answer.access_token):
            raise TokenRefused(self._sentence("gives an access_token that is none (RFC 6750)"))
        return answer

    def _refusal(self, response: httpx.Response) -> str:
        try:
            told = _Refusal.model_validate_json(response.content)
        except ValidationError:
            told = _Refusal()
        said = ": ".join(part[:150] for part in (told.error, told.error_description) if part)
        remedies = {
            "invalid_client": "check KAFKA_OAUTH_CLIENT_ID and KAFKA_OAUTH_CLIENT_SECRET",
            "unauthorized_client": "allow the client credentials grant for KAFKA_OAUTH_CLIENT_ID there",
            "invalid_scope": f"KAFKA_OAUTH_SCOPE is {self.scope or 'not set'}",
        }
        fallback = remedies["invalid_client"] if response.status_code in (401, 403) else "is it the token endpoint?"
        reason = f"gives client {self.client_id} no token: status {response.status_code}{said and f', {said}'}"
        return self._sentence(reason, remedies.get(told.error, fallback))

    def _sentence(self, problem: str, remedy: str = "") -> str:
        return f"the token endpoint KAFKA_OAUTH_TOKEN_URL ({self.url}) {problem}{remedy and f'; {remedy}'}"


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
        if not _TOKEN.fullmatch(token):
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
                return file.read(_MAX_BYTES).decode("ascii", errors="replace").strip()
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
    return ClientCredentials(url=url, client_id=client_id, client_secret=client_secret, scope=scope, cafile=cafile)
