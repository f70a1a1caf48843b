"""The agents of a run and who starts them again: a supervisor as Kubernetes is one, but with less patience lost.

Each place (`a`, `b`, …) holds one agent at a time; whatever it dies of, another process with another name takes its
place after a short pause, as long as the place is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consumer.dev.broker import tied_to_owner
from tests.chaos import agent as entry
from tests.chaos.record import Record
from tests.support.processes import ROOT

_LOOK_SECONDS = 0.05
_RESTART_SECONDS = (0.3, 5.0)
"""The pause before the next agent: at first, and at most where they die at once again and again."""
_LONG_LIFE = 10.0
_READY_SECONDS = 90.0
_END_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Death:
    """The end of an agent."""

    agent: str
    code: int
    at: float
    """By the wall clock."""
    asked: bool
    """Whether a fault is the reason: it was killed, or told to stop."""


@dataclass(slots=True)
class Place:
    """Where one agent runs at a time."""

    name: str
    variables: Mapping[str, str]
    """What all its agents have in their environment."""
    directory: Path
    record: Record
    number: int = 0
    process: subprocess.Popen[bytes] | None = None
    frozen: bool = False
    wanted: bool = False
    asked: bool = False
    """Whether the present agent's end was asked for."""
    armed: list[str] = field(default_factory=list)
    """Fail points that the next agent has from its start."""
    deaths: list[Death] = field(default_factory=list)
    started_at: float = 0.0

    @property
    def agent(self) -> str:
        """The present agent's name; of the last one where none runs."""
        return f"{self.name}-{self.number}"

    @property
    def alive(self) -> bool:
        """Whether an agent runs there, frozen or not."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> Path:
        """The present agent's log."""
        return self.directory / f"{self.agent}.log"

    @property
    def hits(self) -> Path:
        """Where its agents note the fail points they reach."""
        return self.directory / f"{self.name}.hits"

    @property
    def control(self) -> Path:
        """The present agent's control socket."""
        return self.directory / f"{self.name}.sock"

    def start(self) -> None:
        """Starts the next agent."""
        self.number += 1
        self.frozen = self.asked = False
        variables = {
            **self.variables,
            "WPK_AGENT_NAME": self.agent,
            "CHAOS_CONTROL": str(self.control),
            "CHAOS_HITS": str(self.hits),
            "CHAOS_FAIL_POINTS": ",".join(self.armed),
        }
        self.armed.clear()
        self.control.unlink(missing_ok=True)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                tied_to_owner([sys.executable, "-m", "tests.chaos.agent", "agent"]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                cwd=ROOT,
                start_new_session=True,
            )
        self.started_at = time.monotonic()
        self.record.note("agent.started", agent=self.agent, pid=self.process.pid, armed=variables["CHAOS_FAIL_POINTS"])

    def signal(self, number: signal.Signals) -> bool:
        """Sends it; whether there was an agent to get it."""
        if self.process is None or not self.alive:
            return False
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.asked = True
        if number is signal.SIGSTOP:
            self.frozen = True
        elif number is signal.SIGCONT:
            self.frozen = False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        self.record.note("agent.signal", agent=self.agent, signal=number.name)
        return True

    def order(self, text: str) -> bool:
        """Arms a fail point of the present agent; whether it listens."""
        return self.alive and self.control.exists() and entry.order(self.control, text)

    def points_hit(self) -> list[dict[str, Any]]:
        """The fail points that its agents have reached."""
        if not self.hits.exists():
            return []
        return [json.loads(line) for line in self.hits.read_text().splitlines()]

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The lines of the present agent's log about these."""
        found = []
        with contextlib.suppress(OSError):
            for line in self.log.read_text(errors="replace").splitlines():
                if any(name in line for name in names):
                    with contextlib.suppress(json.JSONDecodeError):
                        entry = json.loads(line)
                        if isinstance(entry, dict) and entry.get("event") in names:
                            found.append(entry)
        return found


class Agents:
    """All places. Open it as a context; its tasks start again what dies."""

    def __init__(
        self, names: Sequence[str], variables: Mapping[str, Mapping[str, str]], directory: Path, record: Record
    ) -> None:
        self._record = record
        self.places = {name: Place(name, variables[name], directory, record) for name in names}
        self._tasks: list[asyncio.Task[None]] = []

    def __getitem__(self, name: str) -> Place:
        return self.places[name]

    async def __aenter__(self) -> Agents:
        self._tasks = [
            asyncio.create_task(self._keep(place), name=f"place {place.name}") for place in self.places.values()
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for place in self.places.values():
            place.wanted = False
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for place in self.places.values():
            if place.process is not None:
                place.signal(signal.SIGCONT)
                place.signal(signal.SIGTERM)
        for place in self.places.values():
            if place.process is not None:
                await self._ended(place, 15.0)

    async def _ended(self, place: Place, within: float) -> None:
        assert place.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(place.process.wait, within)
        place.signal(signal.SIGKILL)
        await asyncio.to_thread(place.process.wait)

    async def _keep(self, place: Place) -> None:
        shortest, longest = _RESTART_SECONDS
        pause = shortest
        while True:
            if place.process is not None and not place.alive:
                self._died(place)
                pause = shortest if time.monotonic() - place.started_at > _LONG_LIFE else min(longest, 2 * pause)
                place.process = None
                await asyncio.sleep(pause)
            if place.wanted and place.process is None:
                place.start()
            await asyncio.sleep(_LOOK_SECONDS)

    def _died(self, place: Place) -> None:
        assert place.process is not None
        code = place.process.returncode
        hit = [hit for hit in place.points_hit() if hit["pid"] == place.process.pid]
        asked = place.asked or any(hit["action"] in ("kill", "exit") for hit in hit)
        place.deaths.append(Death(place.agent, code, time.time(), asked))
        self._record.note("agent.died", agent=place.agent, code=code, asked=asked, point=hit[-1:] or None)
        if not asked:
            self._record.say(f"{place.agent} ended by itself with {code}; see {place.log.name}")

    # --- waiting ---

    def want(self, *names: str) -> None:
        """An agent is to run in these places."""
        for name in names:
            self.places[name].wanted = True

    @property
    def deaths(self) -> list[Death]:
        """All ends so far."""
        return [death for place in self.places.values() for death in place.deaths]

    async def until_ready(self, names: Sequence[str], within: float = _READY_SECONDS) -> bool:
        """Whether the agents of those places own what the group gave them, within that time."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if all(self._ready(self.places[name]) for name in names):
                return True
            await asyncio.sleep(0.2)
        return False

    def _ready(self, place: Place) -> bool:
        return place.alive and not place.frozen and bool(place.events("agent.ready"))
