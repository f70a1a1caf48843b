"""Whether traces are sent, as OpenTelemetry's own variables say; what that needs is imported only then."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog

from consumer.telemetry.traces import Traces

_log = structlog.get_logger(__name__)
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether the environment names a receiver of traces, and does not switch them off."""
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    none = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    return not off and not none and any(environment.get(name, "").strip() for name in ENDPOINTS)


@asynccontextmanager
async def sending(agent: str) -> AsyncIterator[Traces | None]:
    """Who sends traces while the block lasts; None where none are wanted, or they can't be sent: the log says why.

    A platform may set the variables for all that runs there: what is wrong with them must not keep the agent from work.
    """
    if not wanted(os.environ):
        yield None
        return
    try:
        otlp = await asyncio.to_thread(importlib.import_module, "consumer.telemetry.otlp")  # takes most of a second
        sender = otlp.Sender(agent)
    except ImportError as error:
        hint = "install the agent with its extra: pip install 'wpk-agent[otel]'"
        _log.warning("traces.unavailable", problem=f"a receiver of traces is named, but: {error}", hint=hint)
        yield None
        return
    except Exception as error:
        _log.warning("traces.unavailable", problem=f"{type(error).__name__}: {error}"[:500])
        yield None
        return
    try:
        yield sender
    finally:
        await sender.aclose()
