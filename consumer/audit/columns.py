"""The export's tables: their columns, which only ever get more, at the end. docs/audit.md describes them."""

from __future__ import annotations

from typing import Final, Literal

import orjson
from pydantic import JsonValue

from consumer.audit.entry import Entry
from consumer.audit.facts import Facts
from schemas.events import JsonObject

Kind = Literal["text", "integer", "number", "boolean"]
Table = Literal["events", "executions"]

EVENTS: Final[dict[str, Kind]] = {
    "time": "text",
    "execution_id": "text",
    "workflow_id": "text",
    "seq": "integer",
    "type": "text",
    "status": "text",
    "step": "text",
    "adapter": "text",
    "phase": "text",
    "attempt": "integer",
    "duration": "number",
    "error_type": "text",
    "error_message": "text",
    "who": "text",
    "reason": "text",
    "agent": "text",
    "attempt_epoch": "integer",
    "dry_run": "boolean",
    "prev_hash": "text",
    "hash": "text",
    "topic": "text",
    "partition": "integer",
    "offset": "integer",
    "data": "text",
}
EXECUTIONS: Final[dict[str, Kind]] = {
    "execution_id": "text",
    "workflow_id": "text",
    "workflow_name": "text",
    "status": "text",
    "dry_run": "boolean",
    "accepted_at": "text",
    "ended_at": "text",
    "updated_at": "text",
    "requested_by": "text",
    "approved_by": "text",
    "target": "text",
    "changed": "text",
    "error_message": "text",
    "events": "integer",
    "partition": "integer",
}
TABLES: Final[dict[Table, dict[str, Kind]]] = {"events": EVENTS, "executions": EXECUTIONS}


def event_row(entry: Entry) -> JsonObject:
    """A row of the table `events`."""
    data, record = entry.data, entry.record
    error = data.get("error")
    failure = error if isinstance(error, dict) else {}
    return {
        "time": entry.raw.get("time"),
        "execution_id": entry.execution_id,
        "workflow_id": data.get("workflow_id"),
        "seq": entry.seq,
        "type": entry.name,
        "status": entry.text("status"),
        "step": entry.text("step"),
        "adapter": entry.text("adapter"),
        "phase": entry.text("phase"),
        "attempt": data.get("attempt"),
        "duration": _number(data.get("duration")),
        "error_type": failure.get("type"),
        "error_message": failure.get("message") or entry.text("error_message"),
        "who": entry.text("approved_by") or entry.text("cancelled_by") or entry.text("requested_by"),
        "reason": entry.text("reason"),
        "agent": entry.text("agent"),
        "attempt_epoch": entry.epoch,
        "dry_run": data.get("dry_run") is True,
        "prev_hash": entry.prev,
        "hash": entry.hash,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "data": orjson.dumps(data).decode(),
    }


def execution_row(facts: Facts) -> JsonObject:
    """A row of the table `executions`."""
    return facts.row()


def _number(value: JsonValue) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
