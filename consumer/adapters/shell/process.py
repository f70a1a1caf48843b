"""Runs one command: carries its output away, and ends all of it, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from consumer.adapters.shell import tree
from consumer.adapters.shell.cgroup import Group, Used
from consumer.adapters.shell.spawn import Child, Launch, Sink, start

T = TypeVar("T")

#: Seconds without output after which a pipe that a survivor still holds is given up.
_DRAIN = 5.0
#: More than the pipe and our buffer hold: what comes beyond after the command's end is a survivor's.
_DRAIN_BYTES = 1024 * 1024
#: Seconds between two looks at processes that were asked to end.
_POLL = 0.05
#: Seconds that a launcher may take to come to the command, on a machine under load.
_READY = 60.0
#: Seconds that a killed process may take to be gone, before we say that it isn't.
_REAP = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How it ended."""

    exit_code: int
    """128 + n for a command killed by signal n."""
    ran: bool
    """False: the launcher ended without having run the command (or was killed itself)."""
    survivors: bool
    """True: a process that could not be ended still held the output."""
    used: Used | None = None
    """None: not known."""


async def execute(launch: Launch, sink: Sink, *, grace: float, group: Group | None = None) -> Ended:
    """Runs it to its end, in the control group if there is one. However this ends, nothing of the command is left.

    Cancelled, it asks the command to end (SIGTERM), waits up to `grace` seconds, and kills it; cancelled again, it
    kills at once. Raises OSError where the launcher can't be started, and whatever the sink raises.
    """
    starting = asyncio.create_task(start(launch))
    try:
        child = await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            child = await uncancelled(starting)
            await _finish(child, 0.0)
        raise
    child.group = group
    try:
        for source, pipe in child.pipes.items():
            child.pumps.append(asyncio.create_task(pipe.pump(source, sink)))
        await _until_ready(child)
        await _enter(child)
        child.feeding = asyncio.create_task(child.gate.open(launch.stdin or b""))
        await _until_exited(child)
        await _sweep(child)
        await _drain(child)
    except BaseException:
        await _finish(child, grace)
        raise
    finally:
        child.close()
    return _ended(child)


async def _enter(child: Child) -> None:
    """Puts what stands at its gate into the control group, and a sandbox's init; the keeper must outlive them."""
    main = await _main(child)
    if child.group is None or main is None:
        return
    init = None if child.launch.kept else await _init(child)
    for pid in (main, init):
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                await asyncio.to_thread(child.group.add, pid)


def _ended(child: Child) -> Ended:
    code = child.exited.result()
    exit_code = code if code >= 0 else 128 - code
    ran = True
    if child.status is not None:
        ran = child.status.exit_code is not None
        exit_code = exit_code if child.status.exit_code is None else child.status.exit_code
    # bwrap does not wait for its init, so that what was used inside is not told by its own end.
    used = child.process.used if child.status is None else child.status.used
    if child.group is not None:
        with contextlib.suppress(OSError):  # what the command did counts, not what can't be told of it
            together = child.group.used()
            peak = together.peak_memory_bytes or (used.peak_memory_bytes if used is not None else None)
            used = Used(cpu_seconds=together.cpu_seconds, peak_memory_bytes=peak)
    return Ended(exit_code=exit_code, ran=ran, survivors=child.survivors, used=used)


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


async def _until_ready(child: Child) -> None:
    """Waits until the command stands at its gate and will die with the agent; or until the launcher ended.

    The launcher bound its life to ours before it became what we look for. A sandbox's init binds its own to the
    launcher's before it begins to wait for the command, so when it sleeps, it has.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _READY
    pause = 0.001
    while not child.exited.done():
        main = await _main(child)
        if main is not None and tree.command_line(main)[3:4] == ["wpk-gate"]:
            init = await _init(child)
            if init is None or tree.sleeps(init):
                return
        if loop.time() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"the command did not come to its start within {_READY:.0f} s")
        await asyncio.wait({child.exited}, timeout=pause)
        pause = min(pause * 1.5, _POLL)


async def _until_exited(child: Child) -> None:
    """Waits for the launcher's exit; raises what a pump raised, without waiting further."""
    while not child.exited.done():
        running = [pump for pump in child.pumps if not pump.done()]
        await asyncio.wait({child.exited, *running}, return_when=asyncio.FIRST_COMPLETED)
        _raise_of(child.pumps)


def _raise_of(pumps: list[asyncio.Task[None]]) -> None:
    for pump in pumps:
        if pump.done():
            pump.result()


async def _sweep(child: Child) -> None:
    """Ends what the command left running: a sandbox's init took all with it, and so did a keeper that ended well."""
    if child.group is not None:
        with contextlib.suppress(OSError):
            child.group.kill()
    if child.launch.token is None:
        return
    if child.launch.kept and child.status_task is not None and child.status is not None:
        await asyncio.wait({child.status_task}, timeout=_DRAIN)
        if child.status.all_gone:
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


