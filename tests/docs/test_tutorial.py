"""Pages that show what commands print, as a reader goes through them: every command as it stands, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.dev.broker import free_port
from tests.docs.pages import ROOT, Block, blocks
from tests.docs.shown import differs
from tests.docs.terminal import Terminal, terminal

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

#: The page's fixed ports; each gets one that is free here.
PORTS = ("19092", "18080")
#: What the test's own environment has done already.
INSTALLED = "pip install '.[embedded]'"


def prompts(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Each command of a `console` block, with the lines shown below it."""
    command, shown = "", list[str]()
    for line in block.text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, shown
            command, shown = line.removeprefix("$ "), []
        else:
            shown.append(line)
    yield command, shown


async def follow(block: Block, desk: Terminal) -> list[str]:
    """Does what the block says; the commands that were run. Fails where the output is another."""
    if block.language == "sh":
        assert block.text == INSTALLED
        return []
    if block.language != "console":
        assert block.title, f"{block.name} belongs into no file"
        (desk.folder / block.title).write_text(desk.here(block.text) + "\n", encoding="utf-8")
        return []
    done = []
    for command, shown in prompts(block):
        if "terminal" in (block.title or ""):
            printed = await desk.stay(command, shown[-1].strip())
        else:
            _, printed = await desk.run(command)
        difference = differs(shown, printed)
        assert difference is None, f"{block.name}: {command}\n{difference}"
        done.append(command)
    return done


@pytest.mark.parametrize(
    ("page", "verbs"),
    [
        (
            "docs/tutorial.md",
            ("dev", "validate", "plan", "submit", "approve", "list", "explain", "logs", "audit verify"),
        ),
        ("docs/how-to/write-a-package.md", ("validate", "policy check")),
    ],
)
async def test_a_page_goes_as_it_says(tmp_path: Path, page: str, verbs: tuple[str, ...]) -> None:
    ports = {fixed: str(free_port()) for fixed in PORTS}
    done: list[str] = []
    async with terminal(tmp_path, ports) as desk:
        for block in blocks(ROOT / page):
            done += await follow(block, desk)
    assert [verb for verb in verbs if not any(f"wpk {verb}" in command for command in done)] == []
