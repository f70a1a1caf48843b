"""Executions that wait for approval, more than an agent holds at once."""

from __future__ import annotations

import asyncio
import time

import orjson
from confluent_kafka import Consumer

from bench.stage import STILL, Ends, Figures, Stage, Watch, delay, executes, mb, package, stage


async def _approvals(scale: float, *, blind: bool, **settings: object) -> Figures:
    """10,000 executions that ask for approval. `blind`: all are approved at once before any has asked, the newest
    first, and those whose approval is refused again when they ask; else each when it asks, the newest first."""
    count = int(10_000 * scale)
    waits = package(delay(), approval=True)
    async with stage(settings=settings) as house, house.agent() as agent:
        with Watch(agent.pid) as watch, house.reader("events.progress", "events.results") as out:
            before = watch.look()
            await asyncio.to_thread(house.publish, "execute", executes("w", count, waits, requested_by="alice"))
            approve = Approver(house, out, blind=blind)
            waiting = await approve.until_all_that_fit_ask()
            held = watch.look()
            if blind:
                approve.send([f"w-{number}" for number in reversed(range(count))])
            seconds = await approve.until_ended(count)
            after = watch.look()
        assert approve.ends.once(), "an execution ended twice"
        assert approve.ends.statuses == {"completed": count}, approve.ends.statuses
    return {
        "executions": count,
        "waiting_at_once": waiting,
        "seconds_from_approval": round(seconds, 1),
        "refused_approvals": approve.refused,
        "rss_before_mb": mb(before.rss),
        "rss_waiting_mb": mb(held.rss),
        "bytes_per_waiting": round((held.rss - before.rss) / max(1, waiting)),
        "rss_peak_mb": mb(watch.peak),
        "rss_after_mb": mb(after.rss),
        "curve": watch.drawn(),
    }


class Approver:
    """Reads what executions ask, and answers."""

    def __init__(self, house: Stage, out: Consumer, *, blind: bool) -> None:
        self._house = house
        self._out = out
        self._blind = blind
        self.asked: list[str] = []
        self.refused = 0
        self.ends = Ends()
        self._refused: set[str] = set()
        self._open: set[str] = set()

    def send(self, names: list[str]) -> None:
        """Approves these, in this order."""
        body = {"action": "approve", "requested_by": "bob"}
        self._house.publish("control", ((name, {"execution_id": name, **body}) for name in names))

    async def _read(self) -> bool:
        messages = [m for m in await asyncio.to_thread(self._out.consume, 1000, 0.2) if m.error() is None]
        for message in messages:
            if message.topic().endswith("results"):
                self.ends.add([message])
            elif b"awaiting_approval" in message.value():
                event = orjson.loads(message.value())
                if event["type"] == "wpk.execution.awaiting_approval.v1":
                    self.asked.append(event["subject"])
                    self._open.add(event["subject"])
            elif b"wpk.command.rejected.v1" in message.value():
                self.refused += 1
                self._refused.add(orjson.loads(message.value())["subject"])
        return bool(messages)

    async def until_all_that_fit_ask(self) -> int:
        """Until no more ask; how many do."""
        moved = time.monotonic()
        while time.monotonic() - moved < 5.0:
            if await self._read():
                moved = time.monotonic()
        return len(self.asked)

    async def until_ended(self, count: int) -> float:
        """Until all have ended, answering all that ask (`blind`: those that were refused); the seconds."""
        began = moved = time.monotonic()
        while len(self.ends.times) < count:
            answer = [n for n in reversed(self.asked) if n in self._open and (not self._blind or n in self._refused)]
            if answer:
                self._open.difference_update(answer)
                await asyncio.to_thread(self.send, answer)
            if await self._read():
                moved = time.monotonic()
            elif time.monotonic() - moved > STILL:
                raise TimeoutError(f"{len(self.ends.times)} of {count} have ended, none in the last {STILL:g} s")
        return time.monotonic() - began


async def asked(scale: float) -> Figures:
    """10,000 wait for approval, under the default limit of 1,000: the rest waits on the topic."""
    return await _approvals(scale, blind=False)


async def blind(scale: float) -> Figures:
    """The same, and all approvals are sent at once, the newest first: most come before their execution is known."""
    return await _approvals(scale, blind=True)


async def waiting(scale: float) -> Figures:
    """10,000 wait for approval at once: WPK_MAX_WAITING=10000."""
    return await _approvals(scale, blind=False, WPK_MAX_WAITING=max(1, int(10_000 * scale)))
