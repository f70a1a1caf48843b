"""A server that means harm takes bounded time and memory, and its step ends in an error that says what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable

import pytest
import trustme
from pydantic import JsonValue

from consumer.adapters import api
from consumer.adapters.api.body import MAX_KEPT
from consumer.errors import StepError
from tests.security.answers import SIZE, Hostile, answers, bombs
from tests.support import http_server
from tests.support.api_steps import run

#: What a step may take in memory (bytes); the largest part is the megabyte of the body that is read, in its forms.
MOST_MEMORY = 12_000_000
ADAPTER = api.ApiAdapter(allow=["127.0.0.0/8"])


@pytest.fixture
async def server() -> AsyncIterator[http_server.Server]:
    async with http_server.serve() as running:
        yield running


async def ended(url: str, **more: JsonValue) -> StepError:
    with pytest.raises(StepError) as caught:
        await run(ADAPTER, {"url": url, "timeout": "60s", **more})
    return caught.value


async def test_every_hostile_answer_ends_in_an_error_that_says_what_is_wrong(
    server: http_server.Server, record_property: Callable[[str, object], None]
) -> None:
    given = answers()
    for number, hostile in enumerate(given.values()):
        server.route(f"/{number}", hostile.handler)

    server.answer("/hop", 302, headers={"Location": "http://10.0.0.1/"})

    async def one(number: int, hostile: Hostile) -> StepError:
        limit = "2s" if hostile.code == "timeout" else "60s"
        return await ended(server.url(f"/{number}"), timeout=limit, follow_redirects=hostile.follow)

    errors = await asyncio.gather(*(one(number, hostile) for number, hostile in enumerate(given.values())))
    wrong = [
        f"{name}: {error.code} {error}"
        for (name, hostile), error in zip(given.items(), errors, strict=True)
        if error.code != hostile.code or hostile.said not in str(error) or len(str(error)) > 1000
    ]
    told = f"hostile answers: {len(given)} given, {len(given) - len(wrong)} ended by an error that says what is wrong"
    record_property("measured", told)
    assert not wrong, "\n".join(wrong)


async def test_a_bomb_of_any_kind_takes_little_memory_and_is_cut(
    server: http_server.Server, record_property: Callable[[str, object], None]
) -> None:
    made = await asyncio.to_thread(bombs)
    for name, handler in made.items():
        path = f"/{name.replace(' ', '-')}"
        server.route(path, handler)
        tracemalloc.start()
        try:
            output = await run(ADAPTER, {"url": server.url(path), "timeout": "60s"})
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MOST_MEMORY, f"{name} took {peak} bytes of {SIZE}"
        assert len(str(output["body"])) <= MAX_KEPT + 100, name
    told = f"hostile answers: {len(made)} bombs of {SIZE} bytes, none of which took more than {MOST_MEMORY} bytes"
    record_property("measured", told)


@contextlib.asynccontextmanager
async def secure(leaf: trustme.LeafCert, **options: object) -> AsyncIterator[http_server.Server]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(tls)
    for name, value in options.items():
        setattr(tls, name, value)
    async with http_server.serve(tls) as running:
        yield running


async def test_no_certificate_but_a_valid_one_of_a_trusted_authority_is_taken() -> None:
    authority, other = trustme.CA(), trustme.CA()
    pem = authority.cert_pem.bytes().decode()
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificates = {
        "expired": authority.issue_cert("localhost", not_before=past, not_after=past + datetime.timedelta(days=9)),
        "of another authority": other.issue_cert("localhost"),
        "for another name": authority.issue_cert("elsewhere.example"),
    }
    for name, leaf in certificates.items():
        async with secure(leaf) as server:
            error = await ended(server.url("/echo", host="localhost"), verify=pem)
            assert error.code == "tls", name
            assert "certificate is not trusted" in str(error), name
            assert server.requests == [], name
    async with secure(authority.issue_cert("localhost")) as server:
        assert (await run(ADAPTER, {"url": server.url("/echo", host="localhost"), "verify": pem}))["status"] == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_a_protocol_that_is_broken_is_not_spoken() -> None:
    authority = trustme.CA()
    pem = authority.cert_pem.bytes().decode()
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        async with secure(authority.issue_cert("localhost"), minimum_version=version, maximum_version=version) as old:
            error = await ended(old.url("/echo", host="localhost"), verify=pem)
            assert error.code == "tls", version
            assert old.requests == []


async def test_a_handshake_that_never_ends_is_given_up_in_time_and_the_connection_with_it() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                pass
        writer.close()
        gone.set()

    gone = asyncio.Event()
    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        error = await ended(f"https://127.0.0.1:{port}/", timeout="300ms")
        await asyncio.wait_for(gone.wait(), 60)
    assert error.code == "timeout"


async def test_an_answer_over_tls_that_is_cut_is_no_answer() -> None:
    authority = trustme.CA()
    pem = authority.cert_pem.bytes().decode()

    async def cut(exchange: http_server.Exchange) -> None:
        await exchange.head(200, {"Content-Length": "1000"})
        await exchange.send(b"only this")
        exchange.writer.transport.abort()

    async with secure(authority.issue_cert("localhost")) as server:
        server.route("/cut", cut)
        error = await ended(server.url("/cut", host="localhost"), verify=pem)
    assert error.code == "connection_lost"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"])
async def test_no_proxy_of_the_environment_gets_a_request(
    server: http_server.Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with http_server.serve() as proxy:
        monkeypatch.setenv(name, proxy.base)
        assert (await run(ADAPTER, {"url": server.url("/echo")}))["status"] == 200
        assert proxy.requests == []
