"""Mails by SMTP."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
import threading
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Literal

from consumer.errors import PermanentError, TemporaryError

#: Seconds for each answer of the server.
TIMEOUT = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """How mails are handed over."""

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    sender: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)


async def send(server: MailServer, message: EmailMessage) -> None:
    """Hands the mail over. Raises StepError.

    In a thread of its own, which nobody waits for once this is cancelled: it must not hold the agent's stop.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def work() -> None:
        error: Exception | None = None
        try:
            _send(server, message)
        except Exception as raised:
            error = _translated(server, raised)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=work, name="mail", daemon=True).start()
    await done


def _send(server: MailServer, message: EmailMessage) -> None:
    context = ssl.create_default_context()
    if server.security == "tls":
        client: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT, context=context)
    else:
        client = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT)
    with client:
        if server.security == "starttls":
            client.starttls(context=context)
        if server.username is not None:
            client.login(server.username, server.password or "")
        client.send_message(message)


def _translated(server: MailServer, error: Exception) -> Exception:
    """By RFC 5321, 4.2.1: of 5yz the server wants no repetition."""
    where = f"mail server {server.host}:{server.port}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
        kind = PermanentError if all(code >= 500 for code in codes) else TemporaryError
        return kind(f"{where} refuses all recipients ({codes[0]})", code="mail")
    if isinstance(error, smtplib.SMTPNotSupportedError | smtplib.SMTPAuthenticationError):
        return PermanentError(f"{where}: {type(error).__name__}; see WPK_SMTP_*", code="mail")
    if isinstance(error, smtplib.SMTPResponseException):
        kind = PermanentError if error.smtp_code >= 500 else TemporaryError
        return kind(f"{where} answers {error.smtp_code}", code="mail")
    if isinstance(error, ssl.SSLCertVerificationError):
        return TemporaryError(f"{where} can't prove who it is: {error.verify_message}", code="mail")
    if isinstance(error, smtplib.SMTPException | OSError | socket.gaierror):
        return TemporaryError(f"{where}: {type(error).__name__}", code="mail")
    return error
