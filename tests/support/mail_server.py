"""A real SMTP server on loopback, on bare asyncio streams: as much of RFC 5321 as a client needs to hand a mail over.

async with mail_server.serve() as server:  # or serve(tls=…), serve(starttls=…)
    server.refusals = [451]            # of the next recipients
    … server.port … server.mails[0]["Subject"] …
"""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import ssl
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
    starttls: ssl.SSLContext | None = None
    """What a connection is encrypted by when its client asks for it (RFC 3207); None: STARTTLS is not offered."""
    encrypted: list[bool] = field(default_factory=list)
    """Of each mail whether it came encrypted."""
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
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
                self.encrypted.append(writer.get_extra_info("ssl_object") is not None)
                writer.write(b"250 taken\r\n")
            elif verb == "RCPT" and self.refusals:
                writer.write(b"%d no\r\n" % self.refusals.pop(0))
            elif verb == "EHLO" and self.starttls is not None:
                writer.write(b"250-test\r\n250 STARTTLS\r\n")
            elif verb == "STARTTLS" and self.starttls is not None:
                writer.write(b"220 begin\r\n")
                await writer.drain()
                await writer.start_tls(self.starttls)
            elif verb == "QUIT":
                writer.write(b"221 bye\r\n")
                return
            else:
                writer.write(b"250 well\r\n")
            await writer.drain()


@asynccontextmanager
async def serve(
    *, tls: ssl.SSLContext | None = None, starttls: ssl.SSLContext | None = None
) -> AsyncIterator[MailServer]:
    """The server for the time of the block; with `tls` encrypted from the beginning."""
    server = MailServer(starttls=starttls)
    listener = await asyncio.start_server(server._connected, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in list(server._open):
            task.cancel()
        if server._open:
            await asyncio.wait(list(server._open))
