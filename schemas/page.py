"""The AsyncAPI document and the schemas it names as one HTML page: static, without scripts, fetching nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from pydantic import JsonValue

Document = dict[str, JsonValue]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #d5dbe1 } h3 { margin-top: 2rem }
code, td:first-child { font-family: ui-monospace, monospace; font-size: 13px }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .25rem .6rem }
tr + tr { border-top: 1px solid #e6eaee } th { color: #5c6b7a; font-weight: 500 }
@media (prefers-color-scheme: dark) { body { background: #14191f; color: #d7dee6 } a { color: #7cb2f0 } }
"""
_CLIENTS = (
    (
        "where a record lies",
        "murmur2 of the key",
        "the default partitioner",
        "franz-go: the default partitioner; confluent-kafka-go: <code>partitioner=murmur2_random</code>; sarama: "
        "not its default, which is FNV",
        "<code>partitioner=murmur2_random</code>",
    ),
    (
        "no command is lost or written twice",
        "all replicas, idempotence",
        "<code>acks=all</code>, <code>enable.idempotence=true</code> (both default since 3.0)",
        "franz-go: default; confluent-kafka-go: <code>enable.idempotence=true</code>",
        "<code>enable.idempotence=true</code>",
    ),
    (
        "nothing that was aborted is read",
        "committed records only",
        "<code>isolation.level=read_committed</code>",
        "franz-go: <code>FetchIsolationLevel(ReadCommitted())</code>; confluent-kafka-go: the default",
        "<code>isolation.level=read_committed</code>, the default",
    ),
    (
        "all there is",
        "from the beginning",
        "<code>auto.offset.reset=earliest</code>",
        "franz-go: <code>ConsumeResetOffset(NewOffset().AtStart())</code>; confluent-kafka-go: "
        "<code>auto.offset.reset=earliest</code>",
        "<code>auto.offset.reset=earliest</code>",
    ),
)
_READING = """<p>An execution's events carry <code>seq</code> 1, 2, 3 … over all three event topics, which lie on the
same partition number. A reader of more than one topic puts them in that order; of two with one <code>seq</code> that
with the higher <code>attempt_epoch</code> holds, and none holds whose epoch is lower than that of an event before it
(what an owner that had lost the partition still wrote; with <code>exactly_once</code> there is none). Unknown types and
unknown fields are to be passed over. A command may be sent again with its <code>execution_id</code>: it never runs
twice.</p>"""


def page(documents: Mapping[str, Document]) -> str:
    """The page of all documents, by their paths (`export.documents`). It stands beside the AsyncAPI document."""
    asyncapi = documents["asyncapi/asyncapi.json"]
    info = _object(asyncapi["info"])
    title = f"{info['title']} {info['version']}"
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(title)}</h1><p>{_text(info['description'])} Made from "
        '<a href="asyncapi.json">asyncapi.json</a> by <code>wpk schema</code>.</p>',
        *_topics(asyncapi),
        "<h2>Reading and writing</h2>",
        _READING,
        *_clients(),
    ]
    for name, channel in _object(asyncapi["channels"]).items():
        parts += _channel(name, _object(channel), asyncapi, documents)
    return "\n".join([*parts, "</body></html>", ""])


def _topics(asyncapi: Document) -> Iterator[str]:
    directions = {}
    for operation in _object(asyncapi["operations"]).values():
        found = _object(operation)
        channel = str(_object(found["channel"])["$ref"]).removeprefix("#/channels/")
        directions[channel] = {"receive": "you write, agents read", "send": "agents write, you read"}[
            str(found["action"])
        ]
    yield "<h2>Topics</h2><table><tr><th>topic</th><th>who</th><th>what</th></tr>"
    for name, described in _object(asyncapi["channels"]).items():
        topic = _object(described)
        yield (
            f'<tr><td><a href="#{_text(name)}">{_text(topic["address"])}</a></td><td>{directions[name]}</td>'
            f"<td>{_text(topic['description'])}</td></tr>"
        )
    yield "</table>"


def _clients() -> Iterator[str]:
    yield "<table><tr><th>so that</th><th>what</th><th>Java</th><th>Go</th><th>librdkafka (Python, C, .NET)</th></tr>"
    for row in _CLIENTS:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    yield "</table>"


def _channel(name: str, channel: Document, asyncapi: Document, documents: Mapping[str, Document]) -> Iterator[str]:
    yield f'<h2 id="{_text(name)}">{_text(channel["address"])}</h2><p>{_text(channel["description"])}</p>'
    known = _object(_object(asyncapi["components"])["messages"])
    for kind in _object(channel["messages"]):
        message = _object(known[kind])
        reference = str(_object(message["payload"])["$ref"])
        schema = documents[reference.removeprefix("../")]
        yield (
            f'<h3 id="{_text(kind)}/">{_text(kind)}</h3><p>{_text(message["summary"])}</p>'
            f"<p>Content type <code>{_text(message['contentType'])}</code>, key: the execution_id; "
            f'<a href="{_text(reference)}">schema</a>.</p>'
        )
        yield from _fields(schema)


def _fields(schema: Document) -> Iterator[str]:
    """The fields of a command, or of an event's data: its envelope is the same in all."""
    properties = _object(schema.get("properties", {}))
    body = _object(properties["data"]) if "specversion" in properties else schema
    required = body.get("required")
    needed = required if isinstance(required, list) else []
    yield "<table><tr><th>field</th><th>type</th><th>what</th></tr>"
    for name, field in _object(body.get("properties", {})).items():
        found = _object(field)
        must = " (required)" if name in needed else ""
        about = _text(found.get("description", ""))
        yield f"<tr><td>{_text(name)}</td><td>{_text(_type(found))}{must}</td><td>{about}</td></tr>"
    yield "</table>"


def _type(field: Document) -> str:
    """The type in words: `string`, `array of LogLine`, `string or null`."""
    if "const" in field:
        return f'"{field["const"]}"'
    if isinstance(choices := field.get("enum"), list):
        return " | ".join(f'"{choice}"' for choice in choices)
    if isinstance(reference := field.get("$ref"), str):
        return reference.rpartition("/")[2]
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(parts := field.get(word), list):
            return " or ".join(dict.fromkeys(_type(_object(part)) for part in parts))
    kind = field.get("type", "any")
    if kind == "array" and isinstance(items := field.get("items"), dict):
        return f"array of {_type(items)}"
    form = field.get("format")
    return f"{kind} ({form})" if form else str(kind)


def _object(value: JsonValue) -> Document:
    assert isinstance(value, dict), value
    return value


def _text(value: JsonValue) -> str:
    return escape(str(value))
