"""The way to the network: guarded connections, bounded answers, and httpcore's errors mapped to the project's own.

Each exchange has a connection of its own. Kept-alive ones would save a millisecond and cost certainty: a server that
closes an idle connection at the moment it is used again leaves unknown whether the request was worked on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Iterable, Iterator

import certifi
import httpcore

from consumer.adapters.api.body import BadBody, Intake
from consumer.adapters.api.guard import Address, AddressGuard
from consumer.adapters.api.message import MASK, Answer, Request
from consumer.errors import PermanentError, StepError, TemporaryError

CONNECT_TIMEOUT = 10.0
"""Seconds to connect, all addresses of the host together; resolving its name and TLS have as long again, each."""
_MAX_ADDRESSES = 8
_MAX_HEADERS = 16 * 1024
"""Characters of the answer's headers that are kept."""
_TEXT_LIMIT = 200

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a name once, asks the guard about each address, and connects to one of those it was asked about."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._inner = httpcore.AnyIOBackend()

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
                return await self._inner.connect_tcp(str(address), port, share, local_address, socket_options)
        return await self._inner.connect_tcp(str(addresses[-1]), port, share, local_address, socket_options)

    async def allowed(self, host: str, port: int) -> list[Address]:
        """The addresses of the host that may be connected to, at least one. Raises StepError."""
        addresses = await _resolve(host, port)
        refusals = [(address, self._guard.refusal(host, port, address)) for address in addresses]
        open_ones = [address for address, kind in refusals if kind is None]
        if not open_ones:
            address, kind = refusals[0]
            raise self._guard.blocked(host, port, address, kind or "")
        return open_ones

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[SocketOption] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise PermanentError("Unix sockets are not for api steps", code="address_blocked")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _resolve(host: str, port: int) -> list[Address]:
    with contextlib.suppress(ValueError):
        return [ipaddress.ip_address(host)]  # no thread for what needs no resolver
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise TemporaryError(f"the host {host} does not resolve within {CONNECT_TIMEOUT:g}s", code="dns") from error
    except socket.gaierror as error:
        raise TemporaryError(f"the host {host} does not resolve: {error.strerror}", code="dns") from error
    except UnicodeError as error:
        raise PermanentError(f'"{host[:80]}" is no host name', code="dns") from error
    return list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))


class Transport:
    """Sends one request at a time per call; holds nothing open between calls."""

    def __init__(self, guard: AddressGuard) -> None:
        # httpcore would log the answer's headers at level debug, cookies included.
        logging.getLogger("httpcore").setLevel(logging.WARNING)
        self._backend = GuardedBackend(guard)
        self._contexts: dict[bool, ssl.SSLContext] = {}

    async def check(self, request: Request) -> str | None:
        """Whether the request's host may be connected to, without connecting: a note where it does not resolve now.

        Raises PermanentError where it is blocked.
        """
        try:
            await self._backend.allowed(_host(request), request.port)
        except TemporaryError as error:
            return str(error)
        return None

    async def exchange(self, request: Request, verify: bool | str = True) -> Answer:
        """Sends the request and takes the answer in, without following a redirect. Raises StepError."""
        url = request.url
        origin = httpcore.Origin(url.raw_scheme, url.raw_host, request.port)
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=request.port, target=url.raw_path)
        headers = (
            [("Host", url.netloc.decode("ascii")), *request.headers] if not request.header("host") else request.headers
        )
        raw_headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
        with _mapped(request):
            async with httpcore.AsyncHTTPConnection(
                origin,
                ssl_context=self._context(verify) if url.scheme == "https" else None,
                network_backend=self._backend,
            ) as connection:
                async with connection.stream(
                    request.method,
                    target,
                    headers=raw_headers,
                    content=request.content,
                    extensions={"timeout": {"connect": CONNECT_TIMEOUT}},
                ) as response:
                    return await _take_in(response)

    def _context(self, verify: bool | str) -> ssl.SSLContext:
        if isinstance(verify, str):
            return ssl.create_default_context(cadata=verify)
        if verify not in self._contexts:
            self._contexts[verify] = _system_context(verify)
        return self._contexts[verify]


