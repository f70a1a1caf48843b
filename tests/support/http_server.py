"""A real HTTP/1.1 server on loopback, on bare asyncio streams, so that it can also misbehave as real ones do.

async with http_server.serve() as server:
    server.answer("/health", 503, 503, 200)        # one status after the other, the last for ever
    … server.url("/echo") …
    server.requests[0].headers["idempotency-key"]
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

REASONS = {200: "OK", 201: "Created", 204: "No Content", 302: "Found", 404: "Not Found", 503: "Service Unavailable"}


@dataclass(frozen=True)
class Received:
    """One request as it came over the wire; header names in lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    host: str

    def json(self) -> object:
        return json.loads(self.body)


@dataclass
class Exchange:
    """What a handler gets: the request and the raw way to answer it."""

    request: Received
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: Server

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(
        self,
        status: int = 200,
        body: bytes | str = b"",
        headers: dict[str, str] | None = None,
        *,
        kind: str = "text/plain",
    ) -> None:
        payload = body.encode() if isinstance(body, str) else body
        lines = {"Content-Type": kind, "Content-Length": str(len(payload)), **(headers or {})}
        await self.head(status, lines)
        if self.request.method != "HEAD":
            await self.send(payload)

    async def reply_json(self, value: object, status: int = 200) -> None:
        await self.reply(status, json.dumps(value), kind="application/json")

    async def head(self, status: int, headers: dict[str, str]) -> None:
        text = f"HTTP/1.1 {status} {REASONS.get(status, 'Something')}\r\n"
        text += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        await self.send(text.encode("latin-1") + b"\r\n")

    async def gone(self) -> None:
        """Returns when the client has closed its side."""
        while await self.reader.read(65536):
            pass


Handler = Callable[[Exchange], Awaitable[None]]


