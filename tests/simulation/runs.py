"""Many schedules in one process, cheaply, and what is told of those that failed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

from tests.simulation import environment, plan, world
from tests.simulation.plan import Mode, Plan
from tests.simulation.world import Verdict

MODES: tuple[Mode, ...] = get_args(Mode)
_CHUNK = 50


@dataclass(frozen=True, slots=True)
class Chunk:
    """Schedules that one process runs after each other."""

    mode: Mode
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Report:
    """What came of them."""

    count: int
    failures: tuple[str, ...]


def chunks(first: int, last: int, modes: tuple[Mode, ...]) -> Iterator[Chunk]:
    """The seeds in portions."""
    for at in range(first, last, _CHUNK):
        for mode in modes:
            yield Chunk(mode, at, min(last, at + _CHUNK))


def run_chunk(chunk: Chunk) -> Report:
    """Runs a portion."""
    found = many(range(chunk.first, chunk.last), chunk.mode)
    return Report(len(found), tuple(told(verdict) for verdict in found if verdict.violations))


def many(seeds: range, mode: Mode) -> list[Verdict]:
    """What came of the schedules of those seeds."""
    return list(verdicts(seeds, mode))


def verdicts(seeds: range, mode: Mode) -> Iterator[Verdict]:
    """The schedules one after the other. The garbage collector runs between them only, over what they left only."""
    collecting = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        with environment.installed():
            for number, seed in enumerate(seeds, 1):
                yield _one(seed, mode)
                if number % 10 == 0:
                    gc.collect()
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()


def one(
    seed: int, mode: Mode, trace: Callable[[str], None] | None = None, change: Callable[[Plan], Plan] | None = None
) -> Verdict:
    """One schedule; with `change` in other circumstances than those that were drawn."""
    with environment.installed():
        return _one(seed, mode, trace, change)


def _one(
    seed: int, mode: Mode, trace: Callable[[str], None] | None = None, change: Callable[[Plan], Plan] | None = None
) -> Verdict:
    drawn = plan.draw(seed, mode)
    try:
        return world.run(drawn if change is None else change(drawn), trace)
    except Exception as error:
        error.add_note(again(seed, mode))
        raise


def told(verdict: Verdict) -> str:
    """A failure, and how to see it again."""
    return "\n".join([again(verdict.plan.seed, verdict.plan.mode), *(f"  {each}" for each in verdict.violations)])


def again(seed: int, mode: Mode) -> str:
    """The command that runs it again."""
    return f"python -m tests.simulation --mode {mode} --seed {seed} --trace"
