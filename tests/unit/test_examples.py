"""The examples: each is a package without an error or a warning, and says in its header how to run it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import JsonValue

from consumer.adapters import registry
from consumer.adapters.registry import AdapterRegistry
from consumer.settings import Settings
from consumer.workflow.checks import check_package

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.wpk.yaml"))
each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.removesuffix(".wpk.yaml"))


@pytest.fixture
async def adapters() -> AsyncIterator[AdapterRegistry]:
    async with registry.open(Settings()) as opened:
        yield opened


def read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return document


def header(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    return "\n".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))


def given(file: Path) -> dict[str, JsonValue]:
    """The parameters of the command in the header."""
    pairs = re.findall(r"-p (\w+)=(\S+)", header(file))
    return {name: yaml.safe_load(value) for name, value in pairs}


def test_there_are_the_runbooks_and_the_demo() -> None:
    assert {file.name.removesuffix(".wpk.yaml") for file in FILES} == {
        "greet-and-check",
        "risky-change",
        "restart-unhealthy",
        "scale-on-latency",
        "rotate-secret",
        "requeue-failed-job",
        "drain-node",
        "verify-backup",
    }


@each
async def test_an_example_has_neither_errors_nor_warnings(file: Path, adapters: AdapterRegistry) -> None:
    document = read(file)
    assert check_package(document, None, adapters.adapters).problems == ()


@each
async def test_the_command_in_the_header_gives_all_parameters(file: Path, adapters: AdapterRegistry) -> None:
    assert f"wpk submit examples/{file.name} " in header(file)
    document = read(file)
    assert check_package(document, given(file), adapters.adapters).problems == ()


@each
def test_an_example_has_the_name_of_its_file_and_says_what_it_is(file: Path) -> None:
    metadata = read(file)["metadata"]
    assert metadata["name"] == file.name.removesuffix(".wpk.yaml")
    assert metadata["description"].endswith(".")


@each
def test_an_example_is_listed(file: Path) -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert f"]({file.name}) |" in page
    assert f"wpk submit examples/{file.name} " in page
