"""What a run comes to: what was struck, what was there, how long a takeover took, what was found wrong."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path

from tests.chaos.agents import Death
from tests.chaos.history import EVENTS, History


@dataclass(slots=True, kw_only=True)
class Takeover:
    """From the kill of an agent to the next step's start on one of its partitions."""

    agent: str
    partition: int
    seconds: float
    alone: bool
    """Whether the kill was the only fault at that time."""


@dataclass(slots=True, kw_only=True)
class Report:
    """All of it, as it is written at the end."""

    seed: int
    mode: str
    nodes: int
    session_seconds: float
    rounds: int = 0
    chapters: int = 0
    seconds: float = 0.0
    struck: Counter[str] = field(default_factory=Counter)
    not_applied: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    """Fail points that were reached while they were armed."""
    executions: int = 0
    commands: int = 0
    events: int = 0
    dead_letters: int = 0
    marks: int = 0
    late_marks: int = 0
    """Effects that an owner still began after it was replaced: it had stood still just before."""
    owners: int = 0
    """Epochs that wrote events."""
    agents: int = 0
    deaths: int = 0
    ended_by_itself: list[str] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)
    """What the agents logged as a warning or worse, by name."""
    takeovers: list[Takeover] = field(default_factory=list)
    violations: list[dict[str, object]] = field(default_factory=list)

    def add(self, history: History) -> None:
        """Counts what lies in the topics."""
        self.events += sum(len(history.records[role, n]) for role in EVENTS for n in range(history.partitions))
        self.dead_letters += sum(len(history.records["dead-letter", n]) for n in range(history.partitions))

    def write(self, file: Path) -> None:
        """As JSON."""
        document = {each.name: getattr(self, each.name) for each in fields(self)}  # asdict would take counters apart
        document["takeovers"] = [asdict(each) for each in self.takeovers]
        document["takeover_seconds"] = {
            "all": summary([each.seconds for each in self.takeovers]),
            "kill_alone": summary([each.seconds for each in self.takeovers if each.alone]),
        }
        for name in ("struck", "not_applied", "points", "warnings"):
            document[name] = dict(getattr(self, name).most_common())
        file.write_text(json.dumps(document, indent=2, default=str) + "\n")

    def lines(self) -> list[str]:
        """For the screen."""
        struck = ", ".join(f"{name} {count}" for name, count in sorted(self.struck.items()))
        missed = ", ".join(f"{name} {count}" for name, count in sorted(self.not_applied.items()))
        lines = [
            f"seed {self.seed}, {self.mode}, {self.nodes} node(s), session {self.session_seconds:g} s: "
            f"{self.rounds} rounds in {self.chapters} chapter(s), {self.seconds:.0f} s",
            f"faults struck: {self.struck.total()} ({struck})",
            f"could not be applied, not counted: {self.not_applied.total()} ({missed})",
            f"fail points reached: {self.points.total()}, {len(self.points)} different ones",
            f"{self.executions} executions, {self.commands} commands, {self.events} events, {self.marks} marks "
            f"({self.late_marks} by owners that had been replaced), "
            f"{self.dead_letters} dead letters",
            f"{self.agents} agents, {self.owners} owners of partitions, {self.deaths} deaths, "
            f"{len(self.ended_by_itself)} of them by itself",
        ]
        for name, chosen in (
            ("with other faults too", self.takeovers),
            ("with no other fault", [each for each in self.takeovers if each.alone]),
        ):
            found = summary([each.seconds for each in chosen])
            if found:
                lines.append(
                    f"from kill -9 to the next step's start on a partition, {name}: median {found['median']:.1f} s, "
                    f"p90 {found['p90']:.1f} s, worst {found['worst']:.1f} s, of {found['count']:.0f}"
                )
        lines.append(f"violations: {len(self.violations)}")
        return lines


def summary(values: Sequence[float]) -> dict[str, float]:
    """Count, median, 90th percentile and worst; empty where there are none."""
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "median": statistics.median(ordered),
        "p90": ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))],
        "worst": ordered[-1],
    }


def takeovers(history: History, kills: Iterable[tuple[Death, bool]]) -> list[Takeover]:
    """How long it took, for each kill and each partition that the agent had, until the next step began there.

    Whose the partition was, the newest epoch before the kill tells. A partition where nothing more was to be done is
    left out; so the load must go on beside. `kills` says of each whether it was the only fault.
    """
    owners: dict[int, dict[int, tuple[str, float]]] = defaultdict(dict)
    starts: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for record in history.of(*EVENTS):
        event = json.loads(record.value or b"")
        at = datetime.fromisoformat(event["time"]).timestamp()
        epoch = event["data"]["attempt_epoch"]
        owners[record.partition].setdefault(epoch, (event["data"]["agent"], at))
        if event["type"] == "wpk.step.started.v1":
            starts[record.partition].append((at, epoch))
    found = []
    for death, alone in kills:
        for partition, epochs in owners.items():
            before = [epoch for epoch, (_, at) in epochs.items() if at <= death.at]
            if not before or epochs[max(before)][0] != death.agent:
                continue
            later = [at for at, epoch in starts[partition] if epoch > max(before) and at > death.at]
            if later:
                seconds = min(later) - death.at
                found.append(Takeover(agent=death.agent, partition=partition, seconds=seconds, alone=alone))
    return found


def owners_in(history: History) -> int:
    """How many epochs wrote events."""
    return len(
        {(record.partition, json.loads(record.value or b"")["data"]["attempt_epoch"]) for record in history.of(*EVENTS)}
    )


def warnings_in(logs: Iterable[Path]) -> Counter[str]:
    """What the agents logged as a warning or worse; what is no JSON (a traceback, a crash) as `?`."""
    found: Counter[str] = Counter()
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                found["?"] += 1
                continue
            if entry.get("level") in ("warning", "error", "critical"):
                found[f"{entry['level']}: {re.sub(r'[0-9]+', '#', str(entry.get('event')))[:70]}"] += 1
    return found
