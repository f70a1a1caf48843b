"""The output of an attempt on its way to the log topic: batched, bounded, with a count of what was dropped."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import groupby

from consumer.engine.execution import Execution
from consumer.engine.trim import plain_text
from consumer.ports import Phase, Stream
from schemas import events
from schemas.events import LogLine

#: A batch is written when it has that many lines or bytes, or when its first line is that old (seconds).
BATCH_LINES = 500
BATCH_BYTES = 64 * 1024
BATCH_AGE = 0.1
_MAX_LINE = 32 * 1024
#: So many batches of one attempt may wait to be written: all others of its partition wait behind them.
_UNDER_WAY = 16


class StepLog:
    """Takes an attempt's lines. What is queued is bounded: `write` waits for the journal, and so does who prints."""

    def __init__(
        self,
        execution: Execution,
        *,
        step: str,
        phase: Phase,
        attempt: int,
        mask: Callable[[str], str],
        max_bytes: int,
    ) -> None:
        self._execution = execution
        self._step, self._phase, self._attempt = step, phase, attempt
        self._mask = mask
        self._left = max_bytes
        self._dropped = 0
        self._lines: list[tuple[Stream, LogLine]] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._under_way: deque[asyncio.Future[None]] = deque()
        self.closed = False
        """Set when the attempt has its end; what comes later is dropped."""

    async def write(self, stream: Stream, text: str) -> None:
        """One line, without its end. Raises OwnershipLost."""
        if self.closed:
            return
        size = len(text) + 48
        if self._left < size:
            self._left = 0
            self._dropped += 1
            return
        self._left -= size
        self._add(stream, self._mask(text), size)
        if len(self._lines) >= BATCH_LINES or self._bytes >= BATCH_BYTES:
            while self._full():
                await asyncio.wait([self._under_way[0]])
            self.publish()
            await self._execution.journal.backlog()

    def note(self, text: str) -> None:
        """A line of the agent's own, which is never dropped."""
        self._add("agent", self._mask(text), len(text))

    def _add(self, stream: Stream, text: str, size: int) -> None:
        text = plain_text(text)
        if len(text) > _MAX_LINE:
            text = f"{text[:_MAX_LINE]} … ({len(text) - _MAX_LINE} characters cut)"
        self._lines.append((stream, LogLine(time=self._execution.now(), text=text)))
        self._bytes += size
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_AGE, self._publish_old)

    def _full(self) -> bool:
        """Whether as many batches wait to be written as may."""
        while self._under_way and self._under_way[0].done():
            self._under_way.popleft()
        return len(self._under_way) >= _UNDER_WAY

    def _publish_old(self) -> None:
        """The first line has waited long enough, unless the journal is behind: then more lines make one batch."""
        if self._full() and self._execution.journal.alive:
            self._timer = asyncio.get_running_loop().call_later(BATCH_AGE, self._publish_old)
        else:
            self.publish()

    def publish(self) -> None:
        """Writes what is gathered. It is durable with the next thing that is awaited: the journal keeps the order."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lines or not self._execution.journal.alive:
            return
        lines, self._lines, self._bytes = self._lines, [], 0
        for stream, group in groupby(lines, key=lambda item: item[0]):
            self._execution.stage(
                events.LogLines(
                    step=self._step,
                    phase=self._phase,
                    attempt=self._attempt,
                    stream=stream,
                    lines=tuple(line for _, line in group),
                )
            )
        self._under_way.append(asyncio.ensure_future(self._execution.flush()))

    def close(self) -> None:
        """Writes the rest, and says how much was dropped."""
        self.closed = True
        if self._dropped:
            self.note(f"{self._dropped} lines of output were dropped: the step wrote more than its log may hold")
            self._dropped = 0
        self.publish()
