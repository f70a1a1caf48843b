"""Bytes of a command record → a command, a refusal that can be answered, or a dead letter. Never raises on input.

Accepted forms: the plain JSON object, and CloudEvents in binary mode (headers `ce_…`) and structured mode
(`content-type: application/cloudevents+json`), by the CloudEvents Kafka protocol binding. An object that has
`specversion`, which no command has, is taken as structured mode also where a tool lost the header.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import structlog
from pydantic import JsonValue, ValidationError

from consumer.engine.incoming import Incoming, Refused, Understood, Unreadable
from consumer.ports import CommandTopic
from consumer.workflow import documents
from schemas.canonical import canonical
from schemas.commands import Command, ControlCommand, ExecuteCommand, RollbackCommand
from schemas.events import Source
from schemas.failure import Problem
from schemas.problems import problems_of
from schemas.scalars import EXECUTION_ID_PATTERN

_log = structlog.get_logger(__name__)
_MODELS: dict[CommandTopic, type[ExecuteCommand] | type[RollbackCommand] | type[ControlCommand]] = {
    CommandTopic.EXECUTE: ExecuteCommand,
    CommandTopic.ROLLBACK: RollbackCommand,
    CommandTopic.CONTROL: ControlCommand,
}
_ID = re.compile(EXECUTION_ID_PATTERN)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRecord:
    """A record of a command topic as it was fetched."""

    role: CommandTopic
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class _DeadLetter(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def decode(record: RawRecord, max_bytes: int) -> Incoming:
    """What the record is. A value over `max_bytes` is a dead letter: its execution could not be kept."""
    source = Source(
        topic=record.topic, partition=record.partition, offset=record.offset, timestamp=_moment(record.timestamp_ms)
    )
    content: Understood | Refused | Unreadable
    try:
        content = _content(record, _unwrapped(record, max_bytes), max_bytes)
    except _DeadLetter as error:
        content = Unreadable(reason=error.reason, detail=error.detail)
    except Exception as error:  # a defect of ours must not stop the partition
        _log.exception("decode.failed", topic=record.topic, partition=record.partition, offset=record.offset)
        content = Unreadable(reason="internal", detail=f"the agent failed to read it: {type(error).__name__}")
    return Incoming(
        topic=record.role,
        source=source,
        content=content,
        key=record.key,
        value=record.value,
        headers=tuple((name, value) for name, value in record.headers if value is not None),
    )


def _moment(timestamp_ms: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC) if timestamp_ms >= 0 else None
    except (OverflowError, ValueError, OSError):
        return None


def _header(headers: Headers, name: str) -> str | None:
    """The last header of that name, where it is text."""
    for key, value in reversed(headers):
        if key.lower() == name and value is not None:
            try:
                return value.decode()
            except UnicodeDecodeError:
                return None
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """The command's JSON object, out of its envelope."""

    fields: dict[str, JsonValue]
    traceparent: str | None


def _unwrapped(record: RawRecord, max_bytes: int) -> _Body:
    if not record.value:
        raise _DeadLetter("empty", "the record has no value; a command is a JSON object")
    if len(record.value) > max_bytes:
        size = len(record.value)
        raise _DeadLetter(
            "too_large", f"the record has {size} bytes, more than the {max_bytes} that a command may have"
        )
    parsed = _json_object(record.value)
    said = (_header(record.headers, "content-type") or "").lower()
    if said.startswith("application/cloudevents") or "specversion" in parsed:
        return _Body(fields=_data(parsed), traceparent=_as_traceparent(parsed.get("traceparent")))
    found = (_as_traceparent(_header(record.headers, name)) for name in ("traceparent", "ce_traceparent"))
    return _Body(fields=parsed, traceparent=next((value for value in found if value is not None), None))


