"""A small service on loopback that the demo's packages talk to: real HTTP, with the faults that real services have.

GET /greeting   a greeting
GET /flaky      fails twice, then works, then begins again
GET /limit      the present limit
PUT /limit      sets it: {"limit": 25}
GET /health     fails for ever
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consumer.telemetry import http
from consumer.telemetry.http import Request, Response, json_response

#: How often /flaky fails before it works.
FAILURES = 2


class Limit(BaseModel):
    """The body of PUT /limit, and of its answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(ge=0, le=1_000_000)


class DemoService:
    """The service's memory and its answers."""

    def __init__(self) -> None:
        self.limit = Limit(limit=10)
        self.calls: list[tuple[str, str]] = []
        """Method and path of each request, in order."""
        self._failures = 0

    async def answer(self, request: Request) -> Response:
        """The answer to one request."""
        self.calls.append((request.method, request.path))
        match request.method, request.path:
            case "GET", "/greeting":
                return json_response({"greeting": "hello from a service that works"})
            case "GET", "/flaky":
                return self._flaky()
            case "GET", "/limit":
                return json_response(self.limit.model_dump())
            case "PUT", "/limit":
                return self._set_limit(request.body)
            case "GET", "/health":
                return json_response({"error": "the new limit is more than the disk can take"}, 500)
            case _:
                return json_response({"error": f"there is no {request.method} {request.path}"}, 404)

    def _flaky(self) -> Response:
        if self._failures < FAILURES:
            self._failures += 1
            return json_response({"error": "overloaded, try again"}, 503)
        self._failures = 0
        return json_response({"attempts": FAILURES + 1})

    def _set_limit(self, body: bytes) -> Response:
        try:
            self.limit = Limit.model_validate(orjson.loads(body))
        except (orjson.JSONDecodeError, ValidationError):
            return json_response({"error": 'write {"limit": 25}'}, 400)
        return json_response(self.limit.model_dump())


@contextlib.asynccontextmanager
async def serve(service: DemoService | None = None, *, port: int = 0) -> AsyncIterator[str]:
    """Runs the service while the block lasts; gives its URL, without a slash at the end."""
    service = service or DemoService()
    async with http.serve(service.answer, host="127.0.0.1", port=port) as bound:
        yield f"http://127.0.0.1:{bound}"
