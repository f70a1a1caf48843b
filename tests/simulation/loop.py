"""A deterministic asyncio event loop: virtual time, drawn order of callbacks, and processes that can be killed.

Time jumps to the next timer when nothing is ready, so that nobody waits for real. Which process runs next is drawn;
within one process callbacks run in their order as asyncio promises it, or (`shuffle`) in any. A process is told by a
context variable, which tasks hand on: killing it means that none of its callbacks ever runs again, as after `kill -9`
between any two awaits; freezing it means that they wait while the time goes on.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import sys
import traceback
import warnings
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, TypeVar, TypeVarTuple, cast
from zlib import crc32

Result = TypeVar("Result")
Args = TypeVarTuple("Args")


class SimulationError(Exception):
    """The simulation itself can't go on: nothing is left to run, or a callback raised."""


class Process:
    """What dies and freezes as one: an agent. The world (brokers, network, users) is a process too, and never ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.thaws = 0
        """How often it was frozen and came back."""
        self.steps = 0
        """How many callbacks it ran."""
        self.trip_at = -1
        """After so many callbacks `trip` is called: the moment of a fault."""
        self.trip: Callable[[], None] = lambda: None
        self.ready: deque[Handle] = deque()


#: Whose callback is running.
current: ContextVar[Process] = ContextVar("process")


class Handle:
    """A callback that is to run; also a timer. As asyncio's own, but for what is not needed here."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_when", "process")

    def __init__(
        self, process: Process, callback: Callable[..., object], args: tuple[object, ...], context: Context, when: float
    ) -> None:
        self.process = process
        self._callback = callback
        self._args = args
        self._context = context
        self._when = when
        self._cancelled = False

    def cancel(self) -> None:
        """It will not run."""
        self._cancelled = True

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def when(self) -> float:
        """The time of a timer."""
        return self._when


