"""The reference of all settings, made from the model: for `wpk agent --help` and docs/settings.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from pydantic.fields import FieldInfo

from consumer.settings import model
from schemas.scalars import format_duration, parse_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the reference."""

    group: str
    variable: str
    field: str
    kind: str
    default: str
    """As one would write it; empty: none."""
    description: str


_GROUPS = {
    "kafka_bootstrap_servers": "Reaching Kafka",
    "topic_prefix": "Topics and ownership",
    "agent_name": "The agent and its limits",
    "sandbox": "Security",
    "alerts": "Notices",
    "kubeconfig": "Other services",
    "prometheus_port": "Watching the agent",
}
_KINDS = {"bool": "true or false", "int": "number", "str": "text", "Path": "path", "SecretStr": "password"}


def reference() -> list[Entry]:
    """All settings, in groups, for the help and the documentation."""
    entries: list[Entry] = []
    group = ""
    for name, field in model.Settings.model_fields.items():
        group = _GROUPS.get(name, group)
        entries.append(
            Entry(
                group=group,
                variable=model.variable(name),
                field=name,
                kind=_kind(field),
                default=_default(field),
                description=" ".join((field.description or "").split()),
            )
        )
    return entries


def markdown() -> str:
    """The page docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "<!-- Made by: python -m consumer.settings.reference > docs/settings.md -->",
        "",
        "Each setting is an environment variable. `wpk agent --config FILE` reads the same names from a file, too:",
        "YAML (`.yaml`, `.yml`, `.json`) or lines of `NAME=value`. The environment wins over the file; an empty value",
        "counts as none. Durations are written `500ms`, `30s`, `5m`, `1h30m` or `7d`; sizes in bytes, or as `256Ki`.",
        "A password may lie in a file, such as a mounted secret, that is read once, at the start: the variable's name",
        "and `_FILE` names it (`KAFKA_SASL_PASSWORD_FILE`), and the environment does not hold it.",
    ]
    group = ""
    for entry in reference():
        if entry.group != group:
            group = entry.group
            lines += ["", f"## {group}", "", "| variable | kind | default | meaning |", "|---|---|---|---|"]
        kind, meaning = entry.kind.replace("|", "\\|"), entry.description.replace("|", "\\|")
        default = f"`{entry.default}`" if entry.default else ""
        lines.append(f"| `{entry.variable}` | {kind} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _functions(field: FieldInfo) -> set[object]:
    return {getattr(item, "func", None) for item in field.metadata}


def _kind(field: FieldInfo) -> str:
    functions = _functions(field)
    if parse_duration in functions:
        return "duration"
    if model.to_bytes in functions:
        return "size"
    if model.to_items in functions:
        return "list"
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    if choices:
        return " | ".join(choices)
    text = str(field.annotation)
    return next((kind for name, kind in _KINDS.items() if re.search(rf"\b{name}\b", text)), text)


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.default_factory is not None or value in (None, ()):
        return ""
    if parse_duration in _functions(field):
        days = value / 86_400
        return f"{days:g}d" if days > 1 and days == int(days) else format_duration(value)
    return str(value)


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201 - the page is the output
