"""Makes docs/reference/: the pages of events, packages and the command line, from what the agent itself has.

python -m tests.docs.reference
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from pydantic import BaseModel

from consumer.cli.main import application
from schemas import events
from schemas.wpk import WorkflowPackage
from tests.docs.pages import ROOT

Schema = dict[str, Any]

FOLDER = ROOT / "docs" / "reference"
_MADE = "<!-- Made by `python -m tests.docs.reference`, held by tests/docs/test_reference.py. -->"
_ANYTHING = "any JSON"
_KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}

_EVENTS = """\
Each is a CloudEvent (structured mode, JSON) on one of three topics; its `data` has the fields below, and those that
every event has. Their JSON Schemas are in [schemas/events](../schemas/events), and the topics with all messages on
[one page](../schemas/asyncapi/index.html). Fields are added, never renamed or taken away.
"""
_PACKAGE = """\
One YAML or JSON document. Only `metadata.name` and `spec.handlers` must be there, and in a step `name`, `type` and
`config`. An unknown field is kept and warned about; in a step's `config` it is an error, since it may be the one that
was to make the step safe. [Write a package](../how-to/write-a-package.md) tells how they work together. What `config`
holds depends on the step's type: [k8s](../kubernetes.md#actions), and the schemas of
[k8s](../schemas/configs/k8s.json), [shell](../schemas/configs/shell.json), [api](../schemas/configs/api.json) and
[delay](../schemas/configs/delay.json).

In YAML, what readers take for different things is refused with the remedy: bare `yes` and `on` (write `true`, or
quotes), `010`, `1e5`, anchors, tags, doubled names. A duration is `500ms`, `30s`, `5m` or `1h30m`; a bare number is
seconds.
"""
_CLI = """\
Settings come from the environment ([settings](../settings.md)), or from the file of `--config`.

| exit code | meaning |
|---|---|
| 0 | done, and what was asked for has succeeded |
| 1 | the execution ended otherwise |
| 2 | wrong usage, settings, rights or package |
| 3 | Kafka can't be reached |
| 4 | timed out waiting; the execution goes on |
| 70 | an agent that hung |
| 130 | interrupted; the execution goes on |
"""


def kind_of(schema: Schema) -> str:
    """A schema's kind in words; parts of their own as links."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[1]
        return _ANYTHING if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if several := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(dict.fromkeys(kind_of(each) for each in several if each.get("type") != "null"))
    return _plain(schema)


def _plain(schema: Schema) -> str:
    kind = schema.get("type")
    inner = schema.get("items") if kind == "array" else schema.get("additionalProperties")
    if kind in ("array", "object"):
        name = "list" if kind == "array" else "object"
        return f"{name} of {kind_of(inner)}" if isinstance(inner, dict) and inner else name
    if schema.get("format") == "date-time":
        return "moment"
    return _KINDS.get(str(kind), _ANYTHING)


def table(schema: Schema, *, without: frozenset[str] = frozenset()) -> Iterator[str]:
    """The fields of an object, one line each."""
    rows = [(name, each) for name, each in schema.get("properties", {}).items() if name not in without]
    if not rows:
        return
    yield from ("| field | kind | default | meaning |", "|---|---|---|---|")
    required = set(schema.get("required", ()))
    for name, each in rows:
        default = "required" if name in required else _default(each)
        yield _row(f"`{name}`", kind_of(each), default, _line(each.get("description", "")))
    yield ""


def _default(schema: Schema) -> str:
    value = schema.get("default")
    return "" if value in (None, "", [], {}) else f"`{json.dumps(value)}`"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _line(text: str) -> str:
    return " ".join(text.split())


def _parts(schemas: Mapping[str, Schema]) -> Iterator[str]:
    for name, part in sorted(schemas.items()):
        if name == "JsonValue":
            continue
        yield from (f"### {name}", "")
        if about := _line(part.get("description", "")):
            yield from (about, "")
        if "enum" in part:
            yield from (kind_of(part), "")
        yield from table(part)


def events_page() -> str:
    """Every type of event."""
    base = frozenset(events.EventData.model_fields)
    parts: dict[str, Schema] = {}
    lines = [
        "# Events",
        "",
        _MADE,
        "",
        _EVENTS,
        "## All events",
        "",
        *table(_schema_of(events.EventData, parts)),
    ]
    for kind, model in sorted(events.EVENT_TYPES.items()):
        lines += [
            f"## {model.name}",
            "",
            f"`{kind}`, on `wpk.{model.channel}`. {_line(inspect.getdoc(model) or '')}",
            "",
        ]
        lines += table(_schema_of(model, parts), without=base)
    return _text([*lines, "## Parts", "", *_parts(parts)])


def package_page() -> str:
    """The format of packages."""
    parts: dict[str, Schema] = {}
    lines = [
        "# The package format",
        "",
        _MADE,
        "",
        _PACKAGE,
        "## The document",
        "",
        *table(_schema_of(WorkflowPackage, parts)),
        "## Parts",
        "",
        *_parts(parts),
    ]
    return _text(lines)


def _about(model: type[BaseModel]) -> str:
    return _line(inspect.getdoc(model) or "")


def _schema_of(model: type[BaseModel], parts: dict[str, Schema]) -> Schema:
    schema = model.model_json_schema()
    parts.update(schema.pop("$defs", {}))
    return schema


def cli_page() -> str:
    """Every verb with its arguments and options."""
    lines = [
        "# The command line",
        "",
        _MADE,
        "",
        _CLI,
    ]
    return _text([*lines, *_verbs("wpk", typer.main.get_command(application()))])


def _verbs(name: str, command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        for verb, each in command.commands.items():
            yield from _verbs(f"{name} {verb}", each)
        return
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    shown = " ".join(_argument(each) for each in arguments)
    yield from (f"## {name}", "", _line(command.help or ""), "", f"`{name} {shown}`".replace(" `", "`"), "")
    rows = [(f"`{_argument(each)}`", each) for each in arguments] + [(_option(each), each) for each in options]
    yield from ("| argument or option | meaning |", "|---|---|")
    yield from (_row(called, _line(each.help or "")) for called, each in rows)
    yield ""


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper()).strip("[]")
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    value = "" if parameter.is_flag else f" {parameter.metavar or 'VALUE'}"
    return ", ".join(f"`{name}{value if name.startswith('--') else ''}`" for name in sorted(parameter.opts, key=len))


def _text(lines: list[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


#: Each page and what makes it.
PAGES = {"events.md": events_page, "package.md": package_page, "cli.md": cli_page}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, make in PAGES.items():
        (FOLDER / file).write_text(make(), encoding="utf-8")
