"""Starts a command's launcher, with the pipes and descriptors that it needs.

The pipes are made here rather than by asyncio, so that who the command runs as owns them, and may open `/dev/stderr`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from consumer.adapters.shell.cgroup import Group, Used

Source = Literal["stdout", "stderr"]
Sink = Callable[[Source, bytes], Awaitable[None]]

_SOURCES: tuple[Source, ...] = ("stdout", "stderr")
_NUMBERED = ("{args}", "{status}", "{filter}")
_CHUNK = 64 * 1024
#: What opens the gate.
OPEN = b"go\n"


def gated(command: tuple[str, ...], *, stdin: bool) -> tuple[str, ...]:
    """The command, held back until the gate opens; where that never comes, it never begins."""
    script = 'IFS= read -r WPK_GATE && [ "$WPK_GATE" = go ] || exit 125; unset WPK_GATE; exec "$@"'
    return ("/bin/sh", "-c", script if stdin else f"{script} </dev/null", "wpk-gate", *command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start it: the launcher's own command line and environment, and what it is given by descriptors."""

    argv: tuple[str, ...]
    """The items `{args}`, `{status}` and `{filter}` stand for the numbers of the descriptors."""
    env: Mapping[str, str]
    cwd: str
    arguments: bytes | None = None
    """Options of bwrap or the keeper, NUL-separated: by descriptor, since everybody can read a command line."""
    filter: bytes | None = None
    """A seccomp filter's instructions."""
    stdin: bytes | None = None
    owner: int | None = None
    """The uid that is to own the pipes, where it is not the agent's."""
    token: bytes | None = None
    """What marks the processes' environment, where no pid namespace holds them together."""

    @property
    def kept(self) -> bool:
        """Whether it is the keeper that starts the command, and that ends all of it at SIGTERM."""
        return self.arguments is not None and self.token is not None


@dataclass(slots=True)
class Status:
    """What bwrap or the keeper tells over its status descriptor."""

    child: asyncio.Future[int | None]
    exit_code: int | None = None
    all_gone: bool = False
    """Whether the keeper has seen the end of all of the command's processes."""
    used: Used | None = None


@dataclass(slots=True)
class Pipe:
    reader: asyncio.StreamReader
    transport: asyncio.ReadTransport
    total: int = 0
    waiting: bool = False

    async def pump(self, source: Source, sink: Sink) -> None:
        """Hands everything to the sink, as fast as it takes it."""
        while True:
            self.waiting = True
            chunk = await self.reader.read(_CHUNK)
            self.waiting = False
            if not chunk:
                return
            self.total += len(chunk)
            await sink(source, chunk)

    async def messages(self, status: Status) -> None:
        """Reads the launcher's messages, one JSON object a line, until it is gone."""
        try:
            while line := await self.reader.readline():
                message = json.loads(line)
                if "child-pid" in message and not status.child.done():
                    status.child.set_result(int(message["child-pid"]))
                status.exit_code = message.get("exit-code", status.exit_code)
                status.all_gone = message.get("all-gone", status.all_gone)
                if "cpu-seconds" in message:
                    status.used = Used(
                        cpu_seconds=message["cpu-seconds"], peak_memory_bytes=message["peak-memory-bytes"]
                    )
        finally:
            if not status.child.done():
                status.child.set_result(None)


