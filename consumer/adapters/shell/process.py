"""Runs one command: starts it, carries its output away, and ends all of it, whatever happens meanwhile.

The pipes are made here rather than by asyncio, for two reasons: `Process.wait()` then means that the process ended
(on some Pythons it also waits for the pipes, which a grandchild may hold: cpython#119710), and what the command is
started as owns them, so that it may open `/dev/stderr`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from consumer.adapters.shell import tree

Source = Literal["stdout", "stderr"]
T = TypeVar("T")
Sink = Callable[[Source, bytes], Awaitable[None]]

_SOURCES: tuple[Source, ...] = ("stdout", "stderr")
_NUMBERED = ("{args}", "{status}")
_CHUNK = 64 * 1024
#: Seconds without output after which a pipe that a survivor still holds is given up.
_DRAIN = 5.0
#: More than the pipe and our buffer hold: what comes beyond after the command's end is a survivor's.
_DRAIN_BYTES = 1024 * 1024
#: Seconds between two looks at processes that were asked to end.
_POLL = 0.05
#: Seconds that a killed process may take to be gone, before we say that it isn't.
_REAP = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start it: the launcher's own command line and environment, and what it is given by descriptors."""

    argv: tuple[str, ...]
    """The items `{args}` and `{status}` stand for the numbers of the two descriptors."""
    env: Mapping[str, str]
    cwd: str
    arguments: bytes | None = None
    """bwrap's options, NUL-separated: by descriptor, since a command line can be read by everybody on the machine."""
    stdin: bytes | None = None
    owner: int | None = None
    """The uid that is to own the pipes, where it is not the agent's."""
    token: bytes | None = None
    """What marks the processes' environment, where no sandbox holds them together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How it ended."""

    exit_code: int
    """128 + n for a command killed by signal n."""
    ran: bool
    """False: the launcher ended without having run the command (or was killed itself)."""
    survivors: bool
    """True: a process that could not be ended still held the output."""


@dataclass(slots=True)
class _Status:
    """What bwrap tells over its status descriptor."""

    child: asyncio.Future[int | None]
    exit_code: int | None = None


@dataclass(slots=True)
class _Pipe:
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

    async def messages(self, status: _Status) -> None:
        """Reads bwrap's messages, one JSON object a line, until it is gone."""
        try:
            while line := await self.reader.readline():
                message = json.loads(line)
                if "child-pid" in message and not status.child.done():
                    status.child.set_result(int(message["child-pid"]))
                status.exit_code = message.get("exit-code", status.exit_code)
        finally:
            if not status.child.done():
                status.child.set_result(None)


@dataclass(slots=True)
class _Child:
    """A started launcher with everything that hangs on it."""

    process: asyncio.subprocess.Process
    launch: Launch
    pipes: dict[Source, _Pipe]
    exited: asyncio.Task[int]
    hurry: asyncio.Event
    status: _Status | None = None
    status_pipe: _Pipe | None = None
    status_task: asyncio.Task[None] | None = None
    pumps: list[asyncio.Task[None]] = field(default_factory=list)
    survivors: bool = False

    def close(self) -> None:
        """Closes our ends of the pipes."""
        for pipe in self.pipes.values():
            pipe.transport.close()
        if self.status_pipe is not None:
            self.status_pipe.transport.close()


async def execute(launch: Launch, sink: Sink, *, grace: float) -> Ended:
    """Runs it to its end. However this coroutine ends, nothing of the command is left.

    Cancelled, it asks the command to end (SIGTERM), waits up to `grace` seconds, and kills it; cancelled again, it
    kills at once. Raises OSError where the launcher can't be started, and whatever the sink raises.
    """
    starting = asyncio.create_task(_start(launch))
    try:
        child = await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            child = await uncancelled(starting)
            await _finish(child, 0.0)
        raise
    try:
        for source, pipe in child.pipes.items():
            child.pumps.append(asyncio.create_task(pipe.pump(source, sink)))
        await _until_exited(child)
        await _sweep(child)
        await _drain(child)
    except BaseException:
        await _finish(child, grace)
        raise
    finally:
        child.close()
    return _ended(child)


