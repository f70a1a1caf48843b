"""What an auditor asks of an execution: who asked for what, on what, when, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import JsonValue

from consumer.audit.entry import Entry, Place
from schemas.events import JsonObject

_PLACEHOLDER = re.compile(r"\$\{\s*(?:parameters\.)?([A-Za-z0-9_.-]+)\s*\}")
#: Fields of a step's configuration that say on what it works.
_WHERE = ("namespace", "name", "resource", "url", "base_url", "host", "node", "target", "selector", "command")
_MOST_TARGETS = 40


class Deed(NamedTuple):
    """Somebody asked for something, or allowed it."""

    what: str
    """requested, approved, cancelled, rolled back, refused."""
    who: str | None
    why: str | None
    at: str


@dataclass(slots=True)
class Facts:
    """Of one execution, from its events in sequence."""

    execution_id: str
    workflow_id: str | None = None
    workflow_name: str | None = None
    accepted_at: str | None = None
    ended_at: str | None = None
    updated_at: str | None = None
    status: str | None = None
    dry_run: bool = False
    deeds: list[Deed] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    captured: list[str] = field(default_factory=list)
    """What was recorded before a change, by step: `deployment payments/api: …`."""
    error: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    _parameters: JsonObject = field(default_factory=dict)
    events: int = 0
    first: Place | None = None
    last: Place | None = None

    @property
    def requested_by(self) -> str | None:
        """Who asked for the run."""
        return next((deed.who for deed in self.deeds if deed.what == "requested"), None)

    @property
    def target(self) -> str:
        """On what it worked, shortly."""
        return self.targets[0] if self.targets else ""

    def take(self, entry: Entry) -> None:
        """The next event."""
        name, data, time = entry.name, entry.data, str(entry.raw.get("time"))
        self.events += 1
        self.first = self.first or entry.place
        self.last, self.updated_at = entry.place, time
        self.workflow_id = entry.text("workflow_id") or self.workflow_id
        if name == "step.captured":
            self.captured.append(str(data.get("summary")))
        elif name == "execution.accepted":
            self._accepted(entry, time)
        elif name.startswith("execution.") and not (name == "execution.rejected" and data.get("command")):
            self._changed(entry, time)
        elif name == "command.rejected":
            what = f"{data.get('action') or data.get('command')} refused"
            self.deeds.append(Deed(what, entry.text("requested_by"), _first_message(data.get("errors")), time))

    def _accepted(self, entry: Entry, time: str) -> None:
        data, command = entry.data, entry.data.get("command")
        self.status, self.accepted_at, self.dry_run = "pending", time, data.get("dry_run") is True
        self.workflow_name = entry.text("workflow_name")
        self.deeds.append(Deed("requested", entry.text("requested_by"), None, time))
        labels = data.get("labels")
        self.labels = {str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {}
        if isinstance(command, dict):
            self._aim(command)
            given = command.get("parameters")
            self._parameters = given if isinstance(given, dict) else {}

    def _aim(self, command: JsonObject) -> None:
        self.targets = list(dict.fromkeys(targets(command)))[:_MOST_TARGETS]

    def _changed(self, entry: Entry, time: str) -> None:
        name, data = entry.name, entry.data
        self.status = entry.text("status") or self.status
        if name == "execution.resolved":
            self.workflow_name = entry.text("workflow_name") or self.workflow_name
            self._aim({"parameters": self._parameters, "wpk_content": data.get("wpk_content")})
        elif name in ("execution.approval_given", "execution.approved"):
            self.deeds.append(Deed("approved", entry.text("approved_by"), entry.text("reason"), time))
        elif name == "execution.cancelling" and data.get("cause") != "deadline":
            self.deeds.append(Deed("cancelled", entry.text("requested_by"), entry.text("reason"), time))
        elif name == "execution.rolling_back" and data.get("trigger") == "command":
            self.deeds.append(Deed("rolled back", entry.text("requested_by"), entry.text("reason"), time))
        elif "completed_at" in data:
            self.ended_at, self.error = time, entry.text("error_message") or self.error

    def row(self) -> JsonObject:
        """As one JSON document, and as a row of the export's table `executions`; the names stay as they are."""
        approved = [deed.who for deed in self.deeds if deed.what == "approved" and deed.who]
        return {
            "execution_id": self.execution_id,
            "workflow_id": self.workflow_id,
            "workflow_name": self.workflow_name,
            "status": self.status,
            "dry_run": self.dry_run,
            "accepted_at": self.accepted_at,
            "ended_at": self.ended_at,
            "updated_at": self.updated_at,
            "requested_by": self.requested_by,
            "approved_by": ", ".join(approved) or None,
            "target": self.target or None,
            "changed": "; ".join(self.captured) or None,
            "error_message": self.error,
            "events": self.events,
            "partition": self.last.partition if self.last else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """Which executions are wanted; nothing given: all."""

    workflow: str | None = None
    """Its name, or `name-version`."""
    requester: str | None = None
    """Who asked for it, approved, cancelled or undid it."""
    target: str | None = None
    """A text in what it works on: a namespace, a name, `payments/api`, a host. Case does not matter."""
    statuses: frozenset[str] = frozenset()

    @property
    def given(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.workflow or self.requester or self.target or self.statuses)

    def admits(self, facts: Facts) -> bool:
        """Whether that execution is wanted."""
        wanted = (self.target or "").casefold()
        return (
            (self.workflow is None or self.workflow in (facts.workflow_id, facts.workflow_name))
            and (self.requester is None or any(deed.who == self.requester for deed in facts.deeds))
            and (not self.statuses or facts.status in self.statuses)
            and (not wanted or any(wanted in text.casefold() for text in (*facts.targets, *facts.captured)))
        )


def targets(command: JsonObject) -> Iterator[str]:
    """On what a command works, by its package and parameters: `namespace/name` first, then every single value."""
    given = command.get("parameters")
    parameters = given if isinstance(given, dict) else {}
    found: list[str] = []
    for config in _configs(command):
        where = {name: _filled(config[name], parameters) for name in _WHERE if isinstance(config.get(name), str)}
        if "namespace" in where and ("name" in where or "resource" in where):
            yield f"{where['namespace']}/{where.get('name') or where['resource']}"
        found += where.values()
    if isinstance(parameters.get("namespace"), str) and isinstance(parameters.get("name"), str):
        yield f"{parameters['namespace']}/{parameters['name']}"
    yield from found
    yield from (value for value in parameters.values() if isinstance(value, str))


def _configs(command: JsonObject) -> Iterator[JsonObject]:
    package = command.get("wpk_content")
    spec = package.get("spec") if isinstance(package, dict) else None
    handlers = spec.get("handlers") if isinstance(spec, dict) else None
    for handler in handlers if isinstance(handlers, list) else ():
        config = handler.get("config") if isinstance(handler, dict) else None
        if isinstance(config, dict):
            yield config


def _filled(value: JsonValue, parameters: JsonObject) -> str:
    """The text with its parameters in place."""
    return _PLACEHOLDER.sub(lambda match: str(parameters.get(match[1], match[0])), str(value))[:300]


def _first_message(errors: JsonValue) -> str | None:
    first = errors[0] if isinstance(errors, list) and errors else None
    message = first.get("message") if isinstance(first, dict) else None
    return message if isinstance(message, str) else None
