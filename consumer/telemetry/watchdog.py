"""A watch on the event loop by a thread, since a loop that is blocked can't watch itself.

The thread counts its own turns and not the clock: an agent that is frozen (SIGSTOP, a suspended machine) and goes on
has not hung. It writes straight to stderr, without the locks of the log, which the blocked loop may hold, and only
where stderr takes it. A library that blocks while it keeps the interpreter's lock stops this thread too: then /healthz
gives no answer.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import orjson

#: The exit code where the agent ends itself because a part of it hangs (EX_SOFTWARE of sysexits.h).
HUNG = 70
#: A loop that is blocked for so long has its stacks logged (seconds).
_TELL_SECONDS = 10.0
_TURN_SECONDS = 1.0
_STDERR = 2
#: A pipe that can be written to takes so much at once (POSIX: PIPE_BUF).
_PIECE = 4096
_DEEPEST = 12


def say(event: str, *, form: str = "json", **fields: object) -> None:
    """One line of the log, at once and without a lock; lost where stderr takes nothing."""
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    if form == "json":
        line = orjson.dumps({"time": time, "level": "critical", "event": event, **fields}, default=str)
    else:
        line = f"{time} [critical] {event} {' '.join(f'{name}={value}' for name, value in fields.items())}".encode()
    line += b"\n"
    for at in range(0, len(line), _PIECE):
        _, writable, _ = select.select([], [_STDERR], [], 0.5)
        if not writable:
            return
        os.write(_STDERR, line[at : at + _PIECE])


def end_process(reason: str, form: str = "json") -> None:
    """Ends the process as it is, with the reason as its last line."""
    say("agent.hung", form=form, reason=reason, exit_code=HUNG)
    os._exit(HUNG)


def stacks() -> str:
    """Where each thread is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            trace = "".join(traceback.format_stack(frame)[-_DEEPEST:])
            parts.append(f"thread {names.get(ident, ident)}:\n{trace}")
    return "\n".join(parts)


class Watchdog:
    """Ends the process where its event loop does not `beat` for `limit` seconds, or its stop does not end in time."""

    def __init__(
        self,
        limit: float,
        *,
        end: Callable[[str], None] = end_process,
        tell: Callable[[float, str], None] = lambda seconds, stacks: say(
            "loop.blocked", seconds=seconds, stacks=stacks
        ),
        turn: float = _TURN_SECONDS,
    ) -> None:
        self._limit = limit
        self._end = end
        self._tell = tell
        self._turn = turn
        self._beats = 0
        self._stop_left: float | None = None
        self._closed = threading.Event()

    def beat(self) -> None:
        """The loop turns."""
        self._beats += 1

    async def beat_for_ever(self) -> None:
        """Beats as long as the loop wakes its tasks."""
        while True:
            self.beat()
            await asyncio.sleep(self._turn / 2)

    def stop_within(self, seconds: float) -> None:
        """The agent was told to stop: it must have ended after that time."""
        if self._stop_left is None:
            self._stop_left = seconds

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches while the block lasts."""
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._closed.set()
            thread.join()

    def _watch(self) -> None:
        seen, silent, told = -1, 0.0, False
        while not self._closed.wait(self._turn):
            if self._beats != seen:
                seen, silent, told = self._beats, 0.0, False
            else:
                silent += self._turn
            if silent >= min(_TELL_SECONDS, self._limit / 2) and not told:
                told = True
                self._tell(silent, stacks())
            if silent >= self._limit:
                self._end(f"the event loop was blocked for {silent:g} s (WPK_HANG_TIMEOUT)")
                return
            if self._stop_left is not None:
                self._stop_left -= self._turn
                if self._stop_left <= 0:
                    self._tell(silent, stacks())
                    self._end("the stop did not end within WPK_SHUTDOWN_GRACE")
                    return