def _data(envelope: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """What a CloudEvent in structured mode carries."""
    data, coded = envelope.get("data"), envelope.get("data_base64")
    if data is None and isinstance(coded, str):
        try:
            return _json_object(base64.b64decode(coded, validate=True))
        except (binascii.Error, ValueError) as error:
            raise _DeadLetter("no_object", f"the CloudEvent's data_base64 can't be decoded: {error}") from error
    if not isinstance(data, dict):
        raise _DeadLetter("no_object", "the CloudEvent has no JSON object in data")
    return data


def _json_object(value: bytes) -> dict[str, JsonValue]:
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise _DeadLetter("not_json", f"the value is no JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise _DeadLetter("no_object", f"a command is a JSON object, this is {type(parsed).__name__}")
    return parsed


def _content(record: RawRecord, unwrapped: _Body, max_bytes: int) -> Understood | Refused:
    body = unwrapped.fields
    execution_id, problems = _execution_id(record, body)
    model = _MODELS[record.role]
    if not problems:
        try:
            command = _with_package(model.model_validate({**body, "execution_id": execution_id}))
            _check_size(command, max_bytes)
            return Understood(execution_id=execution_id, command=command, traceparent=unwrapped.traceparent)
        except ValidationError as error:
            problems = problems_of(error, model)
        except documents.DocumentError as error:
            problems = [problem.under("wpk_content") for problem in error.problems]
        except RecursionError:
            problems = [Problem(path="", message="it is nested too deeply")]
        except ValueError as error:
            problems = [Problem(path="", message=str(error)[:300])]
    return Refused(
        execution_id=execution_id,
        kind=model.kind,
        problems=tuple(problems),
        workflow_id=_text(body, "workflow_id"),
        requested_by=_text(body, "requested_by"),
    )


def _text(body: Mapping[str, JsonValue], name: str) -> str | None:
    value = body.get(name)
    return value[:256] if isinstance(value, str) and value else None


def _execution_id(record: RawRecord, body: Mapping[str, JsonValue]) -> tuple[str, list[Problem]]:
    """The id that the command has or gets; a problem where that can't be an id, or where it names none but must."""
    derived = f"{record.topic}-{record.partition}-{record.offset}"[-128:]
    key = _key_id(record.key)
    given = body.get("execution_id")
    if given is None:
        if record.role is not CommandTopic.EXECUTE and key is None:
            message = "which execution is meant? give execution_id in the body, or as the record's key"
            return derived, [Problem(path="execution_id", message=message)]
        return key or derived, []
    if isinstance(given, str) and _ID.fullmatch(given):
        return given, []
    shown = orjson.dumps(given).decode()[:80]
    message = f"{shown} is no execution id; use at most 128 of A-Z a-z 0-9 . _ : -"
    return key or derived, [Problem(path="execution_id", message=message)]


def _key_id(key: bytes | None) -> str | None:
    try:
        text = key.decode("ascii") if key else ""
    except UnicodeDecodeError:
        return None
    return text if _ID.fullmatch(text) else None


def _with_package(command: Command) -> Command:
    """Package text is parsed here, so that its digest and the trail are about what it says, not how it is written."""
    if not isinstance(command, ExecuteCommand) or not isinstance(command.wpk_content, str):
        return command
    document = documents.parse(command.wpk_content).value
    if not isinstance(document, dict):
        message = f"a package is an object with metadata and spec, not {type(document).__name__}"
        raise documents.DocumentError([Problem(path="", message=message)])
    return command.model_copy(update={"wpk_content": document})


def _check_size(command: Command, max_bytes: int) -> None:
    """YAML text can say more than its own length; and content without a canonical form can't be kept (ValueError)."""
    if isinstance(command, ExecuteCommand):
        size = len(canonical(command.model_dump(mode="json", exclude_none=True)))
        if size > max_bytes:
            raise _DeadLetter("too_large", f"the command has {size} bytes as JSON; at most {max_bytes} are possible")


def _as_traceparent(value: JsonValue) -> str | None:
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None