async def _drain(child: Child) -> None:
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
    child.gate.close()
    if child.feeding is not None:
        child.feeding.cancel()
        await asyncio.wait({child.feeding})


async def _finish(child: Child, grace: float) -> None:
    """Ends everything of the child, uncancelled."""
    await uncancelled(asyncio.create_task(_end(child, grace)), child.hurry.set)


async def _end(child: Child, grace: float) -> None:
    """SIGTERM, up to `grace` seconds, SIGKILL; then what output is there, within a bound."""
    try:
        if not child.exited.done() and grace > 0 and child.gate.opened:
            await _ask(child, asyncio.get_running_loop().time() + grace)
        if not child.exited.done():
            await _kill(child)
        await _sweep(child)
        running = [pump for pump in child.pumps if not pump.done()]
        if running:
            await asyncio.wait(running, timeout=0.0 if child.hurry.is_set() else _DRAIN)
    finally:
        tasks = [task for task in (*child.pumps, child.status_task, child.feeding) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        child.close()


async def _ask(child: Child, deadline: float) -> None:
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
    loop = asyncio.get_running_loop()
    # The shell may have things to clean up itself: the second half of the time is its own.
    children_until = loop.time() + (deadline - loop.time()) / 2
    tree.send(main, signal.SIGSTOP)
    try:
        while others := [pid for pid in await _members(child) if pid != main]:
            for pid in others:
                if pid not in asked:
                    tree.send(pid, signal.SIGTERM)
            asked.update(others)
            if await _wait_exit(child, loop.time() + _POLL) or loop.time() >= children_until:
                break
    finally:
        tree.send(main, signal.SIGTERM)
        tree.send(main, signal.SIGCONT)
    await _wait_exit(child, deadline)


async def _wait_exit(child: Child, until: float) -> bool:
    """Waits for the exit until that moment. True: nobody need wait longer, as it came or another cancellation did."""
    hurry = asyncio.create_task(child.hurry.wait())
    try:
        left = max(0.0, until - asyncio.get_running_loop().time())
        await asyncio.wait({child.exited, hurry}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hurry.cancel()
    return child.exited.done() or child.hurry.is_set()


async def _main(child: Child) -> int | None:
    """The command's own process; None where it doesn't run yet."""
    if child.status is None:
        return child.process.pid
    init = await _init(child)
    inside = tree.children(init) if init is not None else []
    return inside[0] if inside else None


async def _init(child: Child) -> int | None:
    """The sandbox's init as this side sees it; None where bwrap has not come that far."""
    if child.status is None:
        return None
    await asyncio.wait({child.status.child}, timeout=_POLL)
    return child.status.child.result() if child.status.child.done() else None


async def _members(child: Child) -> list[int]:
    """All live processes of the command; a sandbox's init and the keeper are none of them."""
    if child.status is not None and not child.launch.kept:
        init = await _init(child)
        return [] if init is None else await asyncio.to_thread(tree.descendants, init)
    pid = child.process.pid
    return await asyncio.to_thread(tree.descendants, pid, session=pid, token=child.launch.token)


async def _kill_untold(child: Child) -> bool:
    """Kills what bwrap has started and not told of yet. True: there was something, and bwrap sees its end.

    An init that has not bound its life to bwrap's yet would wait for ever for the go of a bwrap that is dead. A stopped
    bwrap starts nothing more, so that what is found then is all.
    """
    launcher = child.process.pid
    deadline = asyncio.get_running_loop().time() + _DRAIN
    tree.send(launcher, signal.SIGSTOP)
    while not child.exited.done() and not tree.stopped(launcher) and asyncio.get_running_loop().time() < deadline:
        await asyncio.wait({child.exited}, timeout=0.001)
    untold = await asyncio.to_thread(tree.descendants, launcher)
    for pid in untold:
        tree.send(pid, signal.SIGKILL)
    if untold:
        tree.send(launcher, signal.SIGCONT)
    return bool(untold)


async def _kill(child: Child) -> None:
    """SIGKILL to all of it, and waits until it is gone.

    The sandbox's init goes first: bwrap then reaps it and ends when the last process inside is gone, where a killed
    bwrap would leave a zombie to whoever inherits it.
    """
    init = await _init(child)
    if child.launch.kept:
        tree.send(child.process.pid, signal.SIGTERM)
        await asyncio.wait({child.exited}, timeout=_REAP)
    elif init is not None:
        tree.send(init, signal.SIGKILL)
        await asyncio.wait({child.exited}, timeout=_DRAIN)
    elif child.status is not None and await _kill_untold(child):
        await asyncio.wait({child.exited}, timeout=_DRAIN)
    child.process.kill()
    done, _ = await asyncio.wait({child.exited}, timeout=_REAP)
    child.survivors = child.survivors or not done