def _ended(child: _Child) -> Ended:
    code = child.exited.result()
    exit_code = code if code >= 0 else 128 - code
    ran = True
    if child.status is not None:
        ran = child.status.exit_code is not None
        exit_code = exit_code if child.status.exit_code is None else child.status.exit_code
    return Ended(exit_code=exit_code, ran=ran, survivors=child.survivors)


async def uncancelled(task: asyncio.Task[T], on_cancel: Callable[[], object] = bool) -> T:
    """The task's result, waited for through every cancellation; who calls it is already on the way to raise one."""
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            on_cancel()
        except Exception:
            break
    return task.result()


# --- beginning --------------------------------------------------------------------------------------------------


async def _start(launch: Launch) -> _Child:
    """Starts the launcher. Not to be cancelled: who calls it shields it."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        ends: dict[Source, int] = {}
        pipes: dict[Source, _Pipe] = {}
        for source in _SOURCES:
            pipes[source], ends[source] = await _pipe(ours, theirs, launch.owner)
        passed: list[int] = []
        numbers: dict[str, int] = {}
        status_pipe = None
        if launch.arguments is not None:
            status_pipe, numbers["status"] = await _pipe(ours, theirs, None)
            numbers["args"] = _memory(theirs, launch.arguments, None)
            passed = list(numbers.values())
        stdin = asyncio.subprocess.DEVNULL
        if launch.stdin is not None:
            stdin = _memory(theirs, launch.stdin, launch.owner)
        process = await asyncio.create_subprocess_exec(
            *(item.format(**numbers) if item in _NUMBERED else item for item in launch.argv),
            stdin=stdin,
            stdout=ends["stdout"],
            stderr=ends["stderr"],
            pass_fds=passed,
            env=dict(launch.env),
            cwd=launch.cwd,
            start_new_session=True,
        )
        child = _Child(process, launch, pipes, asyncio.create_task(process.wait()), asyncio.Event())
        if status_pipe is not None:
            child.status_pipe = status_pipe
            child.status = _Status(asyncio.get_running_loop().create_future())
            child.status_task = asyncio.create_task(status_pipe.messages(child.status))
        ours.pop_all()
        return child


async def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack, owner: int | None) -> tuple[_Pipe, int]:
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
    return _Pipe(reader, transport), write_end


def _memory(theirs: contextlib.ExitStack, content: bytes, owner: int | None) -> int:
    """A descriptor that reads the content: no writer that could block or be left behind."""
    number = os.memfd_create("wpk", os.MFD_CLOEXEC)
    theirs.callback(os.close, number)
    view = memoryview(content)
    while view:
        view = view[os.write(number, view) :]
    os.lseek(number, 0, os.SEEK_SET)
    if owner is not None:
        os.fchown(number, owner, owner)
    return number


# --- end --------------------------------------------------------------------------------------------------------


async def _until_exited(child: _Child) -> None:
    """Waits for the launcher's exit; raises what a pump raised, without waiting further."""
    while not child.exited.done():
        running = [pump for pump in child.pumps if not pump.done()]
        await asyncio.wait({child.exited, *running}, return_when=asyncio.FIRST_COMPLETED)
        _raise_of(child.pumps)


def _raise_of(pumps: list[asyncio.Task[None]]) -> None:
    for pump in pumps:
        if pump.done():
            pump.result()


async def _sweep(child: _Child) -> None:
    """Ends what the command left running: in a sandbox there is nothing, its init took all with it."""
    if child.launch.token is None:
        return
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _REAP
    while pids := await _members(child):
        for pid in pids:
            tree.send(pid, signal.SIGKILL)
        if loop.time() > deadline:
            child.survivors = True
            return
        await asyncio.sleep(_POLL)


async def _drain(child: _Child) -> None:
    """Waits until all output is handed over, for as long as there is any and nobody but a survivor adds to it."""
    before = {source: pipe.total for source, pipe in child.pipes.items()}
    last = dict(before)
    while running := [pump for pump in child.pumps if not pump.done()]:
        await asyncio.wait(running, timeout=_DRAIN, return_when=asyncio.FIRST_EXCEPTION)
        _raise_of(child.pumps)
        for (source, pipe), pump in zip(child.pipes.items(), child.pumps, strict=True):
            stuck = pipe.waiting and pipe.total == last[source]
            if not pump.done() and (stuck or pipe.total - before[source] > _DRAIN_BYTES):
                child.survivors = True
                pipe.transport.close()
            last[source] = pipe.total
    if child.status_task is not None:
        await asyncio.wait({child.status_task}, timeout=_DRAIN)


