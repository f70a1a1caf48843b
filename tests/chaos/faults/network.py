"""Ways between agents and brokers that are cut, lose answers, stall or are slow."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Literal

from tests.chaos.faults.base import REACH_SECONDS, Fault, until_async
from tests.chaos.stage import PLACES, NotApplied, Setting, Stage, blocking
from tests.support.kafka.proxy import Api


class OnNetwork(Fault):
    """A fault of the ways between the brokers and one agent, or all of them."""

    cluster = True

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.places = draw.choice([*((place,) for place in PLACES), PLACES])
        self.takes = frozenset(f"network {place}" for place in self.places)

    async def heal(self, stage: Stage) -> None:
        for place in self.places:
            await blocking(stage.kafka.network(place).heal)


class Cut(OnNetwork):
    """As when a cable is pulled: everything is reset, nothing can be reached."""

    name = "network.cut"
    weight = 3.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.hold = draw.choice((draw.uniform(0.1, 3.0), draw.uniform(3.0, 2.5 * setting.session)))

    async def strike(self, stage: Stage) -> None:
        for place in self.places:
            await blocking(stage.kafka.network(place).cut)


class DropConnections(OnNetwork):
    """All connections are reset, several times."""

    name = "network.drop"
    weight = 2.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.pauses = [draw.uniform(0.05, 1.0) for _ in range(draw.randint(1, 6))]

    async def strike(self, stage: Stage) -> None:
        for pause in self.pauses:
            for place in self.places:
                await blocking(stage.kafka.network(place).drop_connections)
            await asyncio.sleep(pause)


class LoseAnswers(OnNetwork):
    """What the agent asks is done, and it does not hear of it, while all connections stay open."""

    name = "network.half_cut"
    weight = 3.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.direction: Literal["to_client", "to_node"] = draw.choice(("to_client", "to_client", "to_node"))
        self.hold = draw.uniform(0.3, 2.0 * setting.session)

    async def strike(self, stage: Stage) -> None:
        for place in self.places:
            await blocking(partial(stage.kafka.network(place).half_cut, self.direction))


class Stall(OnNetwork):
    """Nothing is carried for a time, and nothing is lost: it all comes late."""

    name = "network.stall"
    weight = 3.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.hold = draw.uniform(0.3, 2.5 * setting.session)

    async def strike(self, stage: Stage) -> None:
        for place in self.places:
            await blocking(stage.kafka.network(place).stall)


class Slow(OnNetwork):
    name = "network.delay"
    weight = 2.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.seconds = draw.choice((0.01, 0.05, 0.2, 0.8))
        self.jitter = self.seconds * draw.uniform(0.0, 2.0)
        self.hold = draw.uniform(2.0, 10.0)

    async def strike(self, stage: Stage) -> None:
        for place in self.places:
            await blocking(partial(stage.kafka.network(place).delay, self.seconds, self.jitter))


class LoseAnswerTo(OnNetwork):
    """One request of a kind reaches its node, and its answer is lost: an unknown outcome of exactly that."""

    name = "network.lose_answer_to"
    weight = 6.0

    def __init__(self, draw: random.Random, setting: Setting) -> None:
        super().__init__(draw, setting)
        self.places = (draw.choice(PLACES),)
        self.takes = frozenset(f"network {place}" for place in self.places)
        kinds = [Api.PRODUCE, Api.FETCH, Api.HEARTBEAT]
        if setting.mode == "exactly_once":
            kinds += [
                Api.END_TXN,
                Api.END_TXN,
                Api.ADD_PARTITIONS_TO_TXN,
                Api.ADD_OFFSETS_TO_TXN,
                Api.TXN_OFFSET_COMMIT,
            ]
        self.after = draw.choice(kinds)
        self.open = draw.choice((True, False))
        """Whether the connection stays open, so that the agent waits for the answer instead of being told."""
        self.hold = draw.uniform(0.5, 2.0 * setting.session) if self.open else 0.0

    async def strike(self, stage: Stage) -> None:
        proxies = list(stage.kafka.network(self.places[0]).proxies.values())
        for proxy in proxies:
            if self.open:
                await blocking(partial(proxy.half_cut, "to_client", after=self.after))
            else:
                await blocking(partial(proxy.drop_connections, after=self.after))

        async def sent() -> bool:
            sights = [await blocking(proxy.look) for proxy in proxies]
            return not all(sight.armed for sight in sights)

        if not await until_async(sent, REACH_SECONDS):
            raise NotApplied(f"no {self.after.name} was sent")
