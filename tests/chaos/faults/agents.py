"""Agents that die, are told to stop, stand still, come and go, at any moment."""

from __future__ import annotations

import asyncio
import random
import signal
from functools import partial

from tests.chaos.agents import Place
from tests.chaos.faults.base import STOP_SECONDS, UP_SECONDS, Fault, until
from tests.chaos.stage import GUEST, PLACES, NotApplied, Setting, Stage


class OnAgent(Fault):
    """A fault of one agent."""

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.place = draw.choice(PLACES)
        self.takes = frozenset({f"agent {self.place}"})

    async def up(self, stage: Stage) -> None:
        """Waits until an agent runs there. Raises NotApplied."""
        found = stage.agents[self.place]
        if not await until(lambda: found.alive and not found.frozen and found.control.exists(), UP_SECONDS):
            raise NotApplied(f"no agent runs in {self.place}")

    async def dead(self, stage: Stage, number: int, within: float) -> bool:
        """Whether the agent of that number ended in that time."""
        found = stage.agents[self.place]
        return await until(lambda: found.number != number or not found.alive, within)


class KillAgent(OnAgent):
    name = "agent.kill"
    weight = 6.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        # Some are left alone until all is taken over, so that it can be told how long that takes.
        self.hold = draw.choice((0.0, 0.0, 0.0, 2.5 * setting.session))

    async def strike(self, stage: Stage) -> None:
        await self.up(stage)
        if not stage.agents[self.place].signal(signal.SIGKILL):
            raise NotApplied("it had ended")


class KillAllAgents(Fault):
    name = "agent.kill_all"

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.takes = frozenset(f"agent {place}" for place in PLACES)

    async def strike(self, stage: Stage) -> None:
        if not sum(stage.agents[place].signal(signal.SIGKILL) for place in PLACES):
            raise NotApplied("no agent ran")


class TerminateAgent(OnAgent):
    name = "agent.terminate"
    weight = 3.0

    async def strike(self, stage: Stage) -> None:
        await self.up(stage)
        place = stage.agents[self.place]
        number = place.number
        if not place.signal(signal.SIGTERM):
            raise NotApplied("it had ended")
        if not await self.dead(stage, number, STOP_SECONDS):
            stage.record.say(f"{place.agent} did not stop within {STOP_SECONDS:g} s of its SIGTERM")
            place.signal(signal.SIGKILL)


class TerminateAgentTwice(OnAgent):
    name = "agent.terminate_twice"

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.pause = draw.uniform(0.0, 3.0)

    async def strike(self, stage: Stage) -> None:
        await self.up(stage)
        place = stage.agents[self.place]
        number = place.number
        place.signal(signal.SIGTERM)
        await asyncio.sleep(self.pause)
        if place.number != number or not place.signal(signal.SIGTERM):
            return
        if not await self.dead(stage, number, STOP_SECONDS):
            stage.record.say(f"{place.agent} did not stop at its second SIGTERM")
            place.signal(signal.SIGKILL)


class FreezeAgent(OnAgent):
    """Long enough, it is a zombie when it is revived: others own what it believes to own."""

    name = "agent.freeze"
    weight = 4.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.hold = draw.choice((draw.uniform(0.2, setting.session), setting.session * draw.uniform(1.1, 3.0)))
        self._number = 0

    async def strike(self, stage: Stage) -> None:
        await self.up(stage)
        place = stage.agents[self.place]
        self._number = place.number
        if not place.signal(signal.SIGSTOP):
            raise NotApplied("it had ended")

    async def heal(self, stage: Stage) -> None:
        if stage.agents[self.place].number == self._number:
            stage.agents[self.place].signal(signal.SIGCONT)


def _replaced(place: Place, number: int) -> bool:
    return place.number != number


class RollAgents(Fault):
    """A rolling update."""

    name = "agents.roll"
    weight = 1.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.takes = frozenset(f"agent {place}" for place in PLACES)

    async def strike(self, stage: Stage) -> None:
        rolled = 0
        for name in PLACES:
            place = stage.agents[name]
            rolled += place.signal(signal.SIGTERM)
            await until(partial(_replaced, place, place.number), STOP_SECONDS)
            await stage.agents.until_ready([name], 30.0)
        if not rolled:
            raise NotApplied("no agent ran")


class GuestAgent(Fault):
    """One more agent joins, and leaves in order or not."""

    name = "agents.guest"
    weight = 2.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.takes = frozenset({f"agent {GUEST}"})
        self.how = draw.choice(("SIGKILL", "SIGTERM"))
        self.hold = draw.uniform(0.0, 6.0)

    async def strike(self, stage: Stage) -> None:
        stage.agents[GUEST].wanted = True
        if not await stage.agents.until_ready([GUEST], 40.0) and not stage.agents[GUEST].alive:
            raise NotApplied("the guest did not come up")

    async def heal(self, stage: Stage) -> None:
        guest = stage.agents[GUEST]
        guest.wanted = False
        number = guest.number
        guest.signal(signal.Signals[self.how])
        if not await until(lambda: guest.number != number or not guest.alive, STOP_SECONDS):
            guest.signal(signal.SIGKILL)
