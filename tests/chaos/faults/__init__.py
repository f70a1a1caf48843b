"""Every fault that a run may strike with. All that is to be chosen is drawn beforehand, so that a seed tells it all.

A fault is struck, held for a time, and healed. One that could not be applied raises NotApplied: it is not counted.
`takes` names what it breaks; two faults at once never break the same, and so no two brokers are away together.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.faults import agents, brokers, network, points
from tests.chaos.faults.base import Fault
from tests.chaos.stage import Setting

__all__ = ["KINDS", "Fault", "Round", "agents", "brokers", "draw_round", "network", "points"]


def _kinds(base: type[Fault]) -> list[type[Fault]]:
    found = [base] if "name" in vars(base) else []
    for kind in base.__subclasses__():
        found += _kinds(kind)
    return found


#: All that can be drawn.
KINDS: list[type[Fault]] = sorted(
    (kind for base in Fault.__subclasses__() for kind in _kinds(base)), key=lambda kind: kind.name
)


@dataclass(frozen=True, slots=True)
class Round:
    """The faults of one round, each with the seconds after which it strikes, and the pause after them."""

    number: int
    faults: list[tuple[float, Fault]] = field(default_factory=list)
    pause: float = 0.0


def draw_round(seed: int, number: int, setting: Setting, allowed: Callable[[str], bool] = lambda name: True) -> Round:
    """A function of its arguments: each round has random numbers of its own, so that one alone can be drawn again."""
    draw = random.Random(f"{seed}/{number}")
    kinds = [kind for kind in KINDS if allowed(kind.name) and (setting.nodes > 1 or not kind.cluster)]
    weights = [kind.weight for kind in kinds]
    first = draw.choices(kinds, weights)[0](draw, setting)
    faults: list[tuple[float, Fault]] = [(0.0, first)]
    if draw.random() < 0.4:
        for _ in range(10):
            second = draw.choices(kinds, weights)[0](draw, setting)
            if not second.takes & first.takes:
                faults.append((draw.uniform(0.0, 4.0), second))
                break
    return Round(number, faults, pause=draw.choice((0.0, draw.uniform(0.0, 2.0), draw.uniform(1.0, 5.0))))
