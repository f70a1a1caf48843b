"""Tokens for OAUTHBEARER, from a real endpoint on loopback and from files."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from aiokafka.conn import OAuthAuthenticator
from aiokafka.errors import SaslAuthenticationFailed

from consumer.journal import token_endpoint, tokens
from consumer.journal.token_endpoint import ClientCredentials
from consumer.journal.tokens import TokenError, TokenFile, TokenRefused, TokenUnavailable
from tests.support.http_server import Exchange, Server, serve

ROOT = Path(__file__).parents[2]
SECRET = "s3cret/with: every+thing"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def jwt(**claims: object) -> str:
    """A token that nobody signed."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims)]
    return ".".join([*parts, "c2ln"])


@pytest.fixture
async def endpoint() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


def gives(server: Server, *, expires_in: float | None = 100.0) -> None:
    """Gives another token each time."""
    given = 0

    async def answer(exchange: Exchange) -> None:
        nonlocal given
        given += 1
        lifetime = {} if expires_in is None else {"expires_in": expires_in}
        await exchange.reply_json({"access_token": f"token-{given}", "token_type": "Bearer", **lifetime})

    server.route("/token", answer)


def credentials(server: Server, clock: Clock | None = None, **more: str) -> ClientCredentials:
    return ClientCredentials(
        url=server.url("/token"), client_id="wpk agent", client_secret=SECRET, now=clock or Clock(), **more
    )


async def test_a_client_proves_itself_as_the_standard_says_and_asks_for_its_scope(endpoint: Server) -> None:
    gives(endpoint)
    assert await credentials(endpoint, scope="kafka write")() == "token-1"
    [request] = endpoint.requests
    user, _, password = (
        base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode().partition(":")
    )
    assert (user, password) == ("wpk%20agent", "s3cret%2Fwith%3A%20every%2Bthing")
    assert request.body == b"grant_type=client_credentials&scope=kafka+write"
    assert request.method == "POST"


async def test_one_token_serves_all_connections_until_shortly_before_its_end(endpoint: Server) -> None:
    gives(endpoint)
    clock = Clock()
    source = credentials(endpoint, clock)
    assert set(await asyncio.gather(*(source() for _ in range(20)))) == {"token-1"}
    clock.now += 79
    assert await source() == "token-1"
    clock.now += 2
    assert await source() == "token-2"
    assert len(endpoint.requests) == 2


async def test_a_token_of_an_untold_lifetime_is_asked_for_anew_soon(endpoint: Server) -> None:
    gives(endpoint, expires_in=None)
    clock = Clock()
    source = credentials(endpoint, clock)
    await source()
    clock.now += token_endpoint.UNTOLD_LIFETIME
    assert await source() == "token-2"


async def test_while_the_endpoint_fails_a_token_is_used_to_its_end_and_no_further(endpoint: Server) -> None:
    gives(endpoint)
    clock = Clock()
    source = credentials(endpoint, clock)
    await source()
    endpoint.answer("/token", 503)
    clock.now += 90
    assert await source() == "token-1"
    clock.now += 11
    with pytest.raises(TokenUnavailable, match="answers with status 503"):
        await source()


async def test_an_endpoint_that_fails_is_not_asked_by_every_connection(endpoint: Server) -> None:
    endpoint.answer("/token", 503)
    clock = Clock()
    source = credentials(endpoint, clock)
    results = await asyncio.gather(*(source() for _ in range(20)), return_exceptions=True)
    assert all(isinstance(each, TokenUnavailable) for each in results)
    assert len(endpoint.requests) == 1
    clock.now += token_endpoint.FAILED_PAUSE
    gives(endpoint)
    assert await source() == "token-1"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (
            401,
            {"error": "invalid_client"},
            r"gives client wpk agent no token: status 401, invalid_client; check KAFKA_O",
        ),
        (400, {"error": "invalid_scope", "error_description": "no such"}, r"no such; KAFKA_OAUTH_SCOPE is not set"),
        (400, {"error": "unauthorized_client"}, r"allow the client credentials grant for KAFKA_OAUTH_CLIENT_ID"),
        (404, ["no"], r"status 404; is it the token endpoint\?"),
        (302, {}, r"answers with status 302; is this the token endpoint itself\?"),
        (200, {"token": "hunter2"}, r"gives no access_token in JSON"),
        (200, {"access_token": "hunter2 \u0001 x"}, r"gives an access_token that is none"),
    ],
)
async def test_what_waiting_does_not_mend_is_refused_with_the_setting_to_look_at(
    endpoint: Server, status: int, body: object, message: str
) -> None:
    endpoint.answer("/token", status, body=body)
    with pytest.raises(TokenRefused, match=message) as raised:
        await credentials(endpoint)()
    assert f"KAFKA_OAUTH_TOKEN_URL ({endpoint.url('/token')})" in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


