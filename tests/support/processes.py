"""`wpk` as a user starts it: real processes with an environment of their own, none of which outlives its test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consumer.dev.broker import tied_to_owner
from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker

ROOT = Path(__file__).parents[2]
#: Generous: a loaded machine with two cores runs two brokers, several agents and the tests.
PATIENCE = 90.0
_PARTING = 15.0


def environment(kafka: KafkaBroker | str, prefix: str, **more: object) -> dict[str, str]:
    """The environment of an agent for a test, and of the commands that talk to it; `more` are variables."""
    bootstrap = kafka if isinstance(kafka, str) else kafka.bootstrap
    embedded = not isinstance(kafka, str) and kafka.kind == "embedded"
    variables: dict[str, object] = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": str(ROOT),
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "WPK_TOPIC_PREFIX": prefix,
        "WPK_GROUP_ID": f"{prefix}-agents",
        "WPK_PARTITIONS": 2,
        "WPK_SESSION_TIMEOUT": "6s",
        "WPK_FETCH_MAX_WAIT_MS": 10 if embedded else 100,
        "WPK_SHUTDOWN_GRACE": "5s",
        "WPK_SANDBOX": "off",
        "WPK_HTTP_ALLOW": "*",
        "WPK_POLICY_FILE": "open",
        "PROMETHEUS_HOST": "127.0.0.1",
        "PROMETHEUS_PORT": 0,
        **more,
    }
    return {name: str(value) for name, value in variables.items()}


def _command(arguments: Sequence[str]) -> list[str]:
    return tied_to_owner([sys.executable, "-m", "consumer", *arguments])


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str


async def wpk(variables: Mapping[str, str], *arguments: str, timeout: float = PATIENCE) -> Finished:
    """Runs `wpk …` to its end, which must come within `timeout` seconds."""
    process = await asyncio.create_subprocess_exec(
        *_command(arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(variables),
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode is not None
    return Finished(process.returncode, stdout.decode(), stderr.decode())


class AgentProcess:
    """A running (or ended) `wpk agent`. Its output lies in a file, so that it never waits for a reader."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """All that it wrote, on both streams."""
        return self._log.read_text(errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log about one thing."""
        found = []
        for line in self.output.splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("event") == name:
                    found.append(entry)
        return found

    async def logged(self, name: str) -> dict[str, Any]:
        """The first line of its log about that, once there is one."""

        def look() -> dict[str, Any] | None:
            found = self.events(name)
            assert found or self.code is None, f"the agent ended with {self.code}:\n{self.output[-4000:]}"
            return found[0] if found else None

        entry = await eventually(look, timeout=PATIENCE, interval=0.05, because=f"the agent logs {name}")
        assert entry is not None
        return entry

    async def stage(self, name: str) -> dict[str, Any]:
        """The line of its log about that stage, once there is one."""

        def look() -> dict[str, Any] | None:
            return next((entry for entry in self.events("agent.stage") if entry["stage"] == name), None)

        entry = await eventually(look, timeout=PATIENCE, interval=0.05, because=f"the agent's stage is {name}")
        assert entry is not None
        return entry

    async def get(self, path: str) -> tuple[int, str]:
        """What its health endpoint answers: status and body."""
        base = str((await self.logged("agent.started"))["metrics"]).removesuffix("/metrics")
        return await asyncio.to_thread(fetch, f"{base}{path}")

    async def ready(self) -> dict[str, Any]:
        """What /readyz says once it is ready."""

        async def look() -> dict[str, Any] | None:
            status, body = await self.get("/readyz")
            return json.loads(body) if status == 200 else None

        facts = await eventually(look, timeout=PATIENCE, interval=0.1, because="the agent is ready")
        assert facts is not None
        return facts

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self, timeout: float = PATIENCE) -> int:
        """Its exit code, which must come within `timeout` seconds."""
        await eventually(
            lambda: self.code is not None, timeout=timeout, because=f"the agent ends:\n{self.output[-4000:]}"
        )
        assert self.code is not None
        return self.code

    async def stop(self) -> int:
        """Ends it in order; its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """Ends it as a power cut would."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def close(self) -> None:
        """Makes sure that it has ended: in order where that is quick."""
        if self.code is None:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, _PARTING)
        if self.code is None:
            self.signal(signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)


def fetch(url: str) -> tuple[int, str]:
    """The status and the body of the answer; 0 and the reason where there is none."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:  # it does not listen (yet, or any more)
        return 0, str(error)


def _start(variables: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            _command(["agent"]),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(variables),
            cwd=ROOT,
            start_new_session=True,
        )


@asynccontextmanager
async def agent(variables: Mapping[str, str], *, ready: bool = True) -> AsyncIterator[AgentProcess]:
    """A `wpk agent` while the block lasts; entered when it is ready, or with `ready` false at once."""
    with tempfile.TemporaryDirectory(prefix="wpk-agent-") as directory:
        log = Path(directory) / "output.log"
        running = AgentProcess(_start(variables, log), log)
        try:
            if ready:
                await running.ready()
            yield running
        finally:
            await running.close()
            print(running.output[-6000:])  # noqa: T201 - pytest shows it where the test failed


async def create_topics(variables: Mapping[str, str]) -> None:
    """The topics, by the command that makes them."""
    done = await wpk(variables, "topics", "create")
    assert done.code == 0, done.stderr


def processes_with(text: str) -> list[int]:
    """The ids of this machine's processes whose command line holds that text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found