class Task(asyncio.Task[Result]):
    """A task whose hash does not depend on its address: sets of tasks have the same order in every run."""

    def __init__(
        self, coro: Coroutine[Any, Any, Result], number: int, loop: Loop, name: str | None, context: Context | None
    ) -> None:
        self.number = number
        self.parent = asyncio.current_task(loop)
        self.process = process = context[current] if context is not None else current.get()
        self.born_thaws = process.thaws
        super().__init__(coro, loop=cast(Any, loop), name=name or f"task-{number}", context=context)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class Loop(asyncio.AbstractEventLoop):
    """See the module. One schedule per loop."""

    def __init__(self, random: Random, *, shuffle: bool = False, trace: Callable[[str], None] | None = None) -> None:
        self.random = random
        self._draw = random.random
        self._shuffle = shuffle
        self._now = 0.0
        self._timers: list[tuple[float, int, Handle]] = []
        self._count = 0
        self._runnable: list[Process] = []
        self._errors: list[str] = []
        self._trace = trace
        self._all: list[Task[Any]] = []
        """All tasks ever started: the garbage collector must not unwind what a killed process left."""
        self._abandoned = False
        self.world = Process("world")
        self._worldly = _context_of(self.world)
        self.handled = 0
        """Callbacks run so far."""
        self.digest = 0
        """Of all that `note` was told, and of the number of callbacks between: the schedule's fingerprint."""

    # --- what the simulation sees ---

    def note(self, text: str) -> None:
        """A line of the schedule's story."""
        self.digest = hash((self.digest, self.handled, self._now, crc32(text.encode())))
        if self._trace is not None:
            self._trace(f"{self._now:10.4f} {self.handled:6d}  {text}")

    @property
    def tracing(self) -> bool:
        """Whether anybody reads the lines: what costs time to tell is told only then."""
        return self._trace is not None

    def in_process(self, process: Process, callback: Callable[[*Args], object], *args: *Args) -> Handle:
        """Has the callback run in that process, soon."""
        return self._soon(process, callback, args, _context_of(process))

    def at_world(self, delay: float, callback: Callable[[*Args], object], *args: *Args) -> Handle:
        """Has the world call it after so many seconds, whatever happens to who asked."""
        return self._later(self.world, delay, callback, args, self._worldly)

    def kill(self, process: Process) -> None:
        """None of its callbacks runs any more."""
        process.dead = True
        process.ready.clear()
        if process in self._runnable:
            self._runnable.remove(process)

    def freeze(self, process: Process) -> None:
        """Its callbacks wait for the thaw."""
        process.frozen = True
        if process in self._runnable:
            self._runnable.remove(process)

    def thaw(self, process: Process) -> None:
        """It goes on; for it no time has passed, but its clocks say so."""
        if not process.frozen or process.dead:
            return
        process.frozen = False
        process.thaws += 1
        if process.ready:
            self._runnable.append(process)

    def drive(self, main: Coroutine[Any, Any, Result], limit: int) -> Result:
        """Runs until the coroutine, which belongs to the world, has ended. `limit` is of callbacks.

        Raises SimulationError where nothing is left to run, and where it takes more than the limit.
        """
        asyncio._set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._finalize)
        try:
            task = _context_of(self.world).run(self.create_task, main)
            self._run(task, limit)
            return task.result()
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)

    def stacks(self) -> str:
        """Where every task of every living process waits."""
        told = []
        for task in sorted((t for t in asyncio.all_tasks(self)), key=hash):
            assert isinstance(task, Task)
            if not task.process.dead:
                lines = [f"  {name.rpartition('/')[2]}:{line} {where}" for name, line, where in _frames(task)]
                told.append("\n".join([f"{task.process.name} {task.get_name()}", *lines]))
        return "\n".join(told)

    def abandon(self) -> None:
        """Unwinds what killed processes (and all others) left, so that nothing of it runs later or is told of."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # some coroutines have not been begun
            self._abandon()

    def _abandon(self) -> None:
        for handle in [h for _, _, h in self._timers]:
            handle.cancel()
        self._timers.clear()
        self._abandoned = True
        hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
        asyncio._set_running_loop(self)
        try:
            for task in self._all:
                task.process.dead = True
                task.process.ready.clear()
            unwind = _context_of(self.world)
            for task in self._all:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    unwind.run(_close, task)
            self._all.clear()
        finally:
            asyncio._set_running_loop(None)
            sys.unraisablehook = hook

    # --- inside ---

    def _run(self, task: asyncio.Task[Any], limit: int) -> None:
        """Callback by callback. In one piece, since it is what a schedule's time is spent with."""
        runnable, draw, shuffle, done, errors = self._runnable, self._draw, self._shuffle, task.done, self._errors
        while not done():
            if not runnable:
                self._advance()
                continue
            at = int(draw() * len(runnable)) if len(runnable) > 1 else 0
            process = runnable[at]
            ready = process.ready
            if shuffle and len(ready) > 1:
                ready.rotate(-int(draw() * len(ready)))
            handle = ready.popleft()
            if not ready:
                del runnable[at]
            if handle._cancelled:
                continue
            self.handled += 1
            process.steps += 1
            handle._context.run(handle._callback, *handle._args)
            if process.steps == process.trip_at:
                process.trip()
            if errors:
                raise SimulationError("; ".join(errors))
            if self.handled > limit:
                raise SimulationError(f"no end after {limit} callbacks\n{self.stacks()}")

    def _advance(self) -> None:
        timers = self._timers
        while timers and (timers[0][2]._cancelled or timers[0][2].process.dead):
            heapq.heappop(timers)
        if not timers:
            raise SimulationError(f"nothing is left to run\n{self.stacks()}")
        now = self._now = max(self._now, timers[0][0])
        pop, enqueue = heapq.heappop, self._enqueue
        while timers and timers[0][0] <= now:
            handle = pop(timers)[2]
            if not handle._cancelled:
                enqueue(handle)

    def _enqueue(self, handle: Handle) -> None:
        process = handle.process
        if process.dead:
            return
        if not process.ready and not process.frozen:
            self._runnable.append(process)
        process.ready.append(handle)

    def _soon(
        self, process: Process, callback: Callable[..., object], args: tuple[object, ...], context: Context
    ) -> Handle:
        handle = Handle(process, callback, args, context, 0.0)
        if not process.dead:  # as `_enqueue`, without the call
            ready = process.ready
            if not ready and not process.frozen:
                self._runnable.append(process)
            ready.append(handle)
        return handle

    def _later(
        self,
        process: Process,
        delay: float,
        callback: Callable[..., object],
        args: tuple[object, ...],
        context: Context,
    ) -> Handle:
        handle = Handle(process, callback, args, context, self._now + delay)
        self._count += 1
        heapq.heappush(self._timers, (handle._when, self._count, handle))
        return handle

    def _finalize(self, agen: AsyncGenerator[Any, Any]) -> None:
        if not self._abandoned and not current.get().dead:
            self.create_task(agen.aclose())

    # --- asyncio's interface ---

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        if context is None:
            context = copy_context()
        return self._soon(context[current], callback, args, context)

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        if context is None:
            context = copy_context()
        return self._later(context[current], delay, callback, args, context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_later(when - self._now, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]  # without coroutines that are only generators
        self, coro: Coroutine[Any, Any, Result], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Result]:
        if self._abandoned:
            coro.close()
            never = self.create_future()
            never.cancel()
            return cast("asyncio.Task[Result]", never)
        self._count += 1
        task = Task(coro, self._count, self, name, context)
        self._all.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        future = self.create_future()
        future.set_result(func(*args))
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._abandoned or current.get(self.world).dead:
            return
        error = context.get("exception")
        trace = "".join(traceback.format_exception(error)) if error is not None else ""
        self._errors.append(f"{context.get('message')} {trace}")


@functools.cache
def _empty() -> Context:
    return Context()


def _context_of(process: Process) -> Context:
    context = _empty().copy()
    context.run(current.set, process)
    return context


def _frames(task: asyncio.Task[Any]) -> list[tuple[str, int, str]]:
    """The chain of awaits, the outermost first; `Task.get_stack` gives only the first."""
    found = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = (
            getattr(awaited, "cr_frame", None)
            or getattr(awaited, "ag_frame", None)
            or getattr(awaited, "gi_frame", None)
        )
        if frame is None:
            break
        found.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        awaited = (
            getattr(awaited, "cr_await", None)
            or getattr(awaited, "ag_await", None)
            or getattr(awaited, "gi_yieldfrom", None)
        )
    return found


def _close(task: asyncio.Task[Any]) -> None:
    coro = cast(Generator[Any, Any, Any], task.get_coro())
    for _ in range(20):  # a `finally` that awaits takes a round more
        try:
            coro.close()
        except BaseException:  # whatever a killed process would do on its way out does not count
            continue
        return
