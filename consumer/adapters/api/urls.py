"""The URL of a request: parsed, and filled with values that can't make another request of it.

A value in the URL is data. It may be the URL's beginning (`${base_url}/health`) or its whole host; but a user's name
in `https://api.example/users/${user}` must not lead to another path, and never to another host: a credential that the
package sends would go there.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

import httpx

from consumer.ports import Scope, Unknown
from consumer.workflow import values
from schemas.failure import Problem

MAX_LENGTH = 8192

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?|[0-9a-f:.]+", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\$\$\{|\$\{([^}]*)\}")
_IN_AUTHORITY = re.compile(r"[A-Za-z0-9._:\[\]-]*")
_END = ("/", "?", "#")
_BEFORE_NAME = ".@:["
#: What a value may hold that stands for several parameters. All else is encoded in full, in the very forms by which
#: the values of secrets are known and masked.
_QUERY_SAFE = "=&%+/:,;@!$'()*?~"


def parse_url(text: str) -> httpx.URL:
    """The absolute http(s) URL. Raises ValueError with the remedy; not with the URL, which may hold a password."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"is longer than {MAX_LENGTH} characters")
    try:
        url = httpx.URL(text.strip())
        host = url.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError("is no URL; write http://host/path or https://host:port/path") from error
    if url.scheme not in ("http", "https"):
        raise ValueError(f'has the scheme "{url.scheme[:20]}"; write http://host/path or https://host:port/path')
    if not _HOST.fullmatch(host):
        raise ValueError("has no host that is a name or an address; write http://host/path or https://host:port/path")
    if url.port is not None and not 0 < url.port < 65536:
        raise ValueError(f"has the port {url.port}; a port lies between 1 and 65535")
    return url


def fill(template: str, scope: Scope) -> tuple[str | None, list[Problem]]:
    """The URL with its placeholders' values in place, or what is wrong with them.

    None and no problem where a value is missing or not known yet: the common rules for placeholders tell that.
    """
    if len(template) > MAX_LENGTH:  # to search it for placeholders would take the square of its length
        return None, [_problem(f"is longer than {MAX_LENGTH} characters")]
    return _filled(template, scope)


def _filled(template: str, scope: Scope) -> tuple[str | None, list[Problem]]:
    out = ""
    end = 0
    for match in _PLACEHOLDER.finditer(template):
        out += template[end : match.start()]
        end = match.end()
        if match[1] is None:
            out += "${"
            continue
        try:
            value = scope.lookup(match[1].strip())
        except KeyError:
            return None, []
        if isinstance(value, Unknown):
            return None, []
        piece = _placed(out, values.as_text(value), template[end:])
        if piece is None:
            return None, [_problem(f"the value of {match[0]} can't stand in the URL's host")]
        out += piece
    out += template[end:]
    try:
        parse_url(out)
    except ValueError as error:
        return None, [_problem(str(error))]
    if end and _has_dot_segment(out):
        return None, [_problem("a value makes a .. in the URL's path, which would lead elsewhere")]
    return out, []


def _placed(before: str, value: str, after: str) -> str | None:
    """The value as it may stand between what is before it and the template's rest; None where it must not."""
    scheme, separator, rest = before.partition("://")
    if not before:
        return value
    if not separator or not any(mark in rest for mark in _END):
        return _in_authority(rest if separator else scheme, value, after)
    if "?" in rest:
        last = re.split(r"[?&]", rest)[-1]
        return quote(value, safe="" if "=" in last else _QUERY_SAFE)
    return quote(value, safe="/")


def _in_authority(before: str, value: str, after: str) -> str | None:
    literal = re.split(r"[/?#]|\$\{", after, maxsplit=1)[0]
    if "@" in re.split(r"[/?#]", after, maxsplit=1)[0]:
        return quote(value, safe="")  # a user or a password
    if _IN_AUTHORITY.fullmatch(value):
        # `https://api.example${path}` with `.evil.example`: a host that begins like the package's and is another.
        ends_host = literal.partition(":")[0] == ""
        return None if ends_host and "." in value and before and before[-1] not in _BEFORE_NAME else value
    whole = not before and not literal
    return value if "@" not in value and not literal and (whole or value.startswith(_END)) else None


def _has_dot_segment(url: str) -> bool:
    """Also in the spellings that servers read as one."""
    path = re.split(r"[?#]", url.partition("://")[2], maxsplit=1)[0]
    return any(segment in (".", "..") for segment in re.split(r"[/\\]", unquote(path))[1:])


def _problem(message: str) -> Problem:
    return Problem(path="url", message=message)
