"""The wire: an httpx transport that connects only where the guard allows; of httpcore and httpx, public API only.

Each request has a connection of its own. Kept-alive ones would save a millisecond and cost certainty: a server that
closes an idle connection at the moment it is used again leaves unknown whether the request was worked on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpcore
import httpx

from consumer.adapters.api.guard import Address, AddressGuard
from consumer.errors import PermanentError, TemporaryError

CONNECT_TIMEOUT = 10.0
"""Seconds to connect, all addresses of the host together; resolving its name and TLS have as long again, each."""
_MAX_ADDRESSES = 8
_MAX_LOOKUPS = 8
_READ_AT_ONCE = 16 * 1024
_MAX_WIRE = 4 * 1024 * 1024
"""Bytes of an answer, all in all; several times what the body that is read can take with all that frames it."""

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a name once, asks the guard about each address, and connects to one of those it was asked about."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._inner = httpcore.AnyIOBackend()
        # Not the loop's own threads: a name server that does not answer holds one long after its asker has gone, and
        # the rest of the agent needs them, to find Kafka again for instance.
        self._resolvers = ThreadPoolExecutor(_MAX_LOOKUPS, thread_name_prefix="api-dns")

    def close(self) -> None:
        """Ends what resolves names, without waiting for it."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = (await self.allowed(host, port))[:_MAX_ADDRESSES]
        share = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return _Bounded(await self._inner.connect_tcp(str(address), port, share, local_address, socket_options))
        return _Bounded(await self._inner.connect_tcp(str(addresses[-1]), port, share, local_address, socket_options))

    async def allowed(self, host: str, port: int) -> list[Address]:
        """The addresses of the host that may be connected to, at least one. Raises StepError."""
        addresses = await self._resolve(host, port)
        refusals = [(address, self._guard.refusal(host, port, address)) for address in addresses]
        open_ones = [address for address, kind in refusals if kind is None]
        if not open_ones:
            address, kind = refusals[0]
            raise self._guard.blocked(host, port, address, kind or "")
        return open_ones

    async def _resolve(self, host: str, port: int) -> list[Address]:
        with contextlib.suppress(ValueError):
            return [ipaddress.ip_address(host)]  # no thread for what needs no resolver
        ask = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                found = await asyncio.get_running_loop().run_in_executor(self._resolvers, ask)
        except TimeoutError as error:
            raise TemporaryError(f"the host {host} does not resolve within {CONNECT_TIMEOUT:g}s", code="dns") from error
        except socket.gaierror as error:
            raise TemporaryError(f"the host {host} does not resolve: {error.strerror}", code="dns") from error
        except UnicodeError as error:
            raise PermanentError(f'"{host[:80]}" is no host name', code="dns") from error
        return list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[SocketOption] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise PermanentError("Unix sockets are not for api steps", code="address_blocked")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Bounded(httpcore.AsyncNetworkStream):
    """Reads a little at a time, and not for ever, whatever the server sends: interim answers (1xx) have no end else.

    What has been read is worked on in one go, and small things of HTTP take long for their bytes.
    """

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._left = _MAX_WIRE

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._left <= 0:
            raise httpcore.RemoteProtocolError(f"more than {_MAX_WIRE // 1024} KiB, and no end")
        data = await self._inner.read(min(max_bytes, _READ_AT_ONCE), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return _Bounded(await self._inner.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:  # where it is cancelled, as by the step's timeout, httpcore forgets the connection
            await self._inner.aclose()
            raise

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends each request over a new connection of the backend, and closes that with the response.

    Raises httpx's errors, and the StepErrors of the backend.
    """

    def __init__(self, backend: GuardedBackend, tls: ssl.SSLContext | None) -> None:
        """`tls`: how servers of https are checked; None where only http is spoken."""
        self._backend = backend
        self._tls = tls

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        inner = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        connection = httpcore.AsyncHTTPConnection(
            inner.url.origin, ssl_context=self._tls, network_backend=self._backend
        )
        try:
            with _as_httpx():
                answer = await connection.handle_async_request(inner)
        except BaseException:
            await connection.aclose()
            raise
        return _Response(
            answer.status, headers=answer.headers, stream=_Stream(answer, connection), extensions=answer.extensions
        )


class _Response(httpx.Response):
    """One whose Location httpx leaves alone.

    Even a client that follows nothing parses it, and calls an answer malformed whose Location is no URL.
    """

    @property
    def has_redirect_location(self) -> bool:
        return False


class _Stream(httpx.AsyncByteStream):
    """The body as it comes, and the connection's end with its own."""

    def __init__(self, answer: httpcore.Response, connection: httpcore.AsyncHTTPConnection) -> None:
        self._answer = answer
        self._connection = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for chunk in self._answer.aiter_stream():
                yield chunk

    async def aclose(self) -> None:
        try:
            with _as_httpx():
                await self._answer.aclose()
        finally:
            await self._connection.aclose()


#: The first that fits counts: the particular before the general.
_TO_HTTPX: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.ReadTimeout, httpx.ReadTimeout),
    (httpcore.WriteTimeout, httpx.WriteTimeout),
    (httpcore.PoolTimeout, httpx.PoolTimeout),
    (httpcore.TimeoutException, httpx.TimeoutException),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.ReadError, httpx.ReadError),
    (httpcore.WriteError, httpx.WriteError),
    (httpcore.NetworkError, httpx.NetworkError),
    (httpcore.ProxyError, httpx.ProxyError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
    (httpcore.ProtocolError, httpx.ProtocolError),
)


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        for kind, counterpart in _TO_HTTPX:
            if isinstance(error, kind):
                raise counterpart(str(error)) from error
        raise
