"""What docs/kubernetes.md says of each action."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from consumer.ports import JsonObject

_PAGE = Path(__file__).parents[2] / "docs" / "kubernetes.md"
_SECTION = re.compile(r"^### (\w+)\n(.*?)(?=^### |\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One action's part of the page."""

    action: str
    example: JsonObject
    rights: frozenset[str]
    undo: str


def sections() -> list[Section]:
    """All of them, in the page's order."""
    found = _SECTION.findall(_PAGE.read_text(encoding="utf-8").partition("\n## Actions\n")[2])
    return [_section(action, text) for action, text in found]


def _section(action: str, text: str) -> Section:
    example, rest = re.findall(r"```yaml\n(.*?)```\n(.*)", text, re.DOTALL)[0]
    rights, _, undo = rest.partition("- Undo: ")
    return Section(
        action=action,
        example=yaml.safe_load(example),
        rights=frozenset(" ".join(each.split()) for each in re.findall(r"`([^`]+)`", rights)),
        undo=undo.strip(),
    )
