"""Terminals in which a page's commands are typed: one for each thing that stays, and one for all the rest."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from consumer.dev.broker import tied_to_owner
from tests.docs.pages import ROOT
from tests.support.processes import PATIENCE

_END = "=== the command ended with"


def surroundings(home: Path) -> dict[str, str]:
    """The environment of a reader who has installed `wpk`, and has set nothing."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "HOME": str(home),
        "USER": "alice",
        "LOGNAME": "alice",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
    }


@dataclass(slots=True, kw_only=True)
class Terminal:
    """A shell in a folder of its own; `ports` are those that the page names, with free ones in their place."""

    folder: Path
    environment: Mapping[str, str]
    ports: Mapping[str, str] = field(default_factory=dict)
    shell: asyncio.subprocess.Process
    staying: AsyncExitStack

    def here(self, text: str) -> str:
        """The page's text with the ports that are free here."""
        for page, mine in self.ports.items():
            text = text.replace(page, mine)
        return text

    async def run(self, command: str) -> tuple[int, list[str]]:
        """The exit code of a command, and the lines that it printed on both streams."""
        assert self.shell.stdin is not None and self.shell.stdout is not None
        # In braces, so that an `export` counts for what follows; without input, so that none reads the next command.
        self.shell.stdin.write(f"{{ {self.here(command)}\n}} </dev/null\nprintf '\\n{_END} %d\\n' $?\n".encode())
        lines: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while True:
                line = (await self.shell.stdout.readline()).decode()
                assert line, f"the shell ended in: {command}\n" + "\n".join(lines)
                if line.startswith(_END):
                    return int(line.removeprefix(_END)), lines
                lines.append(line.rstrip("\n"))

    async def stay(self, command: str, last: str) -> list[str]:
        """Starts what stays, in a terminal of its own; the lines until the one that holds `last`."""
        process = await self.staying.enter_async_context(
            _started(["bash", "-c", f"exec {self.here(command)}"], self.folder, self.environment)
        )
        assert process.stdout is not None
        lines: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while not lines or last not in lines[-1]:
                line = (await process.stdout.readline()).decode()
                assert line, f"{command} ended:\n" + "\n".join(lines)
                lines.append(line.rstrip("\n"))
        # Nobody reads on: what stays prints far less than a pipe holds.
        return lines


@asynccontextmanager
async def terminal(folder: Path, ports: Mapping[str, str]) -> AsyncIterator[Terminal]:
    """A terminal while the block lasts; what stays is ended after it."""
    environment = surroundings(folder)
    async with AsyncExitStack() as staying, _started(["bash"], folder, environment) as shell:
        yield Terminal(folder=folder, environment=environment, ports=ports, shell=shell, staying=staying)


@asynccontextmanager
async def _started(
    command: list[str], folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *tied_to_owner(command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(environment),
        cwd=folder,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(15):
                await process.communicate()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()
