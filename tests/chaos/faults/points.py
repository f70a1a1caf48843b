"""Agents that die, stand still or are slow at one exact place of their code; see `tests.chaos.failpoints`."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from typing import ClassVar

from tests.chaos import failpoints
from tests.chaos.agents import Place
from tests.chaos.failpoints import Armed
from tests.chaos.faults.agents import OnAgent
from tests.chaos.faults.base import REACH_SECONDS, STOP_SECONDS, until
from tests.chaos.stage import PLACES, NotApplied, Setting, Stage


def steady_points(setting: Setting) -> list[str]:
    """Places that an agent with work to do reaches all the time."""
    functions = ["flush", "send", "durable", "take", "launch", "effect", "outcome", "results"]
    requests = ["Produce"]
    if setting.mode == "exactly_once":
        functions += ["write", "transaction.begin", "transaction.offsets", "transaction.commit"]
        requests += ["AddPartitionsToTxn", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn"] * 2
    else:
        functions.append("plain_write")
        requests += ["OffsetCommit"] * 2
    if setting.forgets:
        functions += ["sweep"] * 4
    return _moments(functions, requests)


def taking_points(setting: Setting) -> list[str]:
    """Places on the way to a partition."""
    functions = ["assigned", "lane.take_over", "owner.open", "claim", "restore", "offsets", "adopt", "resume"]
    requests = ["JoinGroup", "SyncGroup", "OffsetFetch"]
    if setting.mode == "exactly_once":
        functions.append("writer.start")
        requests += ["InitProducerId", "InitProducerId", "EndTxn", "Produce"]
    else:
        functions.append("plain_writer.start")
        requests += ["OffsetCommit", "Produce"]
    return _moments(functions, requests)


def leaving_points(setting: Setting) -> list[str]:
    """Places on the way out."""
    return _moments(["drain", "drop", "owner.close"], ["LeaveGroup"])


def _moments(functions: Sequence[str], requests: Sequence[str]) -> list[str]:
    found = [f"{name}.{moment}" for name in functions for moment in ("before", "after")]
    found += [f"{name}.{moment}" for name in requests for moment in ("before", "in", "after")]
    assert set(found) <= failpoints.TABLE.keys()
    return found


def reached(place: Place, point: str, after: int) -> bool:
    return any(hit["point"] == point for hit in place.points_hit()[after:])


class AtPoint(OnAgent):
    """An agent that works is hit at one exact place of its code."""

    action: ClassVar[failpoints.Action]

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.point = draw.choice(steady_points(setting))
        self.nth = draw.choice((1, 1, 2, 3, draw.randint(4, 20)))
        self.seconds = 0.0
        self._number = 0

    async def strike(self, stage: Stage) -> None:
        await self.up(stage)
        place = stage.agents[self.place]
        self._number = place.number
        before = len(place.points_hit())
        if not place.order(str(Armed(self.point, self.nth, self.action, self.seconds))):
            raise NotApplied("it does not listen")
        if not await until(lambda: reached(place, self.point, before), REACH_SECONDS):
            place.order("disarm")
            raise NotApplied("the place was not reached")


class KillAtPoint(AtPoint):
    name = "agent.kill_at"
    weight = 10.0
    action = "kill"


class FreezeAtPoint(AtPoint):
    """A zombie that wakes up in the middle of what it was doing."""

    name = "agent.freeze_at"
    weight = 5.0
    action = "stop"

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.hold = setting.session * draw.uniform(1.1, 3.0)

    async def strike(self, stage: Stage) -> None:
        await super().strike(stage)
        stage.agents[self.place].frozen = True

    async def heal(self, stage: Stage) -> None:
        if stage.agents[self.place].number == self._number:
            stage.agents[self.place].signal(signal.SIGCONT)


class BlockAtPoint(AtPoint):
    """Its event loop stands still: no heartbeat, no timeout, nothing."""

    name = "agent.block_at"
    weight = 3.0
    action = "block"

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.seconds = draw.uniform(0.3, 2.5 * setting.session)
        self.hold = self.seconds


class DelayAtPoint(AtPoint):
    """One thing takes long, and all else goes on."""

    name = "agent.delay_at"
    weight = 3.0
    action = "delay"

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.seconds = draw.choice((draw.uniform(0.1, 3.0), draw.uniform(3.0, 18.0)))
        self.hold = self.seconds


class KillWhoTakesOver(OnAgent):
    """An agent is killed, and so is whoever takes its partitions over, while it does."""

    name = "agent.kill_heirs_at"
    weight = 4.0
    action: ClassVar[failpoints.Action] = "kill"

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.takes = frozenset(f"agent {place}" for place in PLACES)
        self.point = draw.choice(taking_points(setting))
        self.nth = draw.choice((1, 1, 2, 3))

    async def strike(self, stage: Stage) -> None:
        await self.up(stage)
        heirs = [stage.agents[place] for place in PLACES if place != self.place]
        before = {heir.name: len(heir.points_hit()) for heir in heirs}
        armed = str(Armed(self.point, self.nth, self.action))
        if not sum(heir.order(armed) for heir in heirs):
            raise NotApplied("there is no heir")
        if not stage.agents[self.place].signal(signal.SIGKILL):
            raise NotApplied("it had ended")
        if not await until(
            lambda: any(reached(heir, self.point, before[heir.name]) for heir in heirs),
            stage.setting.session + REACH_SECONDS,
        ):
            for heir in heirs:
                heir.order("disarm")
            raise NotApplied("the place was not reached (but the agent was killed)")


class FreezeWhoTakesOver(KillWhoTakesOver):
    """An heir stands still in the middle of taking over, until another has done it instead."""

    name = "agent.freeze_heirs_at"
    weight = 3.0
    action = "stop"

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.hold = setting.session * draw.uniform(0.3, 2.5)

    async def heal(self, stage: Stage) -> None:
        for place in PLACES:
            if place != self.place:
                stage.agents[place].order("disarm")
                stage.agents[place].signal(signal.SIGCONT)


class KillAtStart(OnAgent):
    """The next agent of a place dies while it takes its first partitions."""

    name = "agent.kill_newcomer_at"
    weight = 3.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.point = draw.choice(taking_points(setting))
        self.nth = draw.choice((1, 1, 2))
        self.how = draw.choice(("SIGKILL", "SIGTERM"))

    async def strike(self, stage: Stage) -> None:
        await self.up(stage)
        place = stage.agents[self.place]
        before = len(place.points_hit())
        place.armed = [str(Armed(self.point, self.nth, "kill"))]
        if not place.signal(signal.Signals[self.how]):
            raise NotApplied("it had ended")
        if await until(lambda: reached(place, self.point, before), stage.setting.session + 3 * REACH_SECONDS):
            return
        place.armed = []
        place.order("disarm")
        raise NotApplied("the place was not reached (but the agent was ended)")


class KillAtEnd(OnAgent):
    """An agent that stops in order dies on the way."""

    name = "agent.kill_leaver_at"
    weight = 2.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.point = draw.choice(leaving_points(setting))
        self.nth = draw.choice((1, 1, 2))

    async def strike(self, stage: Stage) -> None:
        await self.up(stage)
        place = stage.agents[self.place]
        before, number = len(place.points_hit()), place.number
        place.order(str(Armed(self.point, self.nth, "kill")))
        if not place.signal(signal.SIGTERM):
            raise NotApplied("it had ended")
        if not await self.dead(stage, number, STOP_SECONDS):
            place.signal(signal.SIGKILL)
            raise NotApplied("the place was not reached, and the agent did not stop")
        if not reached(place, self.point, before):
            raise NotApplied("the place was not reached (but the agent was stopped)")