async def _finish(child: _Child, grace: float) -> None:
    """Ends everything of the child, uncancelled."""
    await uncancelled(asyncio.create_task(_end(child, grace)), child.hurry.set)


async def _end(child: _Child, grace: float) -> None:
    """SIGTERM, up to `grace` seconds, SIGKILL; then what output is there, within a bound."""
    try:
        if not child.exited.done() and grace > 0:
            await _ask(child, asyncio.get_running_loop().time() + grace)
        if not child.exited.done():
            await _kill(child)
        await _sweep(child)
        running = [pump for pump in child.pumps if not pump.done()]
        if running:
            await asyncio.wait(running, timeout=0.0 if child.hurry.is_set() else _DRAIN)
    finally:
        tasks = [task for task in (*child.pumps, child.status_task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        child.close()


async def _ask(child: _Child, deadline: float) -> None:
    """SIGTERM to the command, and time to obey.

    A shell dies of it at once, and with it the whole sandbox, before what the shell had started could clean up. So a
    shell is held still while its children end, and then gets its own SIGTERM before it can go on with the script.
    """
    main = await _main(child)
    if main is None:
        return
    if not tree.is_shell(main):
        tree.send(main, signal.SIGTERM)
        await _wait_exit(child, deadline)
        return
    asked: set[int] = set()
    tree.send(main, signal.SIGSTOP)
    try:
        while others := [pid for pid in await _members(child) if pid != main]:
            for pid in others:
                if pid not in asked:
                    tree.send(pid, signal.SIGTERM)
            asked.update(others)
            if await _wait_exit(child, min(deadline, asyncio.get_running_loop().time() + _POLL), deadline):
                return
    finally:
        tree.send(main, signal.SIGTERM)
        tree.send(main, signal.SIGCONT)
    await _wait_exit(child, deadline)


async def _wait_exit(child: _Child, until: float, deadline: float | None = None) -> bool:
    """Waits for the exit. True: there is no more to wait for (exited, hurried, or the deadline passed)."""
    loop = asyncio.get_running_loop()
    hurry = asyncio.create_task(child.hurry.wait())
    try:
        await asyncio.wait(
            {child.exited, hurry}, timeout=max(0.0, until - loop.time()), return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        hurry.cancel()
    return child.exited.done() or child.hurry.is_set() or loop.time() >= (deadline or until)


async def _main(child: _Child) -> int | None:
    """The command's own process; None where it doesn't run yet."""
    if child.status is None:
        return child.process.pid
    init = await _init(child)
    inside = tree.children(init) if init is not None else []
    return inside[0] if inside else None


async def _init(child: _Child) -> int | None:
    """The sandbox's init as this side sees it; None where bwrap has not come that far."""
    if child.status is None:
        return None
    await asyncio.wait({child.status.child}, timeout=_POLL)
    return child.status.child.result() if child.status.child.done() else None


async def _members(child: _Child) -> list[int]:
    """All live processes of the command; a sandbox's init is none of them."""
    if child.status is not None:
        init = await _init(child)
        return [] if init is None else await asyncio.to_thread(tree.descendants, init)
    pid = child.process.pid
    return await asyncio.to_thread(tree.descendants, pid, session=pid, token=child.launch.token)


async def _kill(child: _Child) -> None:
    """SIGKILL to all of it, and waits until it is gone.

    The sandbox's init goes first: bwrap then reaps it and ends when the last process inside is gone, where a killed
    bwrap would leave a zombie to whoever inherits it.
    """
    init = await _init(child)
    if init is not None:
        tree.send(init, signal.SIGKILL)
        await asyncio.wait({child.exited}, timeout=_DRAIN)
    if not child.exited.done():
        with contextlib.suppress(ProcessLookupError):
            child.process.kill()
    done, _ = await asyncio.wait({child.exited}, timeout=_REAP)
    child.survivors = child.survivors or not done
