"""What one seed stands for: agents, partitions, commands, faults, and how bad the network is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import orjson
from pydantic import JsonValue

from consumer.ports import CommandTopic, JsonObject
from tests.simulation.network import Weather

Mode = Literal["exactly_once", "at_least_once"]
FaultKind = Literal["crash", "freeze", "cut", "stop"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that befalls an agent."""

    kind: FaultKind
    after_steps: int
    """So many of its callbacks after its start, or after its fault before this one."""
    seconds: float
    """How long it is frozen, cut off, or away before it is started again."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A command that a user publishes."""

    at: float
    topic: CommandTopic
    partition: int
    execution_id: str
    key: bytes | None
    value: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """One schedule."""

    seed: int
    mode: Mode
    partitions: int
    agents: int
    joins: tuple[float, ...]
    """When each agent is started first."""
    shuffle: bool
    latency: float
    slow_marker: float
    write_seconds: float
    """How long an owner waits for a write; a short wait leaves the outcome unknown more often."""
    weather: Weather
    faults: tuple[tuple[Fault, ...], ...]
    """For each agent."""
    compactions: tuple[float, ...]
    skew: tuple[float, ...]
    """How wrong each agent's wall clock is (seconds)."""
    commands: tuple[Sent, ...]
    calm_at: float
    """From then on nothing breaks, and all must come to its end."""
    stop_at_end: bool
    compacts_at_end: bool
    """The cleaner passes once late records can have been mended, which is what min.compaction.lag.ms is for."""
    random: Random = field(repr=False)

    @property
    def disturbed(self) -> bool:
        """Whether requests can be lost or late."""
        return bool(self.weather.total) or any(fault.kind == "cut" for faults in self.faults for fault in faults)


def draw(seed: int, mode: Mode) -> Plan:
    """The plan of a seed."""
    random = Random(f"{mode} {seed}")
    fenced = mode == "exactly_once"
    partitions = 1 if random.random() < 0.7 else 2
    agents = random.choices((1, 2, 3), (25, 60, 15))[0]
    severity = random.choice((0.0, 0.0, 0.02, 0.08))
    weather = Weather(*(severity * random.random() for _ in range(4)))
    commands = _commands(random, partitions)
    return Plan(
        seed=seed,
        mode=mode,
        partitions=partitions,
        agents=agents,
        joins=tuple(0.0 if random.random() < 0.7 else random.uniform(0, 8) for _ in range(agents)),
        shuffle=random.random() < 0.5,
        latency=random.choice((0.002, 0.02, 0.2)),
        slow_marker=random.choice((0.005, 0.05, 1.0)),
        write_seconds=random.choice((3.0, 12.0)),
        weather=weather,
        faults=tuple(_faults(random) for _ in range(agents)),
        # The state topic's min.compaction.lag.ms is longer than a schedule: only with exactly_once nothing rests on it.
        compactions=tuple(random.uniform(0, 25) for _ in range(random.choice((0, 0, 1, 3)) if fenced else 0)),
        skew=tuple(random.choice((0.0, 0.0, -2.0, 3.0)) for _ in range(agents)),
        commands=commands,
        calm_at=max(sent.at for sent in commands) + random.uniform(2, 15),
        stop_at_end=random.random() < 0.25,
        compacts_at_end=random.random() < 0.25,
        random=random,
    )


def _faults(random: Random) -> tuple[Fault, ...]:
    found = []
    for _ in range(random.choices((0, 1, 2), (30, 50, 20))[0]):
        kind: FaultKind = random.choices(("crash", "freeze", "cut", "stop"), (45, 25, 15, 15))[0]
        steps = int(2 ** random.uniform(3, 10.5))
        found.append(Fault(kind, steps, random.choice((0.1, 3.0, 8.0, 20.0)) * random.uniform(0.5, 1.0)))
    return tuple(found)


# --- commands ---


def _commands(random: Random, partitions: int) -> tuple[Sent, ...]:
    found: list[Sent] = []
    for number in range(random.choices((1, 2, 3), (50, 35, 15))[0]):
        found += _about_one(random, f"e{number}", random.randrange(partitions))
    if random.random() < 0.05:
        at = random.uniform(0, 6)
        found.append(Sent(at, CommandTopic.EXECUTE, random.randrange(partitions), "", b"k", b"no JSON at all"))
    return tuple(sorted(found, key=lambda sent: sent.at))


