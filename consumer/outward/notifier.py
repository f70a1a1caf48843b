"""Tells of the ends of executions: reads the results topic in a group of its own, and sends what is to be sent.

It is beside the executions: nothing waits for it. A result counts as told when each of its notices was taken, or was
given up; only then its offset is committed, so that an agent that is killed tells it again, under the same ids.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

import structlog

from consumer import tasks
from consumer.errors import PermanentError, TemporaryError
from consumer.journal.connection import explain
from consumer.journal.feed import Feed, Place
from consumer.outward.sending import Sender, address_kind
from consumer.telemetry.metrics import Metrics
from consumer.workflow import alerts
from consumer.workflow.alerts import Notice
from schemas.events import EventError, PlannedAlert, decode

_log = structlog.get_logger(__name__)
#: Between two tries to send: the shortest and the longest pause (seconds), of which half is drawn.
_PAUSES = (1.0, 60.0)
#: Results that wait to be told, at most; then reading waits.
_MOST = 500
#: Notices that are being sent to one receiver at the same moment.
_AT_ONCE = 4
#: A result that is older is not told any more (seconds): a new group begins with the oldest record of the topic.
_TOO_OLD = 24 * 3600.0
_AGAIN_SECONDS = 5.0

Opener = Callable[[Callable[[Iterable[int]], None]], AbstractAsyncContextManager[Feed]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How it is done."""

    own: Sequence[PlannedAlert] = ()
    """Alerts of the agent itself, for all executions."""
    give_up: float = 3600.0
    """How long one notice is tried again (seconds)."""


class Notifier:
    """See the module. `run` lasts until it is cancelled."""

    def __init__(self, open_feed: Opener, sender: Sender, options: Options, metrics: Metrics) -> None:
        self._open_feed = open_feed
        self._sender = sender
        self._options = options
        self._metrics = metrics
        self._receivers: WeakValueDictionary[tuple[str, ...], asyncio.Semaphore] = WeakValueDictionary()
        """The turns of each receiver, so that a slow one holds up no other; kept while somebody waits for one."""
        self._tasks: dict[Place, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Reads and tells. What goes wrong is logged, and it begins again: it never ends the agent."""
        while True:
            try:
                async with self._reading() as feed:
                    while True:
                        await self._round(feed)
            except Exception as error:
                reason = f"{type(error).__name__}: {explain(error)}"[:300]
                _log.warning("notices.interrupted", reason=reason, retry_in=_AGAIN_SECONDS)
            await asyncio.sleep(_AGAIN_SECONDS)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Feed]:
        async with self._open_feed(self._lost) as feed:
            try:
                yield feed
            finally:
                await tasks.cancel_and_wait(*self._tasks.values())
                self._tasks.clear()

    def _lost(self, partitions: Iterable[int]) -> None:
        """Their next reader is given what was not done."""
        gone = set(partitions)
        for place, task in self._tasks.items():
            if place[0] in gone:
                task.cancel()

    async def _round(self, feed: Feed) -> None:
        for place, value, at in await feed.poll(more=len(self._tasks) < _MOST):
            notices = self._notices(value, at)
            if notices:
                task = asyncio.create_task(self._tell(feed, place, notices))
                self._tasks[place] = task
                task.add_done_callback(partial(self._over, place))
            else:
                feed.done(place)
        await feed.commit()

    def _over(self, place: Place, task: asyncio.Task[None]) -> None:
        if self._tasks.get(place) is task:
            del self._tasks[place]

    def _notices(self, value: bytes, at: float) -> list[Notice]:
        if time.time() - at > _TOO_OLD:
            return []
        try:
            return list(alerts.of_result(decode(value), self._options.own))
        except EventError:
            return []  # the topics are open to others

    async def _tell(self, feed: Feed, place: Place, notices: Sequence[Notice]) -> None:
        """Returns when all are sent or given up."""
        async with asyncio.TaskGroup() as group:
            for notice in notices:
                group.create_task(self._deliver(notice))
        feed.done(place)

    async def _deliver(self, notice: Notice) -> None:
        until, pause, tries = time.monotonic() + self._options.give_up, _PAUSES[0], 0
        turns = self._receivers.setdefault(notice.alert.to, asyncio.Semaphore(_AT_ONCE))
        while True:
            tries += 1
            try:
                async with turns:
                    await self._sender.send(notice)
            except TemporaryError as error:
                wait = max(pause * random.uniform(0.5, 1.0), error.delay or 0.0)  # noqa: S311 - spreads tries, protects nothing
                if time.monotonic() + wait > until:
                    return self._ended(notice, "failed", tries, f"given up: {error.code}")
                pause = min(2 * pause, _PAUSES[1])
                await asyncio.sleep(wait)
            except PermanentError as error:
                outcome = "refused" if error.code == "address_blocked" else "failed"
                return self._ended(notice, outcome, tries, _safe(error))
            except Exception as error:
                _log.exception("notice.crashed", notice=notice.id)
                return self._ended(notice, "failed", tries, type(error).__name__)
            else:
                return self._ended(notice, "sent", tries, None)

    def _ended(self, notice: Notice, outcome: str, tries: int, reason: str | None) -> None:
        self._metrics.notice(notice.alert.type, outcome)
        tell = _log.info if outcome == "sent" else _log.warning
        tell(
            f"notice.{outcome}",
            notice=notice.id,
            execution=notice.summary["execution_id"],
            to=address_kind(notice.alert),
            tries=tries,
            **({"reason": reason} if reason else {}),
        )


def _safe(error: PermanentError) -> str:
    """An address may be a secret itself, and messages of the transport name it."""
    return str(error) if error.code in ("http_status", "mail", "no_value") else error.code
