"""The order of steps: a sequence, or a graph as soon as one step has `needs`.

In a sequence a step waits until the one before it is settled: it succeeded, was skipped, or failed with
`on_failure: continue`. In a graph a step waits until all it needs have succeeded; where one of them can't succeed any
more (it failed, was skipped or cancelled), the step is to be skipped, and so is what needs that step in turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from schemas.failure import Problem
from schemas.problems import did_you_mean, shown
from schemas.wpk import Handler

Outcome = Literal["running", "succeeded", "failed", "skipped", "cancelled"]
"""Where a step is; one that has none of these has not begun."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A step that can't start any more."""

    name: str
    need: str
    """The step it needs that did not succeed."""


@dataclass(frozen=True, slots=True)
class Next:
    """What follows from where the steps are; both in the order of the list."""

    start: tuple[str, ...] = ()
    skip: tuple[Skip, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Which step waits for which. With problems it is no order: then only `problems` means something."""

    order: tuple[str, ...]
    """The steps as the list has them."""
    sequence: bool
    """True: each step waits for the one before it."""
    needs: Mapping[str, tuple[str, ...]]
    """What each step waits for directly; in a sequence the one before it."""
    continues: frozenset[str] = frozenset()
    """The steps whose failure does not stop the others."""
    problems: tuple[Problem, ...] = field(default=())
    """Duplicates, unknown names, cycles; paths are inside the list: `[2].needs[0]`."""

    def ready(self, outcomes: Mapping[str, Outcome]) -> Next:
        """What may start now, and what can't start any more, given where each step is. Pure: it may be asked again."""
        if self.sequence:
            return self._ready_in_sequence(outcomes)
        skipped: dict[str, str] = {}
        start: set[str] = set()
        for name in self.topological:
            if name in outcomes:
                continue
            lost = next((need for need in self.needs[name] if need in skipped or _lost(outcomes.get(need))), None)
            if lost is not None:
                skipped[name] = lost
            elif all(outcomes.get(need) == "succeeded" for need in self.needs[name]):
                start.add(name)
        return Next(
            start=tuple(name for name in self.order if name in start),
            skip=tuple(Skip(name, skipped[name]) for name in self.order if name in skipped),
        )

    def _ready_in_sequence(self, outcomes: Mapping[str, Outcome]) -> Next:
        for name in self.order:
            outcome = outcomes.get(name)
            if outcome is None:
                return Next(start=(name,))
            if outcome in ("running", "cancelled") or (outcome == "failed" and name not in self.continues):
                return Next()
        return Next()

    def ancestors(self, name: str) -> frozenset[str]:
        """The steps that are certainly over when that step begins; only their output may be named in it."""
        if self.sequence:
            return frozenset(self.order[: self._position[name]])
        found: set[str] = set()
        pending = list(self.needs.get(name, ()))
        while pending:
            need = pending.pop()
            if need not in found:
                found.add(need)
                pending.extend(self.needs.get(need, ()))
        return frozenset(found)

    @cached_property
    def topological(self) -> tuple[str, ...]:
        """Every step after all it needs; among those that are free, in the order of the list."""
        return _topological(self.order, self.needs)

    @cached_property
    def _position(self) -> Mapping[str, int]:
        return {name: index for index, name in reversed(list(enumerate(self.order)))}


def _lost(outcome: Outcome | None) -> bool:
    return outcome in ("failed", "skipped", "cancelled")


def build(handlers: Sequence[Handler]) -> Graph:
    """The order of the steps, with all that is wrong with it in `problems`. Never raises."""
    order = tuple(handler.name for handler in handlers)
    sequence = not any(handler.needs for handler in handlers)
    problems = [*_duplicates(order), *_bad_needs(handlers)]
    needs: dict[str, tuple[str, ...]] = {}
    for index, handler in enumerate(handlers):
        before = order[index - 1 : index] if index else ()
        needs.setdefault(handler.name, before if sequence else tuple(dict.fromkeys(handler.needs)))
    if not problems:
        problems += _cycles(order, needs)
    return Graph(
        order=order,
        sequence=sequence,
        needs=needs,
        continues=frozenset(handler.name for handler in handlers if handler.on_failure == "continue"),
        problems=tuple(problems),
    )


def _duplicates(order: Sequence[str]) -> Iterable[Problem]:
    first: dict[str, int] = {}
    for index, name in enumerate(order):
        if first.setdefault(name, index) != index:
            message = f"{shown(name)} is already the name of step [{first[name]}]; each step needs its own"
            yield Problem(path=f"[{index}].name", message=message)


def _bad_needs(handlers: Sequence[Handler]) -> Iterable[Problem]:
    names = {handler.name for handler in handlers}
    for index, handler in enumerate(handlers):
        for number, need in enumerate(handler.needs):
            path = f"[{index}].needs[{number}]"
            if need == handler.name:
                yield Problem(path=path, message=f"{shown(need)} can't need itself")
            elif need not in names:
                yield Problem(path=path, message=f"{shown(need)} is no step{did_you_mean(need, names)}")


def _cycles(order: Sequence[str], needs: Mapping[str, Sequence[str]]) -> Iterable[Problem]:
    """One problem for each cycle that is left when all that can run has run and the cycles found before are cut."""
    left = set(order) - set(_topological(order, needs))
    while left:
        cycle = _a_cycle(next(name for name in order if name in left), needs, left)
        first = min(cycle, key=order.index)
        at = cycle.index(first)
        cycle = cycle[at:] + cycle[:at]
        need = cycle[1 % len(cycle)]
        path = f"[{order.index(first)}].needs[{list(needs[first]).index(need)}]"
        chain = " → ".join([*cycle, first] if len(cycle) <= 10 else [*cycle[:9], "…", cycle[-1], first])
        yield Problem(path=path, message=f"the steps wait for each other: {chain}; remove one of these needs")
        left -= set(cycle)
        # What only waited for that cycle is not a cycle itself.
        inner = {name: [need for need in needs[name] if need in left] for name in left}
        left -= set(_topological([name for name in order if name in left], inner))


def _a_cycle(start: str, needs: Mapping[str, Sequence[str]], among: set[str]) -> list[str]:
    """Follows needs that can't be satisfied until a step comes up again."""
    walked: dict[str, int] = {}
    path: list[str] = []
    name = start
    while name not in walked:
        walked[name] = len(path)
        path.append(name)
        name = next(need for need in needs[name] if need in among)
    return path[walked[name] :]


def _topological(order: Sequence[str], needs: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Kahn's algorithm; steps of a cycle, and those behind one, are left out."""
    position = {name: index for index, name in enumerate(order)}
    waiting = {name: len(set(needs[name])) for name in order}
    dependents: dict[str, list[str]] = {name: [] for name in order}
    for name in position:
        for need in set(needs[name]):
            dependents[need].append(name)
    free = [position[name] for name in position if not waiting[name]]
    heapq.heapify(free)
    out: list[str] = []
    while free:
        name = order[heapq.heappop(free)]
        out.append(name)
        for dependent in dependents[name]:
            waiting[dependent] -= 1
            if not waiting[dependent]:
                heapq.heappush(free, position[dependent])
    return tuple(out)
