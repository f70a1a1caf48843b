"""TCP proxies with faults, in a process of their own: `python -I proxy_process.py`, commanded by `proxy.py`.

A process of its own, because a test that blocks its loop (or holds the interpreter) must not be a fault of the network.
It reads commands from its standard input and answers each on its standard output, a JSON object a line. It ends when
its input does. It imports the standard library alone: to be started quickly, and from anywhere.

Between a client and a node there is a *link* of two connections. What a link does to bytes:

- delayed bytes leave in the order in which they came; the delay is that of a long line, not of a narrow one
- of a *stalled* direction nothing is read: the bytes wait in the kernel, and come late when it heals
- of a *cut* direction everything is read and thrown away; a link that lost bytes so is reset when it heals, since it
  can't go on without them
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

HOST = "127.0.0.1"
TO_NODE, TO_CLIENT = "to_node", "to_client"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_FRAME_HEAD = 6  # a request's length and its API key


@dataclass(slots=True)
class Faults:
    """What a proxy does to its links at present."""

    delay: float = 0.0
    jitter: float = 0.0
    stalled: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)


class Requests:
    """Tells the API keys of the requests in a stream that comes in pieces."""

    def __init__(self) -> None:
        self._head = b""
        self._rest = 0

    def ended_in(self, data: bytes) -> list[int]:
        """The keys of the requests whose last byte is in the next piece."""
        found, at = [], 0
        while at < len(data):
            if len(self._head) < _FRAME_HEAD:
                step = _FRAME_HEAD - len(self._head)
                self._head += data[at : at + step]
                if len(self._head) == _FRAME_HEAD:
                    self._rest = max(struct.unpack_from(">i", self._head)[0] - 2, 0)
            else:
                step = min(self._rest, len(data) - at)
                self._rest -= step
            at += step
            if len(self._head) == _FRAME_HEAD and not self._rest:
                found.append(struct.unpack_from(">h", self._head, 4)[0])
                self._head = b""
        return found


class End(asyncio.Protocol):
    """One of a link's two connections. What it receives leaves by the other."""

    def __init__(self, link: Link, direction: str) -> None:
        self.direction = direction
        self.transport: asyncio.Transport | None = None
        self._link = link
        self._held: set[str] = set()
        self._waiting: deque[bytes | None] = deque()
        """What is on its way: bytes, or None for the end."""
        self._last_due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._held:
            transport.pause_reading()
        self._link.connected(self)

    def data_received(self, data: bytes) -> None:
        proxy, loop = self._link.proxy, asyncio.get_running_loop()
        proxy.carried[self.direction] += len(data)
        if self.direction in proxy.faults.cut:
            proxy.lost[self.direction] += len(data)
            self._link.lost_bytes = True
            return
        delay = proxy.faults.delay + random.random() * proxy.faults.jitter
        if delay or self._waiting:
            self._last_due = max(self._last_due, loop.time() + delay)
            self._waiting.append(data)
            loop.call_at(self._last_due, self._arrive)
        else:
            self._link.carry(self, data)

    def eof_received(self) -> None:
        return None  # it closes; Kafka's protocol has no half-closed connections

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self._waiting:
            self._waiting.append(None)
            asyncio.get_running_loop().call_at(self._last_due, self._arrive)
        else:
            self._link.end(self, reset=error is not None)

    def _arrive(self) -> None:
        # Timers that are due at once run in any order, so none of them has bytes of its own.
        data = self._waiting.popleft()
        if data is None:
            self._link.end(self)
        else:
            self._link.carry(self, data)

    def pause_writing(self) -> None:
        self._link.opposite(self).hold("full")

    def resume_writing(self) -> None:
        self._link.opposite(self).release("full")

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def hold(self, reason: str) -> None:
        """Reads nothing more, until every reason for it is gone."""
        self._held.add(reason)
        if self.transport is not None:
            self.transport.pause_reading()

    def release(self, reason: str) -> None:
        self._held.discard(reason)
        if not self._held and self.transport is not None:
            self.transport.resume_reading()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.abort()


