"""A receiver of traces on loopback: reads OTLP's protobuf, and keeps the spans by their ids."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support import http_server

PATH = "/v1/traces"


@dataclass(frozen=True)
class Span:
    """One span as it was received; ids as hexadecimal digits."""

    trace_id: str
    span_id: str
    parent: str
    name: str
    kind: int
    start: int
    end: int
    failed: bool
    message: str
    attributes: dict[str, Any]
    events: list[str]


@dataclass
class Receiver:
    """All that was received, in order."""

    endpoint: str
    server: http_server.Server
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def take(self, body: bytes) -> None:
        """One request."""
        self.bodies.append(body)
        request = ExportTraceServiceRequest.FromString(body)
        for group in request.resource_spans:
            self.resources.append(_attributes(group.resource.attributes))
            for scope in group.scope_spans:
                self.spans += [_span(span) for span in scope.spans]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def _span(span: Any) -> Span:
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        name=span.name,
        kind=span.kind,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == 2,
        message=span.status.message,
        attributes=_attributes(span.attributes),
        events=[event.name for event in span.events],
    )


@contextlib.asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver while the block lasts."""
    async with http_server.serve() as server:
        made = Receiver(server.url(""), server)

        async def handle(exchange: http_server.Exchange) -> None:
            request = exchange.request
            packed = request.headers.get("content-encoding") == "gzip"
            made.take(gzip.decompress(request.body) if packed else request.body)
            await exchange.reply(200, kind="application/x-protobuf")

        server.route(PATH, handle)
        yield made
