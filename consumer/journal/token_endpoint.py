"""Tokens from an endpoint, by the client credentials grant."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

import httpx
from aiokafka.errors import KafkaError
from pydantic import BaseModel, ValidationError

from consumer.journal.tokens import MAX_BYTES, TOKEN, TokenRefused, TokenUnavailable, claims_of

#: How long the endpoint may take for everything (seconds).
ENDPOINT_SECONDS = 10.0
#: A token is used until so much of its life has passed, so that clocks may differ and no connection begins with one
#: that is about to end.
USED_SHARE = 0.8
#: RFC 6749 leaves `expires_in` out where "the documentation" says it; then the token is asked for anew after that time.
UNTOLD_LIFETIME = 60.0
#: An endpoint that failed is asked again after this pause only, however many connections wait (seconds).
FAILED_PAUSE = 1.0


class _Answer(BaseModel):
    """RFC 6749, section 5.1."""

    access_token: str
    expires_in: float | None = None


class _Refusal(BaseModel):
    """RFC 6749, section 5.2."""

    error: str = ""
    error_description: str = ""


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
        if response.status_code != 200 or len(response.content) > MAX_BYTES:
            raise TokenRefused(
                self._sentence(f"answers with status {response.status_code}", "is this the token endpoint itself?")
            )
        try:
            answer = _Answer.model_validate_json(response.content)
        except ValidationError:
            raise TokenRefused(  # the cause would show the token
                self._sentence("gives no access_token in JSON", "is this the token endpoint itself?")
            ) from None
        if not TOKEN.fullmatch(answer.access_token):
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
