"""A small HTTP/1.1 server on asyncio and h11: enough for an endpoint, and bounded against clients that misbehave.

One request per connection. Whoever is slow, too large, malformed or one too many is cut off; no client can hold the
loop, memory or more than a few sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import h11
import orjson
import structlog
from pydantic import JsonValue

from consumer import tasks
from consumer.errors import SettingsError

_log = structlog.get_logger(__name__)

#: Of request line and headers together.
MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_CONNECTIONS = 64
#: For the request to arrive, and again for the answer to leave.
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What came; header names are in lower case."""

    method: str
    path: str
    """Without the query."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What goes back."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


def json_response(value: JsonValue, status: int = 200) -> Response:
    """The value as JSON, with a line's end for those who use curl."""
    return Response(status=status, body=orjson.dumps(value) + b"\n", content_type="application/json")


Handler = Callable[[Request], Awaitable[Response]]


@contextlib.asynccontextmanager
async def serve(handler: Handler, *, host: str, port: int, timeout: float = TIMEOUT_SECONDS) -> AsyncIterator[int]:
    """Serves while the block lasts; gives the port (0: any free one). Raises SettingsError where it can't listen."""
    connections = _Connections(handler, timeout)
    try:
        server = await asyncio.start_server(connections.accept, host, port, limit=MAX_HEAD_BYTES)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(f"can't listen on {host}:{port}: {reason}; choose another port, or 0 for any") from error
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await connections.aclose()


class _Connections:
    """The open connections, each with its task."""

    def __init__(self, handler: Handler, timeout: float) -> None:
        self._handler = handler
        self._timeout = timeout
        self._open: set[asyncio.Task[None]] = set()
        self._closed = False

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed or len(self._open) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="http connection")
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def aclose(self) -> None:
        self._closed = True
        await tasks.cancel_and_wait(*self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
            async with asyncio.timeout(self._timeout):
                response, head_only = await self._answer(connection, reader)
            async with asyncio.timeout(self._timeout):
                writer.write(_encode(connection, response, head_only))
                await writer.drain()
                await _close(writer)
        except (OSError, TimeoutError, h11.ProtocolError):
            return  # the client is gone, slow, or speaks no HTTP at all
        except Exception:
            _log.exception("http.failed")
        finally:
            writer.transport.abort()

    async def _answer(self, connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[Response, bool]:
        """The response, and whether only its head is wanted."""
        try:
            request = await _receive(connection, reader)
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            return Response(status=status, body=b"this is no request that the agent understands\n"), False
        try:
            response = await self._handler(request)
        except Exception:
            _log.exception("http.handler_failed", path=request.path)
            response = Response(status=500, body=b"the agent failed to answer; its log says why\n")
        return response, request.method == "HEAD"


async def _receive(connection: h11.Connection, reader: asyncio.StreamReader) -> Request:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(MAX_HEAD_BYTES))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY_BYTES:
                raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return Request(
                method=head.method.decode("ascii"),
                path=head.target.decode("latin-1").partition("?")[0],
                headers={name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers},
                body=bytes(body),
            )
        else:  # closed before a whole request
            raise ConnectionError("the client closed the connection")


def _encode(connection: h11.Connection, response: Response, head_only: bool) -> bytes:
    headers = [
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(response.body))),
        ("Connection", "close"),
    ]
    data = connection.send(h11.Response(status_code=response.status, headers=headers)) or b""
    if not head_only:
        data += connection.send(h11.Data(data=response.body)) or b""
    return data + (connection.send(h11.EndOfMessage()) or b"")


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
