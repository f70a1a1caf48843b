"""Shell steps for tests: a step context that remembers its log, and what this machine can do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from consumer.adapters.shell import ShellAdapter
from consumer.adapters.shell.sandbox import Level
from consumer.ports import JsonObject, StepContext, Stream
from consumer.workflow.scope import UNKNOWN, Unknown
from schemas.wpk import ResourceLimits
from tests.support.require import require

Log = Callable[[Stream, str], Awaitable[None]]


class FixedScope:
    """Values given by the test; a name without one is not known."""

    def __init__(self, **values: JsonValue | Unknown) -> None:
        self._values = values

    @property
    def parameters(self) -> dict[str, JsonValue | Unknown]:
        return self._values

    def lookup(self, expression: str) -> JsonValue | Unknown:
        try:
            return self._values[expression.replace(".", "_")]
        except KeyError:
            raise KeyError(f'"{expression}" has no value') from None


class Unknowing:
    """A scope in which everything has a value, but a later one."""

    @property
    def parameters(self) -> dict[str, JsonValue | Unknown]:
        return {}

    def lookup(self, expression: str) -> JsonValue | Unknown:
        return UNKNOWN


class Recorder:
    """A step's log."""

    def __init__(self) -> None:
        self.lines: list[tuple[Stream, str]] = []

    async def log(self, stream: Stream, text: str) -> None:
        self.lines.append((stream, text))

    def of(self, stream: Stream) -> list[str]:
        return [text for where, text in self.lines if where == stream]


def context(log: Log, **changes: Any) -> StepContext:
    """A first attempt of a step."""

    async def capture(record: JsonObject, summary: str) -> None:
        raise AssertionError("a shell step captures nothing")

    fields: dict[str, Any] = {
        "execution_id": "run-1",
        "workflow": "tests",
        "step": "a-step",
        "phase": "run",
        "attempt": 1,
        "epoch": 1,
        "dry_run": False,
        "first_started_at": datetime(2026, 1, 1, tzinfo=UTC),
        "limits": ResourceLimits(),
        "log": log,
        "capture": capture,
    }
    return StepContext(**{**fields, **changes})


async def run(adapter: ShellAdapter, config: JsonObject, recorder: Recorder | None = None, **values: Any) -> JsonObject:
    """Prepares and runs one step."""
    action = adapter.prepare(config, FixedScope(**values))
    return await action.run(context((recorder or Recorder()).log))


async def require_sandbox(adapter: ShellAdapter, level: Level = "bubblewrap") -> None:
    """Skips the test where the adapter does not come to that level."""
    report = await adapter.report()
    require(report.level == level, f"{level} can't be used here: {report.detail}")


async def adapter_at(level: Level, **changes: Any) -> ShellAdapter:
    """An adapter whose steps run at that level; skips the test where this machine does not have it."""
    mode = "off" if level == "none" else "required"
    built = ShellAdapter(mode=mode, levels=(level,), **changes)
    await require_sandbox(built, level)
    return built


def processes_with(mark: str) -> list[int]:
    """The processes of this machine that have the mark in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found
