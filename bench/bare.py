"""Floors of single steps: what they do without an agent. A process of its own, which prints JSON.

python -m bench.bare spawn --count N     /bin/true in the agent's own sandbox, started by its launcher
python -m bench.bare http --count N --url URL
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import httpx

from consumer.adapters.shell import process, sandbox, spawn
from consumer.adapters.shell.launching import Spec

Once = Callable[[], Awaitable[None]]


async def _ignore(_source: spawn.Source, _chunk: bytes) -> None:
    """What /bin/true prints is nothing."""


async def spawns(run: Callable[[Once], Awaitable[None]]) -> None:
    """Sandboxed processes, with no step around them."""
    box = sandbox.Sandbox("required")
    level = await box.level()

    async def once() -> None:
        launch = box.launch(Spec(argv=("/bin/true",), env={"PATH": "/usr/bin:/bin"}), level)
        ended = await process.execute(launch, _ignore, grace=1.0)
        assert ended.ran and ended.exit_code == 0, ended

    await run(once)


async def requests(run: Callable[[Once], Awaitable[None]], url: str) -> None:
    """GETs by one httpx client."""
    async with httpx.AsyncClient() as client:

        async def once() -> None:
            (await client.get(url)).raise_for_status()

        await run(once)


async def main(what: str, count: int, at_once: int, url: str) -> None:
    """Does it so many times, so many at once; prints seconds and seconds of a core."""

    async def run(once: Once) -> None:
        left = iter(range(count))

        async def one_after_the_other() -> None:
            for _ in left:
                await once()

        await once()
        began, used = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(one_after_the_other())
        print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time() - used}))

    await (spawns(run) if what == "spawn" else requests(run, url))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("spawn", "http"))
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--url", default="")
    asked = parser.parse_args()
    asyncio.run(main(asked.what, asked.count, asked.at_once, asked.url))
