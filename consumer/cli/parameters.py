"""What `-p` and `--label` say."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue

from consumer.cli import packages
from consumer.cli.execute import CliError
from consumer.workflow import documents


def parse_parameters(given: Iterable[str]) -> dict[str, JsonValue]:
    """`name=value` texts as parameters; values as JSON or YAML scalars, `@file` is the file's text."""

    found: dict[str, JsonValue] = {}
    for item in given:
        name, value = _split(item, "-p")
        found[name] = packages.read(value[1:]) if value.startswith("@") else _scalar(value)
    return found


def parse_labels(given: Iterable[str]) -> dict[str, str]:
    """`name=value` texts as labels."""
    return dict(_split(item, "--label") for item in given)


def _split(item: str, option: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals or not name:
        raise CliError(f"{option} {item}: write {option} NAME=VALUE")
    return name, value


def _scalar(text: str) -> JsonValue:
    """The value that YAML gives a text; what is no YAML is the text itself."""
    try:
        return documents.parse(text).value
    except documents.DocumentError:
        return text
