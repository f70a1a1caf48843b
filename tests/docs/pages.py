"""The pages of the documentation: their fenced blocks, links and anchors."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>.*)$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *#*$")
_TITLE = re.compile(r'title="(?P<name>[^"]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    """Of its fence, from 1."""
    language: str
    title: str | None
    """The file that its text belongs into (`title="NAME"`), or the terminal that it stays in."""
    text: str
    heading: str
    """That of its section."""

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def first(self) -> str:
        """Its first line; with the page, what it is listed by."""
        return self.text.split("\n", 1)[0]


def pages() -> list[Path]:
    """README.md, all of docs/, and the READMEs of other folders."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    return sorted([*found, *(ROOT / "examples").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])


def blocks(page: Path) -> list[Block]:
    """Its fenced blocks, in order, without the indentation of their fence."""
    return list(_blocks(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8").splitlines()))


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    number, heading = 0, ""
    while number < len(lines):
        begun = _FENCE.match(lines[number])
        headed = _HEADING.match(lines[number])
        heading = headed["text"] if headed else heading
        number += 1
        if not begun:
            continue
        first, inside = number, []
        while not lines[number].strip().startswith(begun["ticks"]):  # an IndexError is a fence without an end
            inside.append(lines[number].removeprefix(begun["indent"]))
            number += 1
        number += 1
        info = begun["info"].strip()
        titled = _TITLE.search(info)
        yield Block(
            page=page,
            line=first,
            language=info.split(" ", 1)[0],
            title=titled["name"] if titled else None,
            text="\n".join(inside),
            heading=heading,
        )


def prose(page: Path) -> str:
    """The page without its fenced blocks and code spans."""
    kept, ticks = [], ""
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = _FENCE.match(line)
        if fence and (not ticks or fence["ticks"] == ticks):
            ticks = "" if ticks else fence["ticks"]
        elif not ticks:
            kept.append(line)
    return re.sub(r"`[^`\n]+`", "", "\n".join(kept)) if not ticks else ""


def links(page: Path) -> list[str]:
    """The targets of its links to files and anchors; those to other sites are not followed."""
    return [each["target"] for each in _LINK.finditer(prose(page)) if "://" not in each["target"]]


def anchors(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub and MkDocs make them of ASCII text."""
    found: set[str] = set()
    ticks = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = _FENCE.match(line)
        if fence:
            ticks = "" if ticks else fence["ticks"]
        heading = _HEADING.match(line)
        if heading and not ticks:
            found.add(_slug(heading["text"]))
    return found


def _slug(text: str) -> str:
    """As Python-Markdown's toc extension does it; for plain words GitHub does the same."""
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", text)
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
