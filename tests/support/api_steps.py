"""Runs one step through an adapter as the step runner does, and keeps what it logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import JsonValue

from consumer.ports import UNKNOWN, Action, Adapter, JsonObject, StepContext, Stream, Unknown
from schemas.wpk import ResourceLimits


@dataclass
class FixedScope:
    """A scope of given values; names in `unknown` have a value only later."""

    values: Mapping[str, JsonValue] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()

    @property
    def parameters(self) -> Mapping[str, JsonValue]:
        return self.values

    def lookup(self, expression: str) -> JsonValue | Unknown:
        if expression in self.unknown:
            return UNKNOWN
        if expression not in self.values:
            raise KeyError(f"${{{expression}}} has no value")
        return self.values[expression]


@dataclass
class Log:
    lines: list[tuple[Stream, str]] = field(default_factory=list)

    async def __call__(self, stream: Stream, line: str) -> None:
        self.lines.append((stream, line))

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)


async def _no_capture(record: JsonObject, summary: str) -> None:
    raise AssertionError(f"nothing was to be captured: {summary} {record}")


def context(
    *,
    log: Log | None = None,
    first_started_at: datetime | None = None,
    attempt: int = 1,
    dry_run: bool = False,
) -> StepContext:
    """The context of an attempt of the step `call` of the execution `run-1`."""
    return StepContext(
        execution_id="run-1",
        workflow="test-1.0.0",
        step="call",
        phase="run",
        attempt=attempt,
        epoch=1,
        dry_run=dry_run,
        first_started_at=first_started_at or datetime.now(UTC),
        limits=ResourceLimits(),
        log=log or Log(),
        capture=_no_capture,
    )


def prepare(adapter: Adapter, config: JsonObject, values: Mapping[str, JsonValue] | None = None) -> Action:
    return adapter.prepare(config, FixedScope(values or {}))


async def run(
    adapter: Adapter, config: JsonObject, values: Mapping[str, JsonValue] | None = None, log: Log | None = None
) -> JsonObject:
    """Prepares and runs one attempt."""
    return await prepare(adapter, config, values).run(context(log=log))
