"""What the API server asks of a kubelet for `kubectl logs`: /containerLogs, over TLS with a client certificate."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web

from tests.support.kubelet.container import Container, Log
from tests.support.kubelet.pod import Pod

HOST = "127.0.0.1"
Finder = Callable[[str, str], Pod | None]
"""A pod by its namespace and name."""
_WAITING = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What of a log is wanted: the query of a request, as PodLogOptions."""

    follow: bool
    timestamps: bool
    tail: int | None
    since: datetime | None
    limit: int | None

    @classmethod
    def of(cls, query: dict[str, str]) -> Wish:
        """Raises ValueError."""
        since = None
        if "sinceSeconds" in query:
            since = datetime.now(UTC) - timedelta(seconds=int(query["sinceSeconds"]))
        elif "sinceTime" in query:
            since = datetime.fromisoformat(query["sinceTime"])
        return cls(
            follow=query.get("follow") == "true",
            timestamps=query.get("timestamps") == "true",
            tail=int(query["tailLines"]) if "tailLines" in query else None,
            since=since,
            limit=int(query["limitBytes"]) if "limitBytes" in query else None,
        )

    def first(self, log: Log) -> int:
        """The number of the first line."""
        since = next((i for i, (when, _) in enumerate(log.lines) if self.since is None or when >= self.since), None)
        first = len(log.lines) if since is None else since
        return first if self.tail is None else max(first, len(log.lines) - self.tail)

    def line(self, when: datetime, text: str) -> bytes:
        stamp = f"{when.strftime('%Y-%m-%dT%H:%M:%S.%f')}000Z " if self.timestamps else ""
        return f"{stamp}{text}\n".encode()


@asynccontextmanager
async def serving(find: Finder, port: int, *, certificate: Path, key: Path, clients: Path) -> AsyncIterator[None]:
    """Serves while the block lasts, to clients that the authority `clients` knows."""

    async def logs(request: web.Request) -> web.StreamResponse:
        return await _logs(request, find)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(clients))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    app = web.Application()
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs)
    # A follower that has left would otherwise be held until the container writes again.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port, ssl_context=context).start()
        yield
    finally:
        await runner.cleanup()


async def _logs(request: web.Request, find: Finder) -> web.StreamResponse:
    namespace, name, container_name = (request.match_info[key] for key in ("namespace", "pod", "container"))
    pod = find(namespace, name)
    if pod is None:
        raise web.HTTPNotFound(text=f'pod "{name}" does not exist')
    container = pod.container(container_name)
    if container is None:
        raise web.HTTPNotFound(text=f'container "{container_name}" not found in pod "{name}"')
    log = _chosen(container, name, previous=request.query.get("previous") == "true")
    try:
        wish = Wish.of(dict(request.query))
    except ValueError as error:
        raise web.HTTPUnprocessableEntity(text=str(error)) from None
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    await _write(response, log, wish)
    return response


def _chosen(container: Container, pod: str, *, previous: bool) -> Log:
    """The log of a run that there was, as a kubelet chooses it (validateContainerLogStatus)."""
    # A container that waits to be started again still has the run before as its latest.
    log = (container.log if container.waiting else container.previous) if previous else container.log
    if log is not None:
        return log
    if previous:
        raise web.HTTPBadRequest(text=f'previous terminated container "{container.name}" in pod "{pod}" not found')
    why = _WAITING.get(container.waiting or "", container.waiting)
    raise web.HTTPBadRequest(text=f'container "{container.name}" in pod "{pod}" is waiting to start: {why}')


async def _write(response: web.StreamResponse, log: Log, wish: Wish) -> None:
    position, left = wish.first(log), wish.limit
    while True:
        while position < len(log.lines):
            data = wish.line(*log.lines[position])
            position += 1
            if left is not None:
                data = data[:left]
                left -= len(data)
            await response.write(data)
            if left == 0:
                return
        if log.closed or not wish.follow:
            return
        await log.news.wait()
