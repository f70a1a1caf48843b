"""The contracts as documents: JSON Schemas of what goes over the wire, and an AsyncAPI 3.0 description of the topics.

Pure functions of the models; `wpk schema` writes what they give; docs/schemas holds a copy, kept in step by a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, JsonValue

from schemas import events
from schemas.commands import CommandModel, ControlCommand, ExecuteCommand, RollbackCommand
from schemas.policy import PolicyFile
from schemas.wpk import WorkflowPackage

Document = dict[str, JsonValue]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
VERSION = "1.0.0"
_COMMANDS: tuple[type[CommandModel], ...] = (ExecuteCommand, RollbackCommand, ControlCommand)
_CHANNELS: dict[str, str] = {
    "events.progress": "Every change of an execution or of a step; the audit trail.",
    "events.logs": "Output lines of the steps and notes of the agent.",
    "events.results": "One record for each end of an execution, and one more where a rollback changes it.",
}
_KEY: Document = {"type": "string", "description": "The execution_id."}


def package_schema() -> Document:
    """The workflow package."""
    return _schema(WorkflowPackage, "A workflow package (WPK)")


def command_schemas() -> dict[str, Document]:
    """Each command by its kind: execute, rollback, control."""
    return {model.kind: _schema(model, f"The {model.kind} command") for model in _COMMANDS}


def event_schemas() -> dict[str, Document]:
    """Each event, envelope included, by its CloudEvents type."""
    return {kind: _event(kind, model) for kind, model in events.event_models()}


def config_schemas(configs: Mapping[str, type[BaseModel]]) -> dict[str, Document]:
    """The `config` of each adapter's steps, by the adapter's name."""
    return {name: _schema(model, f"The config of a {name} step") for name, model in sorted(configs.items())}


def asyncapi(*, prefix: str = "wpk") -> Document:
    """The topics and what goes over them, as the agent sees it: it receives commands and sends events."""
    channels: Document = {}
    operations: Document = {}
    messages: Document = {}
    for model in _COMMANDS:
        name = f"commands.{model.kind}"
        messages[name] = _message(name, f"../commands/{model.kind}.json", _about(model), "application/json")
        channels[name] = _channel(f"{prefix}.{name}", _about(model), [name])
        operations[f"receive_{model.kind}"] = _operation("receive", name, [name])
    by_channel: dict[str, list[str]] = {channel: [] for channel in _CHANNELS}
    for kind, event in events.event_models():
        messages[kind] = _message(kind, f"../events/{kind}.json", _about(event), events.CONTENT_TYPE)
        by_channel[event.channel].append(kind)
    for channel, kinds in by_channel.items():
        channels[channel] = _channel(f"{prefix}.{channel}", _CHANNELS[channel], kinds)
        operations[f"send_{channel.replace('.', '_')}"] = _operation("send", channel, kinds)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "WPK runtime agent",
            "version": VERSION,
            "description": "Commands come in and events go out on Kafka. The key of every record is the execution_id; "
            "all records of an execution lie on the same partition number in every topic.",
        },
        "defaultContentType": "application/json",
        "servers": {"kafka": {"host": "{bootstrap}", "protocol": "kafka", "variables": {"bootstrap": _BOOTSTRAP}}},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


_BOOTSTRAP: Document = {"default": "localhost:9092", "description": "KAFKA_BOOTSTRAP_SERVERS of the agent."}


def documents(configs: Mapping[str, type[BaseModel]], *, prefix: str = "wpk") -> dict[str, Document]:
    """All documents by their file's path below the directory that they are written to."""
    found = {"package.json": package_schema(), "policy.json": _schema(PolicyFile, "The policy of an agent")}
    found |= {f"commands/{kind}.json": schema for kind, schema in command_schemas().items()}
    found |= {f"events/{kind}.json": schema for kind, schema in event_schemas().items()}
    found |= {f"configs/{name}.json": schema for name, schema in config_schemas(configs).items()}
    found["asyncapi/asyncapi.json"] = asyncapi(prefix=prefix)
    return found


def _schema(
    model: type[BaseModel], title: str, *, mode: Literal["validation", "serialization"] = "validation"
) -> Document:
    schema: Document = model.model_json_schema(by_alias=True, mode=mode)
    return {"$schema": DIALECT, **schema, "title": title}


def _event(kind: str, model: type[events.EventData]) -> Document:
    """The envelope with the data of one type; the data's definitions stand at the top, where references point."""
    data = _schema(model, kind, mode="serialization")
    for name in ("$schema", "title"):
        del data[name]
    data["additionalProperties"] = True
    definitions = data.pop("$defs", None)
    text: Document = {"type": "string"}
    document: Document = {
        "$schema": DIALECT,
        "title": kind,
        "description": _about(model),
        "type": "object",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {**text, "description": "Unlike any other: execution, seq and epoch."},
            "source": {**text, "format": "uri-reference", "description": "The agent."},
            "type": {"const": kind},
            "time": {**text, "format": "date-time"},
            "subject": {**text, "description": "The execution_id."},
            "datacontenttype": {"const": "application/json"},
            "data": data,
        },
        "required": ["specversion", "id", "source", "type", "time", "subject", "data"],
    }
    if definitions is not None:
        document["$defs"] = definitions
    return document


def _about(model: type[BaseModel]) -> str:
    """The model's own docstring, in one paragraph."""
    return " ".join((model.__dict__.get("__doc__") or model.__name__).split())


def _message(name: str, schema: str, about: str, content_type: str) -> Document:
    return {
        "name": name,
        "summary": about,
        "contentType": content_type,
        "payload": {"$ref": schema},
        "bindings": {"kafka": {"key": _KEY}},
    }


def _channel(address: str, about: str, messages: list[str]) -> Document:
    listed: Document = {name: {"$ref": f"#/components/messages/{name}"} for name in messages}
    return {"address": address, "description": about, "messages": listed, "bindings": {"kafka": {"topic": address}}}


def _operation(action: str, channel: str, messages: list[str]) -> Document:
    listed: list[JsonValue] = [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages]
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "messages": listed}
