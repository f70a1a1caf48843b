"""The JSON Schema of a step's `config` as a package writes it: any value may also be a placeholder there."""

from __future__ import annotations

from typing import cast

from pydantic import BaseModel, JsonValue

Schema = dict[str, JsonValue]

_PLACEHOLDER: Schema = {"type": "string", "pattern": r"\$\{", "description": "A placeholder: ${name}."}
#: What is said about a value stays where editors look for it.
_NOTES = ("title", "description", "default", "examples", "deprecated")
_NARROWING = ("enum", "const", "pattern", "format", "minLength", "maxLength")


def config_schema(model: type[BaseModel]) -> Schema:
    """For editors and for `wpk schema`; the model itself is stricter, as it sees the values that were put in."""
    return _opened(cast(Schema, model.model_json_schema()))


def _opened(schema: Schema) -> Schema:
    """The same, with a placeholder allowed for every value inside."""
    out: Schema = {}
    for key, value in schema.items():
        if key == "properties" and isinstance(value, dict):
            out[key] = {name: _or_placeholder(below) for name, below in value.items()}
        elif key == "$defs" and isinstance(value, dict):
            out[key] = {name: _descend(below) for name, below in value.items()}
        elif key in ("items", "additionalProperties"):
            out[key] = _or_placeholder(value)
        elif key in ("anyOf", "oneOf", "allOf") and isinstance(value, list):
            out[key] = [_descend(below) for below in value]
        else:
            out[key] = value
    return out


def _descend(schema: JsonValue) -> JsonValue:
    return _opened(schema) if isinstance(schema, dict) else schema


def _or_placeholder(schema: JsonValue) -> JsonValue:
    if not isinstance(schema, dict):
        return schema
    inner = _opened(schema)
    if _takes_text(inner) or "const" in inner:  # a constant says which kind of step it is: no value to be put in
        return inner
    notes = {key: inner.pop(key) for key in _NOTES if key in inner}
    return {**notes, "anyOf": [inner, dict(_PLACEHOLDER)]}


def _takes_text(schema: JsonValue) -> bool:
    """Whether any text is allowed already."""
    if not isinstance(schema, dict):
        return schema is True
    branches = schema.get("anyOf")
    if isinstance(branches, list):
        return any(_takes_text(branch) for branch in branches)
    if "$ref" in schema or any(key in schema for key in (*_NARROWING, "oneOf", "allOf")):
        return False
    kind = schema.get("type", "string")
    return kind == "string" or (isinstance(kind, list) and "string" in kind)
