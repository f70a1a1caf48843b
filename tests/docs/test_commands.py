"""Every command, link and anchor of the pages holds; every block of commands is run, or says why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consumer.adapters import registry
from consumer.settings import Settings
from consumer.workflow import documents
from consumer.workflow.checks import check_package
from tests.docs import verbs
from tests.docs.listed import ELSEWHERE, NOT_HERE, stands_for
from tests.docs.pages import ROOT, Block, anchors, blocks, links, pages

COMMANDS = ("sh", "bash", "shell", "console")
BLOCKS = [block for page in pages() for block in blocks(page)]
SOURCES = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
each_page = pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())


def test_every_block_of_commands_is_run_by_a_test_or_says_why_not() -> None:
    assert [block.name for block in BLOCKS if block.language in COMMANDS and stands_for(block) is None] == []


def test_what_stands_for_blocks_is_there() -> None:
    assert [name for name in ELSEWHERE.values() if f"def {name}" not in SOURCES] == []
    told = {key for key in (*ELSEWHERE, *NOT_HERE) for block in BLOCKS if _is(block, key)}
    assert sorted({*ELSEWHERE, *NOT_HERE} - told) == [], "listed, and no longer on the page"


def _is(block: Block, key: tuple[str, str]) -> bool:
    return block.page == key[0] and block.first.startswith(key[1])


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in COMMANDS], ids=lambda each: each.name)
def test_the_command_line_takes_each_call_of_a_block(block: Block) -> None:
    typed = "\n".join(line for line in block.text.splitlines() if block.language != "console" or line.startswith("$ "))
    assert [(call, why) for call in verbs.calls(typed) if (why := verbs.complaint(call))] == []


@each_page
def test_the_command_line_has_each_verb_and_option_that_the_page_names(page: Path) -> None:
    spans = re.findall(r"`(wpk [a-z][^`\n]*)`", page.read_text(encoding="utf-8"))
    wrong = [(span, why) for span in spans for call in verbs.calls(span) if (why := verbs.complaint(call, named=True))]
    assert wrong == []


@each_page
def test_each_test_that_the_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
    assert {name for name in named if f"def {name}(" not in SOURCES} == set()


@each_page
def test_the_pages_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("submit", "MissingParameter"),
        ("frobnicate x", "no verb"),
        ("status x --frob", "NoSuchOption"),
        ("audit", "no verb"),
    ],
)
def test_a_call_that_the_command_line_refuses_is_noticed(call: str, told: str) -> None:
    [arguments] = verbs.calls(f"$ wpk {call} | head")
    assert told in (verbs.complaint(arguments) or "")


@pytest.mark.parametrize("block", [b for b in BLOCKS if (b.title or "").endswith(".wpk.yaml")], ids=lambda b: b.name)
def test_a_package_of_the_pages_is_valid(block: Block) -> None:
    known = registry.AsNeeded(Settings(policy_file="open"))
    parsed = documents.parse(block.text)
    assert check_package(parsed.value, None, known).problems == ()
