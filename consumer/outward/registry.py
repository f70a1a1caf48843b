"""Where packages are found that a command only names: the registry's topic, then an HTTP registry."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from pydantic import JsonValue

from consumer.adapters.api.message import Answer, Request
from consumer.adapters.api.transport import Transport
from consumer.adapters.api.urls import parse_url
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject, Packages, Resolved
from consumer.workflow import documents
from schemas.canonical import digest
from schemas.registry import DIGEST

#: Seconds for one answer.
TIMEOUT = 10.0
#: Answers that are kept to be asked for again by their ETag, and how much of them (packages, bytes of JSON).
_KEPT, _KEPT_BYTES = 100, 8 << 20
_UNKNOWN = (404, 410)
#: Statuses by which a server says that another try may go well, below those of 500 and above (RFC 9110, RFC 6585).
_LATER = (408, 425, 429)


@dataclass(frozen=True, slots=True)
class _Kept:
    etag: str
    package: Resolved
    size: int


class HttpPackages:
    """`GET {base}/workflows/{reference}`, answered by `{"wpk_content": …}`. Implements `ports.Packages`.

    Nothing that it answers is believed: the package must be the one that was asked for, and the policy judges it like
    one that came in a command. Redirects are not followed.
    """

    def __init__(self, base: str, transport: Transport, *, token: str | None = None, verify: bool | str = True) -> None:
        """`token` is sent as a bearer token; `verify` is True, or the PEM text of the authorities to be trusted."""
        self._base = base
        self._transport = transport
        self._headers = (("Authorization", f"Bearer {token}"),) if token else ()
        self._verify = verify
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    async def resolve(self, reference: str) -> Resolved:
        """See `ports.Packages`."""
        kept = self._kept.get(reference)
        headers = [("Accept", "application/json"), *self._headers]
        if kept is not None:
            headers.append(("If-None-Match", kept.etag))
        url = parse_url(f"{self._base}/workflows/{quote(reference, safe='')}")
        request = Request(method="GET", url=url, headers=tuple(headers))
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await self._transport.exchange(request, self._verify)
        except TimeoutError as error:
            raise TemporaryError(f"{request}: no answer within {TIMEOUT:g} s", code="registry_unavailable") from error
        if answer.status == 304 and kept is not None:
            self._kept.move_to_end(reference)
            return kept.package
        _check_status(request, reference, answer)
        content = _content(request, answer)
        found = Resolved(content=content, digest=digest(content), origin=str(url))
        _check_named(request, reference, found)
        self._keep(reference, answer, found)
        return found

    def _keep(self, reference: str, answer: Answer, found: Resolved) -> None:
        self._kept.pop(reference, None)
        etag = answer.headers.get("etag")
        if not etag:
            return
        self._kept[reference] = _Kept(etag, found, len(answer.body))
        while len(self._kept) > _KEPT or sum(each.size for each in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)


def _check_status(request: Request, reference: str, answer: Answer) -> None:
    if answer.status in _UNKNOWN:
        raise PermanentError(f'{request}: the registry has no package "{reference}"', code="unknown_package")
    if answer.status >= 500 or answer.status in _LATER:
        raise TemporaryError(f"{request}: the registry answers {answer.status}", code="registry_unavailable")
    if answer.status != 200:
        hint = "; is WPK_REGISTRY_TOKEN right?" if answer.status in (401, 403) else ""
        raise PermanentError(f"{request}: the registry answers {answer.status}{hint}", code="registry_refused")


def _content(request: Request, answer: Answer) -> JsonObject:
    """The package in the answer, read like one in a command: as an object, or as YAML text."""
    if not answer.complete:
        raise PermanentError(f"{request}: the answer is larger than 1 MB", code="bad_package")
    try:
        document = documents.parse(answer.body, max_bytes=len(answer.body) or 1).value
        content: JsonValue = document.get("wpk_content") if isinstance(document, dict) else None
        if isinstance(content, str):
            content = documents.parse(content).value
    except documents.DocumentError as error:
        raise PermanentError(f"{request}: the answer can't be read: {str(error)[:500]}", code="bad_package") from error
    if not isinstance(content, dict):
        raise PermanentError(f'{request}: the answer is no object with "wpk_content"', code="bad_package")
    return content


def _check_named(request: Request, reference: str, found: Resolved) -> None:
    metadata = found.content.get("metadata")
    name, version = (metadata.get("name"), metadata.get("version")) if isinstance(metadata, dict) else (None, None)
    names = (found.digest,) if DIGEST.fullmatch(reference) else (f"{name}-{version or '0.0.0'}", name)
    if reference not in names:
        message = f'{request}: "{reference}" was asked for, and the package is {name}-{version} ({found.digest})'
        raise PermanentError(message, code="bad_package")


class Chain:
    """Asks one source after the other until one knows the package. Implements `ports.Packages`."""

    def __init__(self, sources: Sequence[Packages]) -> None:
        self._sources = tuple(sources)

    async def resolve(self, reference: str) -> Resolved:
        """See `ports.Packages`. What no source knows is refused with what each said."""
        said: list[str] = []
        for source in self._sources:
            try:
                return await source.resolve(reference)
            except PermanentError as error:
                if error.code != "unknown_package":
                    raise
                said.append(str(error))
        raise PermanentError("; ".join(said), code="unknown_package")
