"""The kinds of workflows and commands that the load consists of, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.marks import SHELL_MARK
from tests.chaos.published import Plan

Json = dict[str, Any]
EXECUTE, ROLLBACK, CONTROL = "commands.execute", "commands.rollback", "commands.control"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A record to be published."""

    role: str
    body: Json | bytes
    key: str | None
    answers: tuple[str, ...]
    """See `published.Command`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """A record to be published when something has happened to the execution."""

    event: str
    """An event's name; `result` is the end of the run."""
    step: str | None = None
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One execution with all that its user sends."""

    plan: Plan
    messages: tuple[Message, ...]
    follow_ups: tuple[FollowUp, ...] = ()


@dataclass(slots=True)
class Draw:
    """What a kind draws from."""

    random: random.Random
    number: int
    marks: Path
    shells: float
    """The share of steps that are processes."""
    pace: float = 1.0
    """Makes all steps longer or shorter."""
    kind: str = ""
    _steps: int = field(default=0)

    @property
    def execution_id(self) -> str:
        return f"{self.kind}-{self.number}"

    def seconds(self, least: float = 0.0, most: float = 0.4) -> float:
        """How long a step takes."""
        return round(self.random.uniform(least, most) * self.pace, 3)

    def step(
        self,
        name: str,
        *,
        seconds: float | None = None,
        shell: bool | None = None,
        fail: int = 0,
        repeatable: bool = False,
        capture: bool = False,
        lines: int = 0,
        **more: Any,
    ) -> Json:
        """A step that leaves a mark; its first `fail` attempts fail. Only a `mark` step is repeatable by itself."""
        seconds = self.seconds() if seconds is None else seconds
        by_itself = repeatable or capture
        if shell is None:
            shell = not by_itself and self.random.random() < self.shells
        if shell:
            command = f"set -e; {SHELL_MARK.format(file=self.marks)}; sleep {seconds}"
            if lines:
                command += f"; seq {lines}"
            if fail:
                command += f'; [ "$WPK_ATTEMPT" -gt {fail} ]'
            return {"name": name, "type": "shell", "config": {"command": command}, **more}
        config: Json = {"file": str(self.marks), "seconds": seconds}
        config |= {"fail_attempts": fail} if fail else {}
        config |= {"repeatable": True} if repeatable else {}
        config |= {"capture": True} if capture else {}
        config |= {"lines": lines} if lines else {}
        return {"name": name, "type": "mark", "config": config, **more}

    def chain(self, least: int = 1, most: int = 4, **more: Any) -> list[Json]:
        """Steps one after the other."""
        return [self.step(f"s{number}", **more) for number in range(1, self.random.randint(least, most) + 1)]

    def package(self, *handlers: Json, **spec: Any) -> Json:
        return {
            "apiVersion": "v1",
            "kind": "WorkflowPackage",
            "metadata": {"name": f"chaos-{self.kind.replace('_', '-')}", "version": "1.0.0"},
            "spec": {"handlers": list(handlers), **spec},
        }

    def execute(self, package: Json, *, answers: tuple[str, ...] = ("accepted",), **more: Any) -> Message:
        """An execute command; the id is in its key, in its body, or in both."""
        body: Json = {"wpk_content": package, "requested_by": "alice", **more}
        where = self.random.randrange(4)
        if where:
            body["execution_id"] = self.execution_id
        if where == 3:
            body = {"specversion": "1.0", "id": "1", "source": "/chaos", "type": "chaos", "data": body}
        return Message(role=EXECUTE, body=body, key=self.execution_id, answers=answers)

    def control(self, action: str, *answers: str) -> Message:
        # Who asks tells which command it was, also where the answer does not say where the command lay.
        body = {"execution_id": self.execution_id, "action": action, "requested_by": f"{action}-{self.number}"}
        return Message(role=CONTROL, body=body, key=self.execution_id, answers=answers)

    def rollback(self, *answers: str, **more: Any) -> Message:
        body = {"execution_id": self.execution_id, "requested_by": f"undo-{self.number}", **more}
        return Message(role=ROLLBACK, body=body, key=self.execution_id, answers=answers)

    def drawn(
        self,
        package: Json,
        *messages: Message,
        statuses: tuple[str, ...] = ("completed",),
        interrupted: tuple[str, ...] = ("failed",),
        follow_ups: tuple[FollowUp, ...] = (),
        **more: Any,
    ) -> Drawn:
        """The whole; without messages it is one execute command."""
        plan = Plan(
            number=self.number,
            kind=self.kind,
            execution_id=self.execution_id,
            package=package,
            statuses=statuses,
            interrupted=interrupted,
            **more,
        )
        return Drawn(plan=plan, messages=messages or (self.execute(package),), follow_ups=follow_ups)


Kind = Callable[[Draw], Drawn]
KINDS: dict[str, tuple[Kind, float]] = {}


def kind(weight: float) -> Callable[[Kind], Kind]:
    """Makes the function one of the kinds."""

    def register(function: Kind) -> Kind:
        KINDS[function.__name__] = (function, weight)
        return function

    return register


def draw(number: int, seed: int, marks: Path, *, shells: float = 0.2, pace: float = 1.0) -> Drawn:
    """The execution of that number: a function of number and seed."""
    source = random.Random(f"{seed}/{number}")
    names = list(KINDS)
    name = source.choices(names, [KINDS[each][1] for each in names])[0]
    return KINDS[name][0](Draw(source, number, marks, shells, pace, kind=name))
