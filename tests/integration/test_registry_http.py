"""Packages from an HTTP registry, over real sockets: what is taken, what is refused, and what is asked again."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trustme

from consumer.adapters.api.guard import AddressGuard
from consumer.adapters.api.transport import Transport
from consumer.errors import PermanentError, TemporaryError
from consumer.outward import registry
from consumer.outward.registry import Chain, HttpPackages
from schemas.canonical import digest
from tests.support import http_server
from tests.support.http_server import Exchange, Server

pytestmark = pytest.mark.timeout(60)
PATH = "/workflows/small-1.0.0"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with http_server.serve() as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    made = Transport(AddressGuard(("*",)))
    yield made
    made.close()


def package(name: str = "small", version: str = "1.0.0", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "version": version},
        "spec": {"handlers": [{"name": "a", "type": "delay", "config": {"duration": "0s"}}], **spec},
    }


async def test_a_package_comes_as_an_object_or_as_yaml_text(server: Server, transport: Transport) -> None:
    source = HttpPackages(server.base, transport, token="let-me-in")
    server.answer(PATH, 200, body={"wpk_content": package()})
    found = await source.resolve("small-1.0.0")
    assert (found.content, found.digest, found.origin) == (package(), digest(package()), server.url(PATH))
    assert server.requests[-1].headers["authorization"] == "Bearer let-me-in"

    server.answer(PATH, 200, body={"wpk_content": json.dumps(package())})
    assert (await source.resolve("small-1.0.0")).content == package()


async def test_what_has_not_changed_is_not_sent_again(server: Server, transport: Transport) -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.headers.get("if-none-match") == '"v1"':
            await exchange.head(304, {"ETag": '"v1"', "Content-Length": "0"})
        else:
            await exchange.reply(200, json.dumps({"wpk_content": package()}), {"ETag": '"v1"'})

    server.route(PATH, handler)
    source = HttpPackages(server.base, transport)
    first, second = await source.resolve("small-1.0.0"), await source.resolve("small-1.0.0")
    assert second.content is first.content
    assert [request.headers.get("if-none-match") for request in server.requests] == [None, '"v1"']


async def test_few_answers_are_kept(server: Server, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_KEPT", 1)
    source = HttpPackages(server.base, transport)
    for name in ("small", "other"):
        body = {"wpk_content": package(name)}
        server.answer(f"/workflows/{name}-1.0.0", 200, body=body, headers={"ETag": f'"{name}"'})
    for name in ("small", "other", "small"):
        await source.resolve(f"{name}-1.0.0")
    assert [request.headers.get("if-none-match") for request in server.requests] == [None, None, None]


@pytest.mark.parametrize(
    ("status", "code"), [(404, "unknown_package"), (403, "registry_refused"), (302, "registry_refused")]
)
async def test_an_answer_that_time_does_not_mend_is_permanent(
    server: Server, transport: Transport, status: int, code: str
) -> None:
    server.answer(PATH, status, headers={"Location": server.url("/elsewhere")})
    with pytest.raises(PermanentError) as caught:
        await HttpPackages(server.base, transport).resolve("small-1.0.0")
    assert caught.value.code == code
    assert len(server.requests) == 1, "a redirect is not followed"


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_in_trouble_is_asked_again(server: Server, transport: Transport, status: int) -> None:
    server.answer(PATH, status)
    with pytest.raises(TemporaryError, match=str(status)):
        await HttpPackages(server.base, transport).resolve("small-1.0.0")


async def test_a_server_that_does_not_answer_is_given_up_in_time(
    server: Server, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "TIMEOUT", 0.1)
    server.route(PATH, http_server.ROUTES["/silent"])
    with pytest.raises(TemporaryError, match="no answer within"):
        await HttpPackages(server.base, transport).resolve("small-1.0.0")


async def test_a_server_that_is_not_there_is_asked_again(transport: Transport) -> None:
    async with http_server.serve() as gone:
        base = gone.base
    with pytest.raises(TemporaryError, match="no connection"):
        await HttpPackages(base, transport).resolve("small-1.0.0")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"wpk_content": package("another")}, "the package is another-1.0.0"),
        ({"wpk_content": package(version="2.0.0")}, "the package is small-2.0.0"),
        ({"something": 1}, 'no object with "wpk_content"'),
        ({"wpk_content": [1]}, 'no object with "wpk_content"'),
        ({"wpk_content": package(**{"x-padding": "x" * (1 << 20)})}, "larger than 1 MB"),
        ({"wpk_content": package(**{"x-number": 1 << 53})}, r"beyond 2\^53"),
    ],
)
async def test_an_answer_that_is_not_what_was_asked_for_is_refused(
    server: Server, transport: Transport, body: object, why: str
) -> None:
    server.answer(PATH, 200, body=body)
    with pytest.raises(PermanentError, match=why) as caught:
        await HttpPackages(server.base, transport).resolve("small-1.0.0")
    assert caught.value.code == "bad_package"


async def test_a_digest_holds_the_registry_to_the_very_content(server: Server, transport: Transport) -> None:
    source, wanted = HttpPackages(server.base, transport), digest(package())
    server.answer(f"/workflows/{wanted}", 200, body={"wpk_content": package()})
    assert (await source.resolve(wanted)).digest == wanted
    server.answer(f"/workflows/{wanted}", 200, body={"wpk_content": package(outputs={"x": "y"})})
    with pytest.raises(PermanentError, match="was asked for"):
        await source.resolve(wanted)


async def test_a_name_with_a_slash_stays_in_its_place(server: Server, transport: Transport) -> None:
    server.fallback = lambda exchange: exchange.reply(404)
    with pytest.raises(PermanentError):
        await HttpPackages(server.base, transport).resolve("../admin?x=1")
    assert [request.path for request in server.requests] == ["/workflows/../admin?x=1"]
    assert server.requests[0].query == {}


async def test_a_certificate_of_a_foreign_authority_is_not_trusted(transport: Transport) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with http_server.serve(tls=context) as server:
        server.answer(PATH, 200, body={"wpk_content": package()})
        with pytest.raises(TemporaryError, match="certificate is not trusted"):
            await HttpPackages(server.base, transport).resolve("small-1.0.0")
        trusted = HttpPackages(server.base, transport, verify=authority.cert_pem.bytes().decode())
        assert (await trusted.resolve("small-1.0.0")).content == package()


async def test_the_second_source_is_asked_for_what_the_first_does_not_know(
    server: Server, transport: Transport
) -> None:
    first, second = HttpPackages(server.url("/first"), transport), HttpPackages(server.url("/second"), transport)
    chain = Chain((first, second))
    server.answer(f"/first{PATH}", 404)
    server.answer(f"/second{PATH}", 200, body={"wpk_content": package()})
    assert (await chain.resolve("small-1.0.0")).origin == server.url(f"/second{PATH}")

    server.answer(f"/second{PATH}", 404)
    with pytest.raises(PermanentError, match=r"/first/.*; .*/second/") as caught:
        await chain.resolve("small-1.0.0")
    assert caught.value.code == "unknown_package"

    server.answer(f"/first{PATH}", 503)
    server.answer(f"/second{PATH}", 200, body={"wpk_content": package()})
    with pytest.raises(TemporaryError):  # else what runs would depend on which of them is well
        await asyncio.wait_for(chain.resolve("small-1.0.0"), 30)
