"""Steps that do something: S1 beside the bare sandboxed process, H1 beside bare httpx."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.figures import Figure
from bench.stage import package, stage
from bench.w3 import agents, completed
from tests.support.daemon import Daemon
from tests.support.processes import PATIENCE, ROOT

S1 = package({"name": "true", "type": "shell", "config": {"args": ["/bin/true"]}})


def h1(url: str) -> dict[str, object]:
    """One GET."""
    return package({"name": "ask", "type": "api", "config": {"url": url}})


async def _bare(*arguments: str, count: int) -> float:
    """How many per second `bench.bare` did."""
    command = [sys.executable, "-m", "bench.bare", *arguments, "--count", str(count)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{' '.join(command)} ended with {process.returncode}"
    return count / float(json.loads(output)["seconds"])


@asynccontextmanager
async def answering() -> AsyncIterator[str]:
    """The URL of a local server."""
    with tempfile.TemporaryDirectory(prefix="wpk-answering-") as folder:
        server = Daemon("answering", [sys.executable, str(ROOT / "bench" / "answering.py")], directory=Path(folder))
        server.start()
        try:
            await asyncio.to_thread(server.await_service, lambda: server.output.endswith("\n"), PATIENCE)
            yield f"http://127.0.0.1:{server.output.strip()}/"
        finally:
            await asyncio.to_thread(server.stop)


async def _beside(title: str, content: object, bare: Sequence[str], rounds: int, count: int) -> list[Figure]:
    settings: dict[str, object] = {"WPK_PROCESSING_GUARANTEE": "at_least_once", "WPK_SANDBOX": "required"}
    async with stage(kind="apache", settings=settings) as house, agents(house) as ours:
        await asyncio.to_thread(ours.burst, 50, content)
        pairs = [
            (await asyncio.to_thread(ours.burst, count, content), await _bare(*bare, count=count))
            for _ in range(rounds)
        ]
        completed(ours)
    return [
        Figure(
            name=f"{title} throughput (apache, at_least_once)",
            unit="/s",
            higher_is_better=True,
            ours=[burst.per_second for burst, _ in pairs],
            floor=[floor for _, floor in pairs],
        )
    ]


async def shell(rounds: int = 3, count: int = 300) -> list[Figure]:
    """S1: /bin/true in the sandbox; the floor starts the same process in the same sandbox, 16 at once."""
    return await _beside("S1", S1, ["spawn"], rounds, count)


async def http(rounds: int = 3, count: int = 1000) -> list[Figure]:
    """H1: one GET of a local server; the floor is httpx alone, 16 at once."""
    async with answering() as url:
        return await _beside("H1", h1(url), ["http", "--url", url], rounds, count)