@dataclass
class Server:
    """The running server. `requests` is what it has received, in order."""

    base: str = ""
    port: int = 0
    requests: list[Received] = field(default_factory=list)
    routes: dict[str, Handler] = field(default_factory=dict)
    #: Answers what has no route.
    fallback: Handler | None = None
    #: Paths whose client went away before the answer was complete.
    abandoned: list[str] = field(default_factory=list)
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, path: str = "/", host: str | None = None) -> str:
        base = self.base if host is None else f"{self.base.split('://', maxsplit=1)[0]}://{host}:{self.port}"
        return f"{base}{path}"

    def route(self, path: str, handler: Handler) -> None:
        self.routes[path] = handler

    def answer(self, path: str, *statuses: int, headers: dict[str, str] | None = None, body: object = None) -> None:
        """Answers with one status after the other; the last one for ever."""
        left = list(statuses)

        async def handler(exchange: Exchange) -> None:
            status = left.pop(0) if len(left) > 1 else left[0]
            value = {"status": status} if body is None else body
            await exchange.reply(status, json.dumps(value), headers, kind="application/json")

        self.routes[path] = handler

    def seen(self, path: str) -> list[Received]:
        return [request for request in self.requests if request.path == path]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            request = await _receive(reader, writer)
            if request is not None:
                self.requests.append(request)
                handler = self.routes.get(request.path, self.fallback or _not_found)
                try:
                    await handler(Exchange(request, reader, writer, self))
                except ConnectionError:
                    self.abandoned.append(request.path)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self._open.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
                await writer.wait_closed()

    async def _stop(self) -> None:
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def serve(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """The server with its standard routes (see `ROUTES`), for the time of the block."""
    server = Server(routes=dict(ROUTES))
    listener = await asyncio.start_server(server._connected, host, 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    server.base = f"{'https' if tls else 'http'}://{name}:{server.port}"
    try:
        yield server
    finally:
        listener.close()
        await server._stop()


async def _receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Received | None:
    try:
        first_byte = await reader.readexactly(1)
        if first_byte == b"\x16":  # a TLS hello
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            return None
        head = first_byte + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    return Received(method, unquote(parts.path), query, headers, body, headers.get("host", ""))


# --- routes -------------------------------------------------------------------------------------------------------


async def _not_found(exchange: Exchange) -> None:
    await exchange.reply_json({"error": "not found"}, 404)


async def _echo(exchange: Exchange) -> None:
    request = exchange.request
    await exchange.reply_json(
        {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "headers": request.headers,
            "body": request.body.decode(),
        }
    )


async def _drip(exchange: Exchange) -> None:
    """A body that never ends, one byte at a time."""
    await exchange.head(200, {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"})
    gone = asyncio.ensure_future(exchange.gone())
    try:
        while not gone.done():
            await exchange.send(b"1\r\n.\r\n")
            await asyncio.wait([gone], timeout=0.05)
    finally:
        gone.cancel()
    exchange.server.abandoned.append(exchange.request.path)


async def _silent(exchange: Exchange) -> None:
    """No answer at all, until the client goes."""
    await exchange.gone()
    exchange.server.abandoned.append(exchange.request.path)


async def _endless_headers(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await exchange.send(b"X-More: " + b"x" * 1000 + b"\r\n")


async def _endless_body(exchange: Exchange) -> None:
    await exchange.head(200, {"Content-Type": "text/plain"})
    while True:
        await exchange.send(b"a" * 65536)


async def _huge_body(exchange: Exchange) -> None:
    """`?size=N` bytes of text with a Content-Length."""
    size = int(exchange.request.query.get("size", ["2000000"])[0])
    await exchange.reply(200, b"b" * size)


async def _gzip(exchange: Exchange) -> None:
    """Compressed although nobody asked for it."""
    body = gzip.compress(json.dumps({"packed": True}).encode())
    await exchange.reply(200, body, {"Content-Encoding": "gzip"}, kind="application/json")


def bomb(size: int = 200_000_000) -> bytes:
    """That many bytes, compressed to a thousandth; made in pieces, so that the test itself needs no memory."""
    pack = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    piece = bytes(1_000_000)
    return b"".join([*(pack.compress(piece) for _ in range(size // len(piece))), pack.flush()])


def compressed(body: bytes, encoding: str = "gzip", kind: str = "text/plain") -> Handler:
    """Serves bytes that are compressed already."""

    async def handler(exchange: Exchange) -> None:
        await exchange.reply(200, body, {"Content-Encoding": encoding}, kind=kind)

    return handler


async def _gzip_cut(exchange: Exchange) -> None:
    await exchange.reply(200, gzip.compress(b"whole" * 1000)[:-12], {"Content-Encoding": "gzip"})


async def _cut_body(exchange: Exchange) -> None:
    """Promises more than it sends."""
    await exchange.head(200, {"Content-Type": "text/plain", "Content-Length": "1000"})
    await exchange.send(b"only this")


async def _hang_up(exchange: Exchange) -> None:
    """Takes the request and closes without a word."""


async def _nonsense(exchange: Exchange) -> None:
    await exchange.send(b"this is not HTTP at all\r\n\r\n")


async def _redirect(exchange: Exchange) -> None:
    """`?to=URL&status=302`."""
    query = exchange.request.query
    await exchange.reply(int(query.get("status", ["302"])[0]), b"", {"Location": query["to"][0]})


async def _loop(exchange: Exchange) -> None:
    await exchange.reply(302, b"", {"Location": "/loop"})


async def _cookies(exchange: Exchange) -> None:
    await exchange.reply(200, b"hello", {"Set-Cookie": "session=very-secret"})


async def _latin(exchange: Exchange) -> None:
    await exchange.reply(200, "grün".encode("latin-1"), kind="text/plain; charset=iso-8859-1")


async def _binary(exchange: Exchange) -> None:
    await exchange.reply(200, bytes(range(256)), kind="application/octet-stream")


ROUTES: dict[str, Handler] = {
    "/echo": _echo,
    "/drip": _drip,
    "/silent": _silent,
    "/endless-headers": _endless_headers,
    "/endless-body": _endless_body,
    "/huge": _huge_body,
    "/gzip": _gzip,
    "/gzip-cut": _gzip_cut,
    "/cut": _cut_body,
    "/hang-up": _hang_up,
    "/nonsense": _nonsense,
    "/redirect": _redirect,
    "/loop": _loop,
    "/cookies": _cookies,
    "/latin": _latin,
    "/binary": _binary,
}
