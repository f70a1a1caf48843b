"""Exchanges: one request through httpx, and its answer taken in within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import http.cookiejar
import importlib.metadata
import logging
import ssl
import urllib.request
from collections.abc import AsyncGenerator

import certifi
import httpx

from consumer.adapters.api import failures
from consumer.adapters.api.body import Intake
from consumer.adapters.api.guard import AddressGuard
from consumer.adapters.api.message import MASK, Answer, Request
from consumer.adapters.api.wire import CONNECT_TIMEOUT, GuardedBackend, GuardedTransport
from consumer.errors import TemporaryError

_MAX_HEADERS = 16 * 1024
"""Characters of the answer's headers that are kept."""
_PIECES_AT_ONCE = 64
"""Pieces of a body that are taken in before others get their turn: what has arrived already comes without a pause."""


class Transport:
    """Sends one request at a time per call; holds no connection between calls."""

    def __init__(self, guard: AddressGuard) -> None:
        # httpx would log whole URLs, and httpcore the answer's headers, cookies included.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._backend = GuardedBackend(guard)
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._headers = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "User-Agent": _user_agent(),
        }

    def close(self) -> None:
        """Only when no call is under way or to come."""
        self._backend.close()

    async def check(self, request: Request) -> str | None:
        """Whether the request's host may be connected to, without connecting: a note where it does not resolve now.

        Raises PermanentError where it is blocked.
        """
        try:
            await self._backend.allowed(request.host, request.port)
        except TemporaryError as error:
            return str(error)
        return None

    async def exchange(self, request: Request, verify: bool | str = True) -> Answer:
        """Sends the request and takes the answer in, without following a redirect. Raises StepError."""
        tls = self._context(verify) if request.url.scheme == "https" else None
        # httpx would make the same of the URL, but fails on international names that its rules do not know.
        headers = request.with_header("Host", request.url.netloc.decode("ascii")).headers
        with failures.mapped(request):
            async with (
                self._client(tls) as client,
                client.stream(
                    request.method,
                    request.url,
                    headers=httpx.Headers(headers, encoding="latin-1"),
                    content=request.content,
                ) as response,
            ):
                return await _take_in(response)

    def _client(self, tls: ssl.SSLContext | None) -> httpx.AsyncClient:
        """A new one for each exchange, so that nothing of one server's answer gets into another request."""
        return httpx.AsyncClient(
            transport=GuardedTransport(self._backend, tls),
            headers=self._headers,
            cookies=_NoCookies(),
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
            follow_redirects=False,
            trust_env=False,
        )

    def _context(self, verify: bool | str) -> ssl.SSLContext:
        if isinstance(verify, str):
            return ssl.create_default_context(cadata=verify)
        if verify not in self._contexts:
            self._contexts[verify] = _system_context(verify)
        return self._contexts[verify]


class _NoCookies(http.cookiejar.CookieJar):
    """Keeps no cookie, and does not even parse what a server sends as one."""

    def extract_cookies(self, response: object, request: urllib.request.Request) -> None:
        return None


def _user_agent() -> str:
    try:
        return f"wpk-agent/{importlib.metadata.version('wpk-agent')}"
    except importlib.metadata.PackageNotFoundError:
        return "wpk-agent"  # a checkout on the path is an agent too


def _system_context(verify: bool) -> ssl.SSLContext:
    """The system's CAs (SSL_CERT_FILE and SSL_CERT_DIR included), so that a company's own CA counts; else certifi's."""
    if not verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    paths = ssl.get_default_verify_paths()
    return ssl.create_default_context(cafile=None if paths.cafile or paths.capath else certifi.where())


async def _take_in(response: httpx.Response) -> Answer:
    encoding = ""
    headers: dict[str, str] = {}
    room = _MAX_HEADERS
    response.headers.encoding = "latin-1"  # guessed by httpx otherwise, from what the server sends
    for name, value in response.headers.multi_items():
        if name == "content-encoding":
            encoding = value
        if name in ("set-cookie", "set-cookie2"):
            value = MASK  # a session is a credential, and outputs are published
        room -= len(name) + len(", ") + len(value)
        if room >= 0:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    intake = Intake(encoding)
    async with contextlib.aclosing(_chunks(response)) as chunks:
        async for chunk in chunks:
            intake.feed(chunk)
            if intake.full:
                break
            if intake.pieces % _PIECES_AT_ONCE == 0:
                await asyncio.sleep(0)
    return Answer(
        status=response.status_code,
        headers=headers,
        body=intake.finish(),
        complete=not intake.full,
        received=intake.received,
    )


async def _chunks(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body as it came: httpx would decompress it without a bound."""
    async for chunk in response.aiter_raw():
        yield chunk
