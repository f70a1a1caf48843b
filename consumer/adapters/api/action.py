"""One request with all its values in place: what it would do, and doing it."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass, replace

import httpx
from pydantic import JsonValue

from consumer.adapters.api import message, verdict
from consumer.adapters.api.body import MAX_KEPT, Body, read_body
from consumer.adapters.api.config import ApiConfig
from consumer.adapters.api.expectation import Expectation
from consumer.adapters.api.message import Answer, Request
from consumer.adapters.api.transport import Transport
from consumer.adapters.api.urls import parse_url
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext
from schemas.scalars import format_duration

MAX_REDIRECTS = 3
_IDEMPOTENT = message.SAFE | {"PUT", "DELETE"}  # RFC 9110, 9.2.2
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEY = "Idempotency-Key"
_TRACE = "traceparent"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAction:
    """An api step that is ready."""

    config: ApiConfig
    expectation: Expectation | None
    transport: Transport

    @property
    def repeatable(self) -> bool:
        """True for idempotent methods; for POST and PATCH only where the package itself declares an Idempotency-Key.

        We send a key with each of them, but a server that does not know the header would do the thing twice, and only
        the author knows which server it is.
        """
        return self.config.method in _IDEMPOTENT or any(name.lower() == _KEY.lower() for name in self.config.headers)

    @property
    def waits(self) -> bool:
        """True for what only looks: a change that is cut off may have been made, and its repetition may be refused."""
        return self.config.method in message.SAFE

    @property
    def time_limit(self) -> float | None:
        return self.config.timeout

    async def plan(self, step: StepContext) -> Plan:
        """The resolved request. Raises PermanentError where the address is blocked."""
        request = self._request(step)
        note = await self.transport.check(request)
        detail: JsonObject = {
            "method": request.method,
            "url": request.visible_url,
            "headers": {name: message.masked(name, value) for name, value in request.headers},
            "expected_status": list(self.config.expected_status),
            "repeatable": self.repeatable,
        }
        if self.config.payload is not None:
            size = len(request.content or b"")
            detail["payload"] = self.config.payload if size <= MAX_KEPT else f"{size} bytes, too long to be shown"
        if self.expectation is not None:
            detail["expect"] = self.expectation.text
        if note is not None:
            detail["note"] = note
        return Plan(summary=str(request), changes=request.method not in message.SAFE, detail=detail)

    async def run(self, step: StepContext) -> JsonObject:
        """Sends the request, and judges the answer by `expected_status` and `expect`."""
        request, begin = self._request(step), time.monotonic()
        if step.traceparent is not None:  # not in a plan: it differs each time, and the plan's digest must not
            request = request.with_header(_TRACE, step.traceparent)
        try:
            async with asyncio.timeout(self.config.timeout) as deadline:
                request, answer = await self._exchange(request, step)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            limit = format_duration(self.config.timeout or 0.0)
            unsure = "" if request.method in message.SAFE else "; whether the server acted is not known"
            raise TemporaryError(f"no complete answer within {limit} from {request}{unsure}", code="timeout") from error
        duration = round(time.monotonic() - begin, 3)
        body = read_body(answer.body, complete=answer.complete, content_type=answer.headers.get("content-type", ""))
        await _log(step, request, answer, body, duration)
        output: JsonObject = {
            "status": answer.status,
            "headers": dict(answer.headers),
            "body": body.kept,
            "duration": duration,
            "truncated": body.truncated,
        }
        if body.base64:
            output["encoding"] = "base64"
        again = step.repeated and request.method not in message.SAFE
        failure = verdict.unexpected_status(request, answer, self.config.expected_status, output, again=again)
        if failure is None and self.expectation is not None:
            failure = verdict.unmet_expectation(request, answer, body, self.expectation, output)
        if failure is not None:
            raise failure
        return output

    async def _exchange(self, request: Request, step: StepContext) -> tuple[Request, Answer]:
        """The last request of a chain of redirects, and its answer."""
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self.transport.exchange(request, self.config.verify)
            location = answer.headers.get("location")
            if not self.config.follow_redirects or answer.status not in _REDIRECTS or location is None:
                return request, answer
            follow = message.redirected(request, answer.status, location)
            await step.log("agent", f"{request}: {answer.status}, on to {follow}")
            request = follow
        raise PermanentError(f"more than {MAX_REDIRECTS} redirects, the last to {request}", code="redirect")

    def _request(self, step: StepContext) -> Request:
        config = self.config
        url = parse_url(config.url)
        if config.params:
            items = [(name, value) for name, values in config.params.items() for value in values]
            url = url.copy_with(params=[*url.params.multi_items(), *items])
        request = Request(
            method=config.method,
            url=url.copy_with(userinfo=b"", fragment=None),
            headers=tuple(config.headers.items()),
        )
        if url.userinfo:
            pair = f"{url.username}:{url.password}".encode()
            request = request.with_header("Authorization", f"Basic {base64.b64encode(pair).decode('ascii')}")
        if config.method not in _IDEMPOTENT:
            request = request.with_header(_KEY, step.idempotency_key)
        return _with_payload(request, config.payload)


def _with_payload(request: Request, payload: JsonValue) -> Request:
    if payload is None:
        # RFC 9110, 8.6: a method that usually has a body says that there is none.
        return replace(request, content=b"") if request.method in ("POST", "PUT", "PATCH") else request
    if isinstance(payload, str):
        request = request.with_header("Content-Type", "text/plain; charset=utf-8")
        return replace(request, content=payload.encode())
    encoded = httpx.Request(request.method, request.url, json=payload)
    return replace(request.with_header("Content-Type", encoded.headers["Content-Type"]), content=encoded.content)


async def _log(step: StepContext, request: Request, answer: Answer, body: Body, duration: float) -> None:
    size = f"{answer.received} bytes" if answer.complete else f"more than {answer.received} bytes, cut"
    await step.log("agent", f"{request}: {answer.status} in {format_duration(duration)}, {size}")
    if body.note:
        await step.log("agent", body.note)
