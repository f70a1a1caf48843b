"""Answers that no honest server gives: bombs, drips, heads and bodies without end, lies about lengths, redirects.

Each is sent as bytes by a real server on loopback, see `test_answers`.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import cramjam

from tests.support.http_server import Exchange, Handler, compressed

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
#: What a bomb holds when it is unpacked (bytes).
SIZE = 50_000_000


@dataclass(frozen=True)
class Hostile:
    """One answer, and how the step must end."""

    handler: Handler
    code: str
    """Of the error."""
    said: str = ""
    """What the error says is wrong."""
    follow: bool = False
    """Whether the step follows redirects."""


def sent(*parts: bytes, code: str, said: str = "", then_close: bool = True) -> Hostile:
    """These bytes, and then the end or nothing more."""

    async def handler(exchange: Exchange) -> None:
        for part in parts:
            await exchange.send(part)
        if not then_close:
            await exchange.gone()

    return Hostile(handler, code, said)


def endless(first: bytes, again: bytes, *, code: str = "bad_answer", said: str = "") -> Hostile:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(first)
        while True:
            await exchange.send(again)

    return Hostile(handler, code, said)


def dripping(first: bytes, drops: Callable[[], AsyncIterator[bytes]]) -> Hostile:
    """A byte now and then, for ever: each alone comes in time."""

    async def handler(exchange: Exchange) -> None:
        await exchange.send(first)
        gone = asyncio.ensure_future(exchange.gone())
        try:
            async for drop in drops():
                await exchange.send(drop)
                if (await asyncio.wait([gone], timeout=0.05))[0]:
                    break
        finally:
            gone.cancel()

    return Hostile(handler, "timeout", "no complete answer within")


async def _for_ever(drop: bytes) -> AsyncIterator[bytes]:
    while True:
        yield drop


def sending_on(location: str, *, code: str, said: str) -> Hostile:
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    return Hostile(sent(head.encode("latin-1"), code="").handler, code, said, follow=True)


def answers() -> dict[str, Hostile]:
    """By what they do."""
    return {**_drips(), **_without_end(), **_lies(), **_no_http(), **_redirects()}


def _drips() -> dict[str, Hostile]:
    return {
        "a status line that drips": dripping(b"HTTP/1.1 ", lambda: _for_ever(b" ")),
        "headers that drip": dripping(OK, lambda: _for_ever(b"a: b\r\n")),
        "a name of a header that drips": dripping(OK, lambda: _for_ever(b"x")),
        "a body that drips": dripping(OK + b"Content-Length: 100000\r\n\r\n", lambda: _for_ever(b".")),
        "a body to the close that drips": dripping(OK + b"\r\n", lambda: _for_ever(b".")),
        "chunks that drip": dripping(CHUNKED, lambda: _for_ever(b"1\r\n.\r\n")),
        "a chunk's size that drips": dripping(CHUNKED, lambda: _for_ever(b"0")),
        "trailers that drip": dripping(CHUNKED + b"0\r\n", lambda: _for_ever(b"a: b\r\n")),
        "interim answers that drip": dripping(b"", lambda: _for_ever(b"HTTP/1.1 102 Processing\r\n\r\n")),
        "no answer at all": sent(code="timeout", said="no complete answer within", then_close=False),
    }


def _without_end() -> dict[str, Hostile]:
    return {
        "headers without end": endless(OK, b"X-More: " + b"x" * 1000 + b"\r\n"),
        "one header without end": endless(OK + b"X: ", b"x" * 10_000),
        "a status line without end": endless(b"HTTP/1.1 200 ", b"O" * 10_000),
        "interim answers without end": endless(b"", b"HTTP/1.1 103 Hints\r\nLink: <" + b"x" * 10_000 + b">\r\n\r\n"),
        "a chunk's extension without end": endless(CHUNKED + b"1;", b"a=b;" * 2500),
        "chunks of nothing but extensions": endless(CHUNKED, b"1;" + b"x" * 10_000 + b"\r\n.\r\n", said="no end"),
        "a chunk's size without end": endless(CHUNKED, b"0" * 10_000),
        "trailers without end": endless(CHUNKED + b"0\r\n", b"X-More: " + b"x" * 1000 + b"\r\n"),
    }


def _lies() -> dict[str, Hostile]:
    whole = b"\r\n\r\nhello"
    return {
        "a length of an exabyte": sent(OK + b"Content-Length: 1000000000000000000" + whole, code="connection_lost"),
        "a length of 5000 digits": sent(OK + b"Content-Length: " + b"9" * 5000 + whole, code="bad_answer"),
        "a negative length": sent(OK + b"Content-Length: -5" + whole, code="bad_answer"),
        "a length in hex": sent(OK + b"Content-Length: 0x5" + whole, code="bad_answer"),
        "two lengths": sent(OK + b"Content-Length: 5\r\nContent-Length: 6" + whole, code="bad_answer"),
        "a chunk of an exabyte": sent(CHUNKED + b"de0b6b3a7640000\r\nhello", code="connection_lost"),
        "a chunk of no number": sent(CHUNKED + b"five\r\nhello\r\n", code="bad_answer"),
        "a chunk of a negative size": sent(CHUNKED + b"-5\r\nhello\r\n", code="bad_answer"),
        "a chunk without its end": sent(CHUNKED + b"5\r\nhello0\r\n\r\n", code="bad_answer"),
        "an unknown transfer coding": sent(OK + b"Transfer-Encoding: gzip" + whole, code="bad_answer"),
        "a body that is cut": sent(OK + b"Content-Length: 100" + whole, code="connection_lost"),
        "chunks that are cut": sent(CHUNKED + b"5\r\nhello\r\n", code="connection_lost"),
        "a compressed body that is none": sent(OK + b"Content-Encoding: gzip" + whole, code="bad_answer"),
        "a compressed body that is cut": sent(
            OK + b"Content-Encoding: gzip\r\n\r\n" + _gzip(b"x" * 10_000)[:-9], code="bad_answer", said="too early"
        ),
        "something behind a compressed body": sent(
            OK + b"Content-Encoding: gzip\r\n\r\n" + _gzip(b"x") + b"more", code="bad_answer", said="follows the end"
        ),
    }


def _no_http() -> dict[str, Hostile]:
    return {
        "nothing": sent(code="connection_lost"),
        "another protocol": sent(b"220 mail.example ESMTP\r\n\r\n", code="bad_answer"),
        "HTTP/2": sent(b"\0\0\x12\x04\0\0\0\0\0" + b"\0" * 18, code="bad_answer"),
        "a body alone": sent(b"<html></html>\r\n\r\n", code="bad_answer"),
        "zeros": sent(b"\0" * 1000 + b"\r\n\r\n", code="bad_answer"),
        "a status of no number": sent(b"HTTP/1.1 OK 200\r\n\r\n", code="bad_answer"),
        "a status of four digits": sent(b"HTTP/1.1 2000 OK\r\n\r\n", code="bad_answer"),
        "a NUL in a header": sent(OK + b"a: b\0c\r\n\r\n", code="bad_answer"),
        "a space in a header's name": sent(OK + b"a b: c\r\n\r\n", code="bad_answer"),
        "a header without a name": sent(OK + b": c\r\n\r\n", code="bad_answer"),
        "a switch of protocols": sent(
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", code="bad_answer", then_close=False
        ),
        "half a head": sent(OK + b"a: ", code="connection_lost"),
    }


def _redirects() -> dict[str, Hostile]:
    blocked = {
        "the metadata service": "http://169.254.169.254/latest/meta-data/",
        "the metadata service by IPv6": "http://[fd00:ec2::254]/",
        "a private address": "http://10.0.0.1/",
        "a mapped address": "http://[::ffff:10.0.0.1]/",
        "a decimal address": "http://2852039166/",
    }
    no_url = {
        "a file": "file:///etc/passwd",
        "a script": "javascript:alert(1)",
        "a Unix socket": "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
        "no URL": "http://[::1",
        "a host with a line break": "http://a%0d%0ab/",
    }
    return {
        **{
            f"a redirect to {name}": sending_on(location, code="address_blocked", said="WPK_HTTP_ALLOW")
            for name, location in blocked.items()
        },
        **{
            f"a redirect to {name}": sending_on(location, code="redirect", said="is not followed")
            for name, location in no_url.items()
        },
        "a redirect to a redirect to a private address": sending_on("/hop", code="address_blocked", said="10.0.0.1"),
        "a redirect to a very long URL": sending_on("/" + "x" * 60_000, code="http_status", said="got 302"),
        "a redirect in a circle": sending_on("?again", code="redirect", said="more than 3 redirects"),
    }


def _gzip(data: bytes) -> bytes:
    pack = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return pack.compress(data) + pack.flush()


def bombs() -> dict[str, Callable[[Exchange], Awaitable[None]]]:
    """Bodies of a few kilobytes that hold `SIZE` bytes."""
    zeros = bytes(SIZE)
    deep = _gzip(b"[" * SIZE)
    packed = _gzip(zeros)
    return {
        "gzip": compressed(packed),
        "gzip within gzip": compressed(_gzip(packed)),
        "gzip twice": compressed(_gzip(packed), "gzip, gzip"),
        "deflate": compressed(zlib.compress(zeros, 9), "deflate"),
        "brotli": compressed(bytes(cramjam.brotli.compress(zeros, 5)), "br"),
        "zstd": compressed(bytes(cramjam.zstd.compress(zeros)), "zstd"),
        "JSON nested deeply": compressed(deep, "gzip", "application/json"),
    }
