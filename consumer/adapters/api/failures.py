"""httpx's errors, mapped to the project's own."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator

import httpx

from consumer.adapters.api.body import BadBody
from consumer.adapters.api.message import Request
from consumer.adapters.api.wire import CONNECT_TIMEOUT
from consumer.errors import PermanentError, StepError, TemporaryError

_TEXT_LIMIT = 200


@contextlib.contextmanager
def mapped(request: Request) -> Iterator[None]:
    """Turns what is raised inside into a StepError that names the request; what is no error of HTTP goes through."""
    try:
        yield
    except StepError as error:
        raise type(error)(f"{request}: {error}", code=error.code) from error
    except BadBody as error:
        raise TemporaryError(f"{request}: {error}", code="bad_answer") from error
    except Exception as error:
        translated = translate(request, error)
        if translated is error:
            raise
        raise translated from error


_LOST = "the connection broke before the answer was complete; whether the server acted is not known"
#: The first that fits counts.
_TABLE: tuple[tuple[type[Exception], str, str], ...] = (
    (httpx.ConnectTimeout, "connect", f"no connection within {CONNECT_TIMEOUT:g}s"),
    (httpx.ConnectError, "connect", "no connection"),
    (httpx.TimeoutException, "timeout", "no answer in time"),
    (httpx.NetworkError, "connection_lost", _LOST),
    (httpx.ProtocolError, "bad_answer", "the answer is no proper HTTP"),
    (httpx.TransportError, "connection_lost", _LOST),
    (OSError, "connection_lost", _LOST),
)


def translate(request: Request, error: Exception) -> Exception:
    """The project's error for one of httpx's; any other exception is given back as it is."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TemporaryError(f"{request}: the certificate is not trusted: {cause.verify_message}", code="tls")
    if isinstance(error, httpx.ConnectError) and any(isinstance(cause, ssl.SSLError) for cause in causes):
        return TemporaryError(f"{request}: TLS could not be agreed on: {_cut(error)}", code="tls")
    if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol | httpx.InvalidURL):
        return PermanentError(f"{request} can't be sent: {_cut(error)}", code="bad_request")
    if isinstance(error, httpx.RemoteProtocolError) and _is_end(error):
        return TemporaryError(f"{request}: {_LOST}", code="connection_lost")
    for kind, code, text in _TABLE:
        if isinstance(error, kind):
            reasons = [os.strerror(cause.errno) for cause in causes if isinstance(cause, OSError) and cause.errno]
            detail = f": {reasons[-1]}" if reasons else (f": {_cut(error)}" if code == "bad_answer" else "")
            return TemporaryError(f"{request}: {text}{detail}", code=code)
    return error


def _is_end(error: httpx.RemoteProtocolError) -> bool:
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
