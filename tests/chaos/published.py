"""What was asked of the agents and what may come of it: the one side of every check, kept in memory and in a file."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

#: The header that tells which command a record is.
NUMBER_HEADER = "chaos-command"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One execution, as its user knows it."""

    number: int
    kind: str
    execution_id: str | None
    """None: the agent derives it from where the command lies."""
    package: Json | None = None
    """What its execute command holds; None where there is none that could run."""
    statuses: tuple[str, ...] = ()
    """How it may end where no step was interrupted."""
    interrupted: tuple[str, ...] = ()
    """How it may end where a step was."""
    waits: bool = False
    """It waits for an approval that never comes."""
    dry: bool = False
    """Nothing may change outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One record to be published."""

    number: int
    plan: int
    role: str
    """`commands.execute`, `commands.rollback` or `commands.control`."""
    key: str | None
    answers: tuple[str, ...]
    """What may answer it: accepted, duplicate, rejected, dead, approved, cancelling, rolling_back, ended."""
    digest: str
    """The SHA-256 of its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """Where the brokers said that they have it."""

    command: int
    topic: str
    partition: int
    offset: int


@dataclass
class Published:
    """All plans and commands so far. Safe to be used by several threads."""

    plans: dict[int, Plan] = field(default_factory=dict)
    commands: dict[int, Command] = field(default_factory=dict)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    file: Path | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _open: TextIO | None = field(default=None, repr=False)

    def plan(self, plan: Plan) -> None:
        """Notes what is to happen, before anything of it is published."""
        with self._lock:
            self.plans[plan.number] = plan
            self._write("plan", asdict(plan))

    def command(self, command: Command) -> None:
        """Notes a record, before it is sent: it may arrive although nobody says so."""
        with self._lock:
            self.commands[command.number] = command
            self._write("command", asdict(command))

    def acknowledge(self, acknowledged: Acknowledged) -> None:
        """Notes that the brokers have it."""
        with self._lock:
            self.acknowledged.append(acknowledged)
            self._write("acknowledged", asdict(acknowledged))

    @property
    def unacknowledged(self) -> list[Command]:
        """Commands of which nobody has said yet that they are there."""
        with self._lock:
            known = {each.command for each in self.acknowledged}
            return [command for command in self.commands.values() if command.number not in known]

    def _write(self, what: str, fields: Json) -> None:
        if self.file is None:
            return
        if self._open is None:
            self._open = self.file.open("a")
        self._open.write(json.dumps({what: fields}, separators=(",", ":")) + "\n")
        self._open.flush()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None


def load(file: Path) -> Published:
    """What another process has noted there."""
    published = Published()
    for line in file.read_text().splitlines():
        ((what, fields),) = json.loads(line).items()
        if what == "plan":
            plan = Plan(**(fields | {name: tuple(fields[name]) for name in ("statuses", "interrupted")}))
            published.plans[plan.number] = plan
        elif what == "command":
            command = Command(**(fields | {"answers": tuple(fields["answers"])}))
            published.commands[command.number] = command
        else:
            published.acknowledged.append(Acknowledged(**fields))
    return published


def digest(value: bytes | None) -> str:
    """What a record's value is known by."""
    return hashlib.sha256(value or b"").hexdigest()


def ids(plans: Iterable[Plan]) -> set[str]:
    """The execution ids that were given."""
    return {plan.execution_id for plan in plans if plan.execution_id is not None}
