"""The JSON Schemas of configurations, as editors use them."""

from __future__ import annotations

from enum import Enum
from typing import Literal

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, JsonValue

from consumer.adapters import registry
from consumer.adapters.api.config import ApiConfig
from consumer.adapters.delay import DelayConfig
from consumer.adapters.describe import config_schema


class Color(Enum):
    RED = "red"


class Part(BaseModel):
    """One part."""

    model_config = ConfigDict(extra="forbid")

    size: int = 3
    color: Color = Color.RED


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["whole"] = "whole"
    parts: list[Part] = []
    by_name: dict[str, Part] = {}
    ratio: float | None = None
    """How much of it."""
    anything: JsonValue = None
    name: str = ""


def valid(model: type[BaseModel], config: JsonValue) -> bool:
    schema = config_schema(model)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema).is_valid(config)


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (ApiConfig, {"url": "http://host/", "expected_status": 200, "timeout": 5, "headers": {"X-Level": 3}}),
        (ApiConfig, {"url": "http://host/", "expected_status": ["2xx", 404], "params": {"a": [1, "b"], "c": True}}),
        (ApiConfig, {"url": "${url}", "method": "${m}", "follow_redirects": "${f}", "expected_status": "${s}"}),
        (ApiConfig, {"url": "${url}", "expected_status": ["${s}", 200], "headers": "${all}", "verify": "${ca}"}),
        (DelayConfig, {"duration": "1h"}),
        (DelayConfig, {"duration": "${pause}"}),
        (
            Whole,
            {"parts": [{"size": "${n}", "color": "${c}"}, "${part}"], "by_name": {"a": "${part}"}, "ratio": "${r}"},
        ),
        (Whole, {"parts": "${parts}", "ratio": None, "anything": [1, {"a": None}]}),
    ],
)
def test_what_a_package_may_write_is_valid(model: type[BaseModel], config: JsonValue) -> None:
    assert valid(model, config)


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (ApiConfig, {}),
        (ApiConfig, {"url": "http://host/", "follow_redirects": "maybe"}),
        (ApiConfig, {"url": "http://host/", "folow_redirects": True}),
        (ApiConfig, {"url": "http://host/", "expected_status": 999}),
        (DelayConfig, {"duration": -1}),
        (Whole, {"kind": "${kind}"}),
        (Whole, {"parts": [{"size": "three"}]}),
        (Whole, {"parts": [{"seize": 3}]}),
        (Whole, {"parts": "three"}),
    ],
)
def test_what_no_value_can_make_right_is_not(model: type[BaseModel], config: JsonValue) -> None:
    assert not valid(model, config)


def test_what_a_field_means_stays_beside_it() -> None:
    properties = config_schema(Whole)["properties"]
    assert isinstance(properties, dict)
    assert properties["ratio"]["description"] == "How much of it."
    assert properties["ratio"]["default"] is None


def test_every_adapter_s_schema_is_a_schema() -> None:
    sources = [found for found in registry.installed() if found.name in ("api", "delay")]
    for schema in registry.load(object(), sources).describe().values():
        jsonschema.Draft202012Validator.check_schema(schema)
