"""A local HTTP server that answers every request with the same few bytes and keeps connections: cheap, and its own
process, so that it takes as little as possible from who asks. Prints its port."""

from __future__ import annotations

import asyncio

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'


class Answering(asyncio.Protocol):
    """One connection; requests have no body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._head = b""

    def data_received(self, data: bytes) -> None:
        *whole, self._head = (self._head + data).split(b"\r\n\r\n")
        self._transport.write(ANSWER * len(whole))


async def main() -> None:
    """Until it is ended."""
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
