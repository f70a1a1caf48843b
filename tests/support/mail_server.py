"""A real SMTP server on loopback, on bare asyncio streams: as much of RFC 5321 as a client needs to hand a mail over.

async with mail_server.serve() as server:
    server.refusals = [451]            # of the next recipients
    … server.port … server.mails[0]["Subject"] …
"""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage


@dataclass
class MailServer:
    """The running server. `mails` is what it has taken, in order."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    """The answers to the next recipients, instead of 250."""
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._talk(reader, writer)
        finally:
            self._open.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 test ready\r\n")
        while True:
            verb = (await reader.readuntil(b"\r\n")).decode().split(" ")[0].strip().upper()
            if verb == "DATA":
                writer.write(b"354 go on\r\n")
                raw = (await reader.readuntil(b"\r\n.\r\n")).removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.")
                message = email.message_from_bytes(raw, policy=email.policy.default)
                assert isinstance(message, EmailMessage)
                self.mails.append(message)
                writer.write(b"250 taken\r\n")
            elif verb == "RCPT" and self.refusals:
                writer.write(b"%d no\r\n" % self.refusals.pop(0))
            elif verb == "QUIT":
                writer.write(b"221 bye\r\n")
                return
            else:
                writer.write(b"250 well\r\n")
            await writer.drain()


@asynccontextmanager
async def serve() -> AsyncIterator[MailServer]:
    """The server for the time of the block."""
    server = MailServer()
    listener = await asyncio.start_server(server._connected, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in list(server._open):
            task.cancel()
        if server._open:
            await asyncio.wait(list(server._open))