def _about_one(random: Random, name: str, partition: int) -> list[Sent]:
    """An execute command, and what users may send after it (or before)."""
    at = random.uniform(0, 6)
    body: JsonObject = {"execution_id": name, "wpk_content": _package(random), "requested_by": "alice"}
    if random.random() < 0.05:
        body["dry_run"] = True
    if random.random() < 0.05:
        body["timeout"] = "3s"
    if random.random() < 0.03:
        body["wpk_content"] = {"metadata": {"name": "broken"}}

    def sent(topic: CommandTopic, fields: JsonObject, moment: float) -> Sent:
        return Sent(max(0.0, moment), topic, partition, name, name.encode(), orjson.dumps(fields))

    found = [sent(CommandTopic.EXECUTE, body, at)]
    if random.random() < 0.15:
        found.append(sent(CommandTopic.EXECUTE, body, at + random.uniform(0, 8)))
    if random.random() < 0.04:
        found.append(sent(CommandTopic.EXECUTE, {**body, "labels": {"other": "yes"}}, at + random.uniform(0, 4)))
    return found + _steering(random, name, at, sent, waits="safety" in str(body["wpk_content"]))


def _steering(
    random: Random, name: str, at: float, sent: Callable[[CommandTopic, JsonObject, float], Sent], *, waits: bool
) -> list[Sent]:
    """Approvals, cancels and rollbacks; some come too early or twice."""
    found: list[Sent] = []
    control = CommandTopic.CONTROL
    if waits:
        action = random.choice(("approve", "approve", "reject"))
        fields: JsonObject = {"execution_id": name, "action": action, "requested_by": "bob"}
        found.append(sent(control, fields, at + random.uniform(0.5, 8)))
        if random.random() < 0.3:
            found.append(sent(control, fields, at + random.uniform(0.5, 8)))
    if random.random() < 0.25:
        fields = {"execution_id": name, "action": "cancel", "requested_by": "carol"}
        found.append(sent(control, fields, at + random.uniform(-1, 8)))
    if random.random() < 0.25:
        fields = {"execution_id": name, "force": random.random() < 0.5, "requested_by": "dave"}
        found.append(sent(CommandTopic.ROLLBACK, fields, at + random.uniform(0, 12)))
    return found


def _package(random: Random) -> JsonValue:
    count = random.choices((1, 2, 3), (40, 40, 20))[0]
    handlers = [_handler(random, f"s{number}") for number in range(count)]
    if count > 1 and random.random() < 0.3:  # a graph: all but the first at once
        for handler in handlers[1:]:
            handler["needs"] = ["s0"]
    spec: JsonObject = {"handlers": list(handlers)}
    if random.random() < 0.5:
        undo = [_handler(random, "u0")] if random.random() < 0.3 else []
        spec["rollback"] = {"enabled": True, "handlers": list(undo)}
    if random.random() < 0.12:
        spec["safety"] = {"approval_required": True}
    return {
        "apiVersion": "v1",
        "kind": "WorkflowPackage",
        "metadata": {"name": "sim", "version": "1.0.0"},
        "spec": spec,
    }


def _handler(random: Random, name: str) -> JsonObject:
    if random.random() < 0.1:
        duration = random.choice(("0s", "1s", "4s"))
        return {"name": name, "type": "delay", "config": {"duration": duration}}
    config: JsonObject = {"seconds": random.choice((0.0, 0.05, 1.0, 6.0))}
    if random.random() < 0.4:
        config["repeatable"] = True
    if random.random() < 0.4:
        config["capture"] = True
    if random.random() < 0.25:
        config["fail_times"] = random.choice((1, 1, 2, 9))
        config["permanent"] = random.random() < 0.3
    handler: JsonObject = {"name": name, "type": "sim", "config": config}
    if random.random() < 0.3:
        handler["retry"] = {"max_attempts": random.choice((2, 3)), "backoff": "500ms"}
    if random.random() < 0.1:
        handler["on_interrupt"] = random.choice(("retry", "fail"))
    interrupted = handler.get("on_interrupt", "retry" if config.get("repeatable") else "fail")
    config["again"] = interrupted == "retry"
    if random.random() < 0.1:
        handler["timeout"] = "2s"
    if random.random() < 0.1:
        handler["on_failure"] = "continue"
    return handler
