"""Asks a Prometheus server for what a query gives now (its HTTP API: /api/v1/query)."""

from __future__ import annotations

import functools
import math
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import certifi
import httpx
from pydantic import JsonValue

from consumer.adapters.k8s import rollout
from consumer.adapters.k8s.bodies import parse
from consumer.errors import PermanentError, StepError, TemporaryError
from consumer.ports import JsonObject

_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_MAX_BODY = 8 * 1024 * 1024
_MAX_TEXT = 400


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of an answer."""

    labels: JsonObject
    value: JsonValue
    """A number; a text where it is no finite one (`NaN`, `+Inf`) or the query gives texts; None for a histogram."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a query gives."""

    kind: str
    """vector, scalar or string."""
    samples: list[Sample]
    warnings: list[str]


class Prometheus:
    """One server. Holds no connection between queries."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._host = urlsplit(url).netloc

    def __str__(self) -> str:
        return f"Prometheus at {self._host}"

    async def query(self, text: str) -> Answer:
        """The answer to an instant query. Raises StepError."""
        status, body = await self._ask(text)
        document = parse(body)
        if rollout.text(document, "status") != "success":
            raise self._failure(status, document)
        warnings = document.get("warnings") if isinstance(document, dict) else None
        kind = rollout.text(document, "data", "resultType")
        return Answer(
            kind=kind,
            samples=self._samples(kind, rollout.mapping(document, "data").get("result")),
            warnings=[str(each)[:_MAX_TEXT] for each in warnings] if isinstance(warnings, list) else [],
        )

    async def _ask(self, text: str) -> tuple[int, bytes]:
        """The status and the body. POST, as a query may be longer than servers take a URL to be."""
        body = bytearray()
        try:
            async with (
                httpx.AsyncClient(
                    verify=_trust() if self._url.startswith("https:") else False,
                    timeout=_TIMEOUT,
                    follow_redirects=False,
                    trust_env=False,
                ) as client,
                client.stream("POST", f"{self._url}/api/v1/query", data={"query": text}) as response,
            ):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MAX_BODY:
                        raise PermanentError(
                            f"{self}: the answer is larger than {_MAX_BODY >> 20} MiB; aggregate in the query",
                            code="too_large",
                        )
                return response.status_code, bytes(body)
        except (httpx.HTTPError, OSError) as error:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise TemporaryError(f"{self} can't be reached ({why})", code="unreachable") from error

    def _failure(self, status: int, document: JsonValue) -> StepError:
        said = rollout.text(document, "error")[:_MAX_TEXT]
        if status in (400, 422):
            return PermanentError(f"{self} refuses the query: {said or status}", code="invalid")
        if status in (401, 403):
            return PermanentError(f"{self} refuses the agent: {said or status}", code="forbidden")
        if status == 429 or status >= 500:
            return TemporaryError(f"{self} answered {status}: {said or 'no reason given'}", code="unavailable")
        remedy = "check that WPK_PROMETHEUS_URL names a Prometheus server"
        return PermanentError(f"{self} answered {status} with no result of a query; {remedy}", code="bad_answer")

    def _samples(self, kind: str, result: JsonValue) -> list[Sample]:
        if kind in ("scalar", "string"):
            return [Sample({}, _value(result, numeric=kind == "scalar"))]
        if kind == "vector" and isinstance(result, list):
            entries = [entry for entry in result if isinstance(entry, dict)]
            return [Sample(rollout.mapping(entry, "metric"), _value(entry.get("value"))) for entry in entries]
        if kind == "matrix":
            raise PermanentError(
                f"{self}: the query gives ranges of values; make one of each, as with rate(…) or last_over_time(…)",
                code="invalid",
            )
        raise PermanentError(f'{self}: the result has the unknown type "{kind[:80]}"', code="bad_answer")


@functools.cache
def _trust() -> ssl.SSLContext:
    """The system's CAs (SSL_CERT_FILE included), so that a company's own counts; else certifi's."""
    paths = ssl.get_default_verify_paths()
    return ssl.create_default_context(cafile=None if paths.cafile or paths.capath else certifi.where())


def _value(pair: JsonValue, *, numeric: bool = True) -> JsonValue:
    """The value of `[moment, "text"]`."""
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], str):
        return None
    try:
        number = float(pair[1]) if numeric else math.nan
    except ValueError:
        return pair[1]
    return number if math.isfinite(number) else pair[1]
