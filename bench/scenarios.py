"""All that `make bench` measures, by name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final, Literal

from bench import standing, steps, w3
from bench.figures import Figure
from bench.stage import delay, package
from bench.w3 import Plan

Size = Literal["quick", "normal", "full"]
"""`quick` shows that all works, and its figures are rough; `full` takes much longer than `normal`."""
Scenario = Callable[[Size], Coroutine[None, None, list[Figure]]]
"""Gives its figures."""

_MB_OF_LOG = 32
FAN_OUT: Final = package(delay("begin"), *(delay(f"part-{n}", needs=["begin"]) for n in range(20)))
LARGE: Final = package(delay(), {"name": "big", "type": "delay", "config": {"duration": "0s"}}) | {
    "description": "x" * 500_000
}
LOGS: Final = package(
    {
        "name": "print",
        "type": "shell",
        "config": {"command": f"yes {'x' * 99} | head -c {_MB_OF_LOG << 20}"},
    }
)


def _sized(plan: Plan, size: Size) -> Plan:
    if size != "quick":
        return plan
    return replace(plan, rounds=2, burst=max(1, plan.burst // 5), latencies=plan.latencies // 4)


def _plan(plan: Plan) -> Scenario:
    async def run(size: Size) -> list[Figure]:
        return (await w3.measure(_sized(plan, size)))[0]

    run.__doc__ = f"{plan.title}: {plan.name}"
    return run


async def _guarantees(size: Size) -> list[Figure]:
    """W3 with exactly_once beside at_least_once, on one broker."""
    return await w3.guarantees(_sized(Plan(), size))


async def _shell(size: Size) -> list[Figure]:
    """S1: one /bin/true in the sandbox."""
    return await steps.shell(rounds=2 if size == "quick" else 5)


async def _http(size: Size) -> list[Figure]:
    """H1: one request to a local server."""
    return await steps.http(rounds=2 if size == "quick" else 5)


async def _idle(size: Size) -> list[Figure]:
    """Memory of an agent without work."""
    return await standing.idle()


async def _waiting(size: Size) -> list[Figure]:
    """Memory of executions that wait."""
    return await standing.waiting_memory(10_000 if size == "full" else 5_000)


async def _flat(size: Size) -> list[Figure]:
    """Cost of a run after many."""
    return await standing.flat((0, 10_000, 100_000) if size == "full" else (0, 10_000))


async def _restore(size: Size) -> list[Figure]:
    """Start with 100,000 ended executions in the state."""
    return await standing.restore()


async def _kill(size: Size) -> list[Figure]:
    """From a kill to results again."""
    return await standing.kill(5 if size == "full" else 2)


async def _replay(size: Size) -> list[Figure]:
    """The trail, read and checked."""
    return await standing.replay(50_000 if size == "full" else 5_000)


#: The broker that keeps all in memory slows as small batches pile up: short bursts, few rounds.
_EMBEDDED = Plan(kind="embedded", burst=1_000, rounds=3)
SCENARIOS: Final[dict[str, Scenario]] = {
    "w3": _plan(Plan()),
    "w3-exactly-once": _plan(Plan(guarantee="exactly_once")),
    "guarantees": _guarantees,
    "w3-embedded": _plan(_EMBEDDED),
    "w3-100-partitions": _plan(Plan(partitions=100, rounds=3, latencies=0)),
    "w3-exactly-once-100-partitions": _plan(Plan(partitions=100, guarantee="exactly_once", rounds=3, latencies=0)),
    "w3-2-agents": _plan(Plan(agents=2, rounds=3, latencies=0)),
    "fan-out": _plan(Plan(title="20 parallel steps", content=FAN_OUT, burst=300, rounds=3, latencies=0)),
    "large": _plan(Plan(title="packages of 500 KB", content=LARGE, burst=60, rounds=3, shaped=20, latencies=0)),
    "logs": _plan(
        Plan(
            title="log lines",
            content=LOGS,
            amount=_MB_OF_LOG,
            unit="MB/s",
            burst=1,
            rounds=3,
            shaped=1,
            latencies=0,
        )
    ),
    "s1": _shell,
    "h1": _http,
    "idle": _idle,
    "waiting": _waiting,
    "flat": _flat,
    "restore": _restore,
    "kill": _kill,
    "replay": _replay,
}
