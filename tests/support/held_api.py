"""A door before an API server (of the tests, or a real one): it passes all requests on, and keeps the answers to some.

So a client can be ended at the worst moment: the change is made, and it can't know.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from yarl import URL

_HOP = {"host", "connection", "content-length", "transfer-encoding", "content-encoding"}


class HeldApi:
    """The door. `holds` says whose answers are kept; `held` names the requests that were carried out unanswered.

    `instead` answers a request in the server's place, or does something before it is passed on and gives None.
    """

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self.url = ""
        self.holds: Callable[[web.Request], bool] = lambda request: False
        self.held: list[str] = []
        self.instead: Callable[[web.Request], Awaitable[web.StreamResponse | None]] = _passes
        self._upstream = upstream
        self._session = session

    def kubeconfig(self, source: Path, path: Path) -> Path:
        """Writes a kubeconfig as `source`, but for this door."""
        document: dict[str, Any] = yaml.safe_load(source.read_text())
        for entry in document["clusters"]:
            entry["cluster"] = {"server": self.url}
        path.write_text(yaml.safe_dump(document))
        return path

    async def handle(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        if (own := await self.instead(request)) is not None:
            return own
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        target = URL(self._upstream + request.raw_path, encoded=True)
        async with self._session.request(request.method, target, headers=headers, data=data or None) as answer:
            if self.holds(request):
                assert answer.status < 300, await answer.text()
                self.held.append(f"{request.method} {request.path}")
                await asyncio.Event().wait()  # the client's end cancels it
            response = web.StreamResponse(status=answer.status)
            response.headers.update({k: v for k, v in answer.headers.items() if k.lower() not in _HOP})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


async def _passes(request: web.Request) -> None:
    """Every request is the server's own."""


@asynccontextmanager
async def held_api(upstream: str, context: ssl.SSLContext | None = None) -> AsyncIterator[HeldApi]:
    """The door before that server, while the block lasts."""
    connector = aiohttp.TCPConnector(limit=0, ssl=context if context is not None else True)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        door = HeldApi(upstream, session)
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", door.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            door.url = f"http://{host}:{port}"
            yield door
        finally:
            await runner.cleanup()
