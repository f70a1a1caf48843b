"""What the intake makes of a record on a command topic."""

from __future__ import annotations

from dataclasses import dataclass

from consumer.ports import CommandTopic
from schemas.commands import Command, CommandKind
from schemas.events import Source
from schemas.failure import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One record, read."""

    topic: CommandTopic
    source: Source
    content: Understood | Refused | Unreadable
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    """Key, value and headers as they came: what goes to the dead-letter topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """A command; whether it is carried out depends on the execution that it names."""

    execution_id: str
    command: Command
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Meant as a command, but not a valid one: it is answered with all that is wrong."""

    execution_id: str
    kind: CommandKind
    problems: tuple[Problem, ...]
    workflow_id: str | None = None
    requested_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Not to be understood: the bytes go to the dead-letter topic as they came."""

    reason: str
    """A stable code: not_json, too_large, no_object, …"""
    detail: str
