"""Sends the spans of executions by OTLP over HTTP. Imported only where traces are wanted: it needs the extra `otel`.

Spans wait in a bounded queue for a thread that sends them: no execution waits for the receiver, and where it does not
answer the oldest are dropped. Queue, timeouts, headers, certificates, sampling and the resource are set by the
variables of OpenTelemetry's specification.
"""

from __future__ import annotations

import asyncio
import os
import threading
from datetime import UTC, datetime
from importlib import metadata

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from consumer.telemetry import traces
from consumer.telemetry.traces import Span
from schemas.events import EventData
from schemas.execution import ExecutionState

_log = structlog.get_logger(__name__)
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
#: For what is still queued when the agent has stopped (seconds); the process then ends all the same.
_PARTING = 1.5


class _Ids(IdGenerator):
    """Gives the span that is made next the ids that it is to have."""

    trace_id = 0
    span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class Sender:
    """See `traces.Traces`. Raises ValueError where one of OpenTelemetry's variables is wrong."""

    def __init__(self, agent: str) -> None:
        for name in _PROTOCOLS:
            if (protocol := os.environ.get(name, "").strip()) not in ("", "http/protobuf"):
                raise ValueError(f"{name} is {protocol}; the agent sends http/protobuf only (port 4318 of a collector)")
        own = {"service.name": "wpk-agent", "service.version": _version(), "service.instance.id": agent}
        resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
        self._ids = _Ids()
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("wpk-agent", _version())
        self._failed = False
        _log.info("traces.sending")

    def told(self, data: EventData, before: ExecutionState | None, after: ExecutionState) -> None:
        """Queues the spans that ended with it."""
        try:
            for span in traces.spans_of(data, before, after):
                self._queue(span, after)
        except Exception:
            self._note_failure(after)

    def _note_failure(self, state: ExecutionState) -> None:
        """A defect here, or of a sampler that was plugged in, must not concern the execution; it is logged once."""
        if not self._failed:
            self._failed = True
            _log.exception("traces.failed", execution=state.execution_id)

    def sampled(self, state: ExecutionState) -> bool:
        """As the sampler decides of the execution's own span: by its trace, so that it always decides the same."""
        try:
            span = traces.execution_span(state, state.updated_at or state.accepted_at or datetime.now(UTC))
            context = _context(span, sampled=_parent_sampled(state))
            result = self._provider.sampler.should_sample(context, span.trace_id, span.name, SpanKind.CONSUMER)
        except Exception:
            self._note_failure(state)
            return False
        return result.decision is Decision.RECORD_AND_SAMPLE

    def _queue(self, span: Span, state: ExecutionState) -> None:
        sampled = _parent_sampled(state) if span.of_command else self.sampled(state)
        self._ids.trace_id, self._ids.span_id = span.trace_id, span.span_id
        made = self._tracer.start_span(
            span.name,
            context=_context(span, sampled=sampled),
            kind=SpanKind.CONSUMER if span.of_command else SpanKind.INTERNAL,
            attributes=span.attributes,
            start_time=_nanoseconds(span.start),
        )
        if span.began is not None:
            made.add_event("started", timestamp=_nanoseconds(span.began))
        if span.failed:
            made.set_status(Status(StatusCode.ERROR, span.message))
        made.end(_nanoseconds(max(span.start, span.end)))

    async def aclose(self) -> None:
        """Sends what is queued, as far as that is quick. The thread does not keep the process from its end."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _PARTING)


def _context(span: Span, *, sampled: bool) -> Context:
    """Where the span is to stand; empty where it is the first of its trace."""
    if span.parent is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    parent = SpanContext(span.trace_id, span.parent, is_remote=span.of_command, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _parent_sampled(state: ExecutionState) -> bool:
    given = traces.parse(state.traceparent)
    return given is not None and given.sampled


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000) * 1000  # exact to the microsecond, which is all that a datetime has


def _version() -> str:
    try:
        return metadata.version("wpk-agent")
    except metadata.PackageNotFoundError:
        return "unknown"
