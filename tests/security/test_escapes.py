"""Every way out of a shell step is tried at every level of the sandbox, and held as docs/security.md says."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consumer.adapters.shell import ShellAdapter, bubblewrap, launching
from consumer.adapters.shell.sandbox import Level
from consumer.errors import StepError
from consumer.ports import JsonObject, Stream
from tests.security.escapes import ESCAPES, PRELUDE, Escape, Truth
from tests.security.world import World, world
from tests.support.require import require
from tests.support.shell_steps import FixedScope, adapter_at, context

LEVELS: tuple[Level, ...] = ("bubblewrap", "landlock", "none")
_adapters: dict[Level, ShellAdapter] = {}


@pytest.fixture
def surroundings(name: str) -> Iterator[World]:
    python = shutil.which("python3", path=launching.SEARCH_PATH)
    require(python, "there is no python3 that commands see")
    assert python is not None
    with world(python, peopled=any(word in ESCAPES[name].code for word in ("victim", "of_all", "kill(-1"))) as made:
        yield made


async def at(level: Level) -> ShellAdapter:
    """The adapter of that level: found out once, with little room in memory, and as where no control groups are."""
    if level not in _adapters:
        sizes = bubblewrap.Sizes(workspace=2**23, tmp=2**23)
        _adapters[level] = await adapter_at(level, sizes=sizes, find_groups=lambda: None)
    return _adapters[level]


async def escaped(escape: Escape, adapter: ShellAdapter, surroundings: World) -> bool:
    """Tries it, and says whether it got out."""
    # Behind Landlock a step may have 256 more than its user had when it began, bombs of other tests among them.
    forks = "300" if (await adapter.report()).level == "none" else "1200"
    config: JsonObject = {
        "args": [surroundings.python, "-I", "-S", "-c", (PRELUDE + escape.code).replace("${", "$${")],
        "env": {**surroundings.environment(), "FORKS": forks},
        **escape.config,
    }

    async def nowhere(_stream: Stream, _text: str) -> None:
        pass

    try:
        result = await adapter.prepare(config, FixedScope()).run(context(nowhere))
    except StepError as error:
        assert escape.dies, f"the program failed, which proves nothing: {error}\n{error.output}"
        result = error.output or {}
    stdout = str(result["stdout"])
    if escape.seen is not None:
        return await seen(escape, surroundings)
    verdicts = re.findall(r"^(ESCAPED|HELD)", stdout, flags=re.MULTILINE)
    assert verdicts or escape.dies, f"the program told nothing: {result}"
    return "ESCAPED" in verdicts


async def seen(escape: Escape, surroundings: World) -> bool:
    """Whether it got out, as the world sees it: what bubblewrap's end kills may be seen for a moment more."""
    assert escape.seen is not None
    got_out = escape.seen(surroundings)
    if got_out and escape.seen == World.has_survivors:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while escape.seen(surroundings):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                return False
    return got_out


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if way.long else []) for name, way in ESCAPES.items()]
)
async def test_a_way_out_is_held_as_the_threat_model_says(
    name: str, level: Level, surroundings: World, record_property: Callable[[str, object], None]
) -> None:
    escape = ESCAPES[name]
    truth = escape.truth(level)
    if truth is Truth.UNTRIED:
        return
    got_out = await escaped(escape, await at(level), surroundings)
    if truth is not Truth.MACHINE:
        assert got_out == (truth is Truth.OPEN), f"{name} at level {level}: said to be {truth.value}"
    if not got_out:
        assert surroundings.untouched(), "held, yet something was changed"
        assert surroundings.alive(), "held, yet the other process is dead"
    record_property("escape", [level, not got_out])


def test_the_page_of_the_threat_model_has_each_way_out_and_what_holds_it() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    signs = {Truth.HELD: "held", Truth.OPEN: "**no**", Truth.MACHINE: "machine", Truth.UNTRIED: "**no**"}
    rows = {name: [signs[way.truth(level)] for level in LEVELS] for name, way in ESCAPES.items()}
    found = {row[0]: list(row[1:]) for row in re.findall(r"^\| ([^|`]+) \| (\S+) \| (\S+) \| (\S+) \|$", page, re.M)}
    assert {name: cells for name, cells in found.items() if name in rows} == rows