class Link:
    """A client's connection to the proxy, and the proxy's own to the node for it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.lost_bytes = False
        self.client = End(self, TO_NODE)
        self.node = End(self, TO_CLIENT)
        self._requests = Requests()
        self.client.hold("connecting")
        for end in (self.client, self.node):
            if end.direction in proxy.faults.stalled:
                end.hold("stalled")
        if proxy.listens:
            proxy.links.add(self)

    def connected(self, end: End) -> None:
        if self not in self.proxy.links:  # a fault came in between, or the client has gone
            end.reset()
        elif end is self.client:
            self.proxy.spawn(self._reach_node())
        else:
            self.client.release("connecting")

    def opposite(self, end: End) -> End:
        return self.node if end is self.client else self.client

    def carry(self, end: End, data: bytes) -> None:
        """Passes bytes on, and lets the proxy's trap fall where the request that it waits for was among them."""
        self.opposite(end).write(data)
        keys = self._requests.ended_in(data) if end is self.client else []
        trap = self.proxy.trap
        if trap is not None and trap[0] in keys:
            self.proxy.trap = None
            trap[1](self)

    def end(self, end: End, *, reset: bool = False) -> None:
        """Passes the end of one connection on to the other."""
        self.proxy.links.discard(self)
        if reset:
            self.opposite(end).reset()
        else:
            self.opposite(end).close()

    def reset(self) -> None:
        self.proxy.links.discard(self)
        self.client.reset()
        self.node.reset()

    def drop(self) -> None:
        """Resets the client's side only: what has been sent to the node it still gets, and reads to the end."""
        self.client.reset()
        self.node.close()

    async def _reach_node(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.node, HOST, self.proxy.node_port)
        except OSError:
            self.reset()


class Proxy:
    """One address that clients connect to, in front of one node."""

    def __init__(self, port: int, node_port: int) -> None:
        self.port, self.node_port = port, node_port
        self.faults = Faults()
        self.links: set[Link] = set()
        self.carried = {TO_NODE: 0, TO_CLIENT: 0}
        self.lost = {TO_NODE: 0, TO_CLIENT: 0}
        self.trap: tuple[int, Callable[[Link], None]] | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def listens(self) -> bool:
        return self._server is not None

    def spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def listen(self) -> None:
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: Link(self).client, HOST, self.port, backlog=200)

    async def heal(self) -> None:
        self.faults, self.trap = Faults(), None
        for link in list(self.links):
            if link.lost_bytes:
                link.reset()
            link.client.release("stalled")
            link.node.release("stalled")
        await self.listen()

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.drop_connections()

    async def drop_connections(self, after: int | None = None) -> None:
        if after is not None:
            self.trap = (after, Link.drop)
            return
        for link in list(self.links):
            link.reset()

    async def delay(self, seconds: float, jitter: float) -> None:
        self.faults.delay, self.faults.jitter = seconds, jitter

    async def half_cut(self, direction: str, after: int | None = None) -> None:
        if after is not None:
            self.trap = (after, lambda _link: self.faults.cut.add(direction))
        else:
            self.faults.cut.add(direction)

    async def stall(self, directions: list[str]) -> None:
        self.faults.stalled.update(directions)
        for link in self.links:
            for end in (link.client, link.node):
                if end.direction in directions:
                    end.hold("stalled")

    async def look(self) -> dict[str, object]:
        return {
            "connections": len(self.links),
            "carried": self.carried,
            "lost": self.lost,
            "armed": self.trap is not None,
            "listens": self.listens,
        }


async def _obey(proxies: dict[str, Proxy], command: dict[str, object]) -> dict[str, object]:
    name, verb, options = str(command["proxy"]), str(command["verb"]), command.get("options") or {}
    assert isinstance(options, dict)
    try:
        if verb == "open":
            proxies[name] = Proxy(**options)
            await proxies[name].listen()
            return {}
        return {"said": await getattr(proxies[name], verb)(**options)}
    except Exception as error:  # whoever commands hears of it; the other proxies go on
        return {"error": f"{verb} of {name}: {error!r}"}


async def main() -> None:
    """Obeys, until there is nobody left to obey."""
    proxies: dict[str, Proxy] = {}
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        answer = await _obey(proxies, json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