async def test_an_endpoint_that_is_not_there_may_come() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/token"
        source = ClientCredentials(url=url, client_id="a", client_secret="b")
        with pytest.raises(TokenUnavailable, match=r"KAFKA_OAUTH_TOKEN_URL \(.*/token\) can't be reached"):
            await source()


async def test_an_endpoint_that_does_not_answer_is_given_up(endpoint: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_endpoint, "ENDPOINT_SECONDS", 0.05)
    source = ClientCredentials(url=endpoint.url("/silent"), client_id="a", client_secret="b")
    with pytest.raises(TokenUnavailable, match=r"does not answer within 0\.05 s"):
        await source()


async def test_an_endpoint_must_be_trusted(tmp_path: Path) -> None:
    mine, other = trustme.CA(), trustme.CA()
    for name, authority in (("mine.pem", mine), ("other.pem", other)):
        authority.cert_pem.write_to_path(tmp_path / name)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    mine.issue_cert("127.0.0.1").configure_cert(context)
    async with serve(tls=context) as server:
        gives(server)
        with pytest.raises(TokenRefused, match=r"not trusted .*; set KAFKA_OAUTH_CAFILE"):
            await credentials(server, cafile=str(tmp_path / "other.pem"))()
        assert await credentials(server, cafile=str(tmp_path / "mine.pem"))() == "token-1"
        with pytest.raises(TokenRefused, match=r"KAFKA_OAUTH_CAFILE is .*absent\.pem, which can't be used"):
            await credentials(server, cafile=str(tmp_path / "absent.pem"))()


async def test_a_file_is_read_anew_for_each_connection(tmp_path: Path) -> None:
    file = tmp_path / "token"
    source = TokenFile(path=file, clock=lambda: 1000.0)
    with pytest.raises(TokenRefused, match=r"KAFKA_OAUTH_TOKEN_FILE is .*token, which can't be read: No such file"):
        await source()
    first = jwt(sub="system:serviceaccount:wpk:agent", exp=1001)
    file.write_text(f"{first}\n")
    assert await source() == first
    assert source.subject == "system:serviceaccount:wpk:agent"
    file.write_text(jwt(exp=1000))
    with pytest.raises(TokenUnavailable, match="has expired at 1970-01-01T00:16:40Z"):
        await source()
    file.write_text("opaque-token")
    assert await source() == "opaque-token"
    file.write_text("two tokens")
    with pytest.raises(TokenRefused, match="does not hold one token"):
        await source()


@pytest.mark.parametrize("token", ["", "a.b", "a.!.c", "a.bm9uZQ.c", "a.W10.c", jwt(sub=1, exp="soon")])
def test_what_is_no_jwt_tells_nothing_of_itself(token: str) -> None:
    assert tokens.claims_of(token) == tokens.Claims()


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    source = ClientCredentials(url="http://h/", client_id="a", client_secret=SECRET)
    assert "s3cret" not in repr(source)
    assert isinstance(TokenRefused("x"), TokenError)


class Given:
    """Stands for aiokafka's token provider."""

    async def token(self) -> str:
        return "token-1"


async def test_the_refusal_of_a_token_is_answered_so_that_the_brokers_error_comes() -> None:
    tokens.install()
    tokens.install()
    exchange = OAuthAuthenticator(sasl_oauth_token_provider=Given())
    first, _ = await exchange.step(None)
    assert b"auth=Bearer token-1" in first
    assert await exchange.step(b'{"status":"invalid_token"}') == (b"\x01", True)
    with pytest.raises(SaslAuthenticationFailed):
        await exchange.step(b"and on it goes")


async def test_a_token_that_is_taken_ends_the_exchange() -> None:
    tokens.install()
    exchange = OAuthAuthenticator(sasl_oauth_token_provider=Given())
    await exchange.step(None)
    assert await exchange.step(b"") is None


def test_who_has_no_use_for_an_endpoint_does_not_wait_for_an_http_client_to_be_imported() -> None:
    code = "import sys, consumer.client; print(sorted({'httpx', 'cryptography.x509'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