class Gate:
    """Our end of the command's stdin, and what keeps the command back: it begins when we say so over it.

    An agent that dies before leaves it closed, and the command never begins. Without that a command could begin that
    nobody lives to see: bwrap's `--die-with-parent` takes effect only milliseconds after the start, and it does not
    notice a parent that is dead by then.
    """

    def __init__(self, number: int) -> None:
        self._number: int | None = number
        self.opened = False

    async def open(self, content: bytes) -> None:
        """Lets the command begin and gives it the content, as fast as it reads; it may also not read it."""
        loop = asyncio.get_running_loop()
        view = memoryview(OPEN + content)
        self.opened = True
        try:
            while view and self._number is not None:
                try:
                    view = view[os.write(self._number, view) :]
                except BlockingIOError:
                    ready = loop.create_future()
                    loop.add_writer(self._number, _resolve, ready)
                    try:
                        await ready
                    finally:
                        if self._number is not None:
                            loop.remove_writer(self._number)
        except BrokenPipeError:
            return
        finally:
            self.close()

    def close(self) -> None:
        """Nothing more comes."""
        if self._number is not None:
            asyncio.get_running_loop().remove_writer(self._number)
            os.close(self._number)
            self._number = None


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class Started:
    """A process that was started, waited for by wait4(2): asyncio's own does not tell what it used."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self._before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.pid = popen.pid
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self.used: Used | None = None
        try:
            number = os.pidfd_open(self.pid)
        except OSError:  # before Linux 5.3
            threading.Thread(target=self._wait, name=f"wait-{self.pid}", daemon=True).start()
        else:
            self._loop.add_reader(number, self._ready, number)

    async def wait(self) -> int:
        """Its exit code, -n for signal n, once it has ended."""
        return await asyncio.shield(self._exited)

    def kill(self) -> None:
        """SIGKILL, if it is still there."""
        if not self._exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _ready(self, number: int) -> None:
        self._loop.remove_reader(number)
        os.close(number)
        self._ended(*os.wait4(self.pid, 0)[1:])

    def _wait(self) -> None:
        _, status, used = os.wait4(self.pid, 0)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._ended, status, used)

    def _ended(self, status: int, used: resource.struct_rusage) -> None:
        # A child's peak begins with what the agent had when it was forked (getrusage(2), over an exec).
        peak = used.ru_maxrss * 1024 if used.ru_maxrss > self._before else None
        self.used = Used(cpu_seconds=round(used.ru_utime + used.ru_stime, 6), peak_memory_bytes=peak)
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        if not self._exited.done():
            self._exited.set_result(self._popen.returncode)


@dataclass(slots=True)
class Child:
    """A started launcher with everything that hangs on it."""

    process: Started
    launch: Launch
    gate: Gate
    pipes: dict[Source, Pipe]
    exited: asyncio.Task[int]
    hurry: asyncio.Event
    status: Status | None = None
    status_pipe: Pipe | None = None
    status_task: asyncio.Task[None] | None = None
    pumps: list[asyncio.Task[None]] = field(default_factory=list)
    feeding: asyncio.Task[None] | None = None
    survivors: bool = False
    group: Group | None = None

    def close(self) -> None:
        """Closes our ends of the pipes."""
        self.gate.close()
        for pipe in self.pipes.values():
            pipe.transport.close()
        if self.status_pipe is not None:
            self.status_pipe.transport.close()


async def start(launch: Launch) -> Child:
    """Starts the launcher. Not to be cancelled: who calls it shields it."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        ends: dict[Source, int] = {}
        pipes: dict[Source, Pipe] = {}
        for source in _SOURCES:
            pipes[source], ends[source] = await _pipe(ours, theirs, launch.owner)
        numbers: dict[str, int] = {}
        status_pipe = None
        if launch.arguments is not None:
            status_pipe, numbers["status"] = await _pipe(ours, theirs, None)
            numbers["args"] = _memory(theirs, launch.arguments)
        if launch.filter is not None:
            numbers["filter"] = _memory(theirs, launch.filter)
        passed = list(numbers.values())
        gate, stdin = _gate(ours, theirs, launch.owner)
        popen = subprocess.Popen(  # noqa: S603, ASYNC220 - to start commands is what this is for; asyncio does it so too
            [item.format(**numbers) if item in _NUMBERED else item for item in launch.argv],
            stdin=stdin,
            stdout=ends["stdout"],
            stderr=ends["stderr"],
            pass_fds=passed,
            env=dict(launch.env),
            cwd=launch.cwd,
            start_new_session=True,
        )
        process = Started(popen)
        child = Child(process, launch, gate, pipes, asyncio.create_task(process.wait()), asyncio.Event())
        if status_pipe is not None:
            child.status_pipe = status_pipe
            child.status = Status(asyncio.get_running_loop().create_future())
            child.status_task = asyncio.create_task(status_pipe.messages(child.status))
        ours.pop_all()
        return child


async def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack, owner: int | None) -> tuple[Pipe, int]:
    """A pipe: our reading end, and the number of their writing end, which is closed with `theirs`."""
    read_end, write_end = os.pipe()
    theirs.callback(os.close, write_end)
    file = os.fdopen(read_end, "rb", buffering=0)
    ours.callback(file.close)
    if owner is not None:
        os.fchown(write_end, owner, owner)
    reader = asyncio.StreamReader(limit=_CHUNK)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    ours.callback(transport.close)
    return Pipe(reader, transport), write_end


def _gate(ours: contextlib.ExitStack, theirs: contextlib.ExitStack, owner: int | None) -> tuple[Gate, int]:
    """The gate, and the number of the end that becomes the command's stdin."""
    read_end, write_end = os.pipe()
    theirs.callback(os.close, read_end)
    gate = Gate(write_end)
    ours.callback(gate.close)
    os.set_blocking(write_end, False)
    if owner is not None:
        os.fchown(read_end, owner, owner)
    return gate, read_end


def _memory(theirs: contextlib.ExitStack, content: bytes) -> int:
    """A descriptor that reads the content: no writer that could block or be left behind."""
    number = os.memfd_create("wpk", os.MFD_CLOEXEC)
    theirs.callback(os.close, number)
    view = memoryview(content)
    while view:
        view = view[os.write(number, view) :]
    os.lseek(number, 0, os.SEEK_SET)
    return number