def _system_context(verify: bool) -> ssl.SSLContext:
    """The system's CAs (SSL_CERT_FILE and SSL_CERT_DIR included), so that a company's own CA counts; else certifi's."""
    if not verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    paths = ssl.get_default_verify_paths()
    return ssl.create_default_context(cafile=None if paths.cafile or paths.capath else certifi.where())


def _host(request: Request) -> str:
    return request.url.raw_host.decode("ascii")


async def _take_in(response: httpcore.Response) -> Answer:
    encoding = ""
    headers: dict[str, str] = {}
    room = _MAX_HEADERS
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("ascii", "replace").lower(), raw_value.decode("latin-1")
        if name == "content-encoding":
            encoding = value
        if name in ("set-cookie", "set-cookie2"):
            value = MASK  # a session is a credential, and outputs are published
        room -= len(name) + len(value)
        if room >= 0:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    intake = Intake(encoding)
    async with contextlib.aclosing(_chunks(response)) as chunks:
        async for chunk in chunks:
            intake.feed(chunk)
            if intake.full:
                break
    return Answer(
        status=response.status,
        headers=headers,
        body=intake.finish(),
        complete=not intake.full,
        received=intake.received,
    )


async def _chunks(response: httpcore.Response) -> AsyncGenerator[bytes, None]:
    async for chunk in response.aiter_stream():
        yield chunk


@contextlib.contextmanager
def _mapped(request: Request) -> Iterator[None]:
    try:
        yield
    except StepError as error:
        raise type(error)(f"{request}: {error}", code=error.code) from error
    except BadBody as error:
        raise TemporaryError(f"{request}: {error}", code="bad_answer") from error
    except Exception as error:
        translated = _translate(request, error)
        if translated is error:
            raise
        raise translated from error


_LOST = "the connection broke before the answer was complete; whether the server acted is not known"
_TABLE: tuple[tuple[type[Exception], str, str], ...] = (
    (httpcore.ConnectTimeout, "connect", f"no connection within {CONNECT_TIMEOUT:g}s"),
    (httpcore.ConnectError, "connect", "no connection"),
    (httpcore.TimeoutException, "timeout", "no answer in time"),
    (httpcore.NetworkError, "connection_lost", _LOST),
    (httpcore.RemoteProtocolError, "bad_answer", "the answer is no proper HTTP"),
    (OSError, "connection_lost", _LOST),
)


def _translate(request: Request, error: Exception) -> Exception:
    """The project's error for one of httpcore's; any other exception is given back as it is."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TemporaryError(f"{request}: the certificate is not trusted: {cause.verify_message}", code="tls")
    if isinstance(error, httpcore.ConnectError) and any(isinstance(cause, ssl.SSLError) for cause in causes):
        return TemporaryError(f"{request}: TLS could not be agreed on: {_cut(error)}", code="tls")
    if isinstance(error, httpcore.LocalProtocolError | httpcore.UnsupportedProtocol):
        return PermanentError(f"{request} can't be sent: {_cut(error)}", code="bad_request")
    if isinstance(error, httpcore.RemoteProtocolError) and _is_end(error):
        return TemporaryError(f"{request}: {_LOST}", code="connection_lost")
    for kind, code, text in _TABLE:
        if isinstance(error, kind):
            reasons = [os.strerror(cause.errno) for cause in causes if isinstance(cause, OSError) and cause.errno]
            detail = f": {reasons[-1]}" if reasons else (f": {_cut(error)}" if code == "bad_answer" else "")
            return TemporaryError(f"{request}: {text}{detail}", code=code)
    return error


def _is_end(error: httpcore.RemoteProtocolError) -> bool:
    """httpcore and h11 tell an early end from bad bytes by their words only."""
    text = str(error).lower()
    return "disconnected" in text or "closed connection" in text


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first; httpcore also passes the cause as an argument."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        inner = current.args[0] if current.args and isinstance(current.args[0], BaseException) else None
        current = current.__cause__ or current.__context__ or inner


def _cut(error: Exception) -> str:
    return " ".join(str(error).split())[:_TEXT_LIMIT]
