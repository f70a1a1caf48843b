"""Requests and answers as plain values, and how they are named to humans: without a password, token or query."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import httpx

from consumer.adapters.api.urls import parse_url
from consumer.errors import PermanentError

#: Names of headers and query parameters whose values are credentials, declared as secrets or not.
_CREDENTIAL = re.compile(
    r"authorization|cookie|token|secret|passw|signature|credential|api[-_]?key|\bsig\b", re.IGNORECASE
)
MASK = "***"

#: What may go along to another origin: none of these can hold a credential.
_NEUTRAL = frozenset({"accept", "accept-encoding", "accept-language", "content-type", "user-agent"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110, 9.2.1


def masked(name: str, value: str) -> str:
    """The value of a header or query parameter, unless its name says that it is a credential."""
    return MASK if _CREDENTIAL.search(name) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent. The URL holds no user and password; they are a header by then."""

    method: str
    url: httpx.URL
    headers: tuple[tuple[str, str], ...]
    content: bytes | None = None

    def __str__(self) -> str:
        """`GET http://host/path`; a query is only hinted at, as it may hold what is not for every eye."""
        return f"{self.method} {self.url.copy_with(query=None, fragment=None)}{'?…' if self.url.query else ''}"

    @property
    def host(self) -> str:
        """As it goes over the wire. httpx's own `host` decodes international names, and fails on some that exist."""
        return self.url.raw_host.decode("ascii")

    @property
    def port(self) -> int:
        return self.url.port or _DEFAULT_PORTS[self.url.scheme]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def with_header(self, name: str, value: str) -> Request:
        """With that header added, unless there is one."""
        if self.header(name) is not None:
            return self
        return replace(self, headers=(*self.headers, (name, value)))

    @property
    def visible_url(self) -> str:
        """The whole URL for a plan, credentials in the query masked."""
        if not self.url.query:
            return str(self.url)
        params = [(name, masked(name, value)) for name, value in self.url.params.multi_items()]
        return str(self.url.copy_with(params=params))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. Header names are in lower case; `body` is decompressed and may be cut."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool
    """False: there is more than was read."""
    received: int
    """Bytes read from the wire, before decompression."""


def redirected(request: Request, status: int, location: str) -> Request:
    """The request that follows a redirect (RFC 9110, 15.4; methods change as the fetch standard says).

    Raises PermanentError where following would send credentials or a payload where the package did not say.
    """
    try:
        url = parse_url(str(request.url.join(location)))
    except httpx.InvalidURL as error:
        raise _refused(request, "its target is no URL") from error
    except ValueError as error:
        raise _refused(request, f"its target {str(error).partition(';')[0]}") from error
    url = url.copy_with(userinfo=b"", fragment=None)
    follow = replace(request, url=url, headers=tuple(pair for pair in request.headers if pair[0].lower() != "host"))
    if request.url.scheme == "https" and url.scheme == "http":
        raise _refused(request, f"its target {follow.host} is not encrypted")
    if (status == 303 and request.method != "HEAD") or (status in (301, 302) and request.method == "POST"):
        kept = tuple(pair for pair in follow.headers if not pair[0].lower().startswith("content-"))
        follow = replace(follow, method="GET", content=None, headers=kept)
    if _same_origin(request, follow):
        return follow
    if follow.content:
        raise _refused(request, f"its target is another origin, {follow.host}, and would get the payload")
    if follow.method not in SAFE:
        raise _refused(request, f"its target is another origin, {follow.host}, and a {follow.method} may change it")
    return replace(follow, headers=tuple(pair for pair in follow.headers if pair[0].lower() in _NEUTRAL))


def _same_origin(before: Request, after: Request) -> bool:
    if before.host != after.host:
        return False
    upgraded = (before.url.scheme, before.port, after.url.scheme, after.port) == ("http", 80, "https", 443)
    return upgraded or (before.url.scheme, before.port) == (after.url.scheme, after.port)


def _refused(request: Request, why: str) -> PermanentError:
    return PermanentError(f"the redirect of {request} is not followed: {why}", code="redirect")
