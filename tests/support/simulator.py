"""The engine's loop without asyncio: pure decisions, made durable at once, with a schedule that a test draws.

It does what `engine/runner.py` and `engine/supervisor.py` do with `workflow.*`, and keeps what they keep: the events'
bytes, and the records of the state topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

from consumer.workflow import advance, answers, attempts, program
from consumer.workflow.approvals import ANYBODY, Quorum
from consumer.workflow.attempts import Outcome
from consumer.workflow.program import Program
from schemas import events, snapshot
from schemas.commands import Command, ControlCommand, ExecuteCommand, RollbackCommand
from schemas.events import Event, EventData, Phase, Source, Status
from schemas.execution import ExecutionState, StepStatus, fold, with_undo
from schemas.wpk import WorkflowPackage

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Simulator:
    """One execution, from its command to its end, through changes of owner."""

    package: WorkflowPackage
    now: datetime = START
    epoch: int = 1
    state: ExecutionState | None = None
    trail: list[bytes] = field(default_factory=list)
    states: list[ExecutionState] = field(default_factory=list)
    """The state after each event."""
    topic: dict[str, bytes] = field(default_factory=dict)
    running: dict[tuple[Phase, str], int] = field(default_factory=dict)
    """The attempts at work under the present owner, by step."""
    told_to_stop: set[tuple[Phase, str]] = field(default_factory=set)
    wake_at: datetime | None = None
    false_conditions: frozenset[str] = frozenset()
    quorums: Sequence[Quorum] = ANYBODY
    """Whose approvals it needs."""
    _flushed: ExecutionState | None = None
    _offset: int = 0

    @property
    def known(self) -> ExecutionState:
        assert self.state is not None
        return self.state

    @property
    def events(self) -> list[Event]:
        return [events.decode(value) for value in self.trail]

    def stage(self, *drafts: EventData) -> None:
        """As `Execution.stage` and `flush`."""
        for draft in drafts:
            state = self.state
            common: dict[str, JsonValue] = {
                "execution_id": "e1",
                "workflow_id": "w-1.0.0",
                "seq": (state.seq if state else 0) + 1,
                "dry_run": draft.dry_run or (state.dry_run if state else False),
                "agent": f"agent-{self.epoch}",
                "attempt_epoch": self.epoch,
            }
            last = state.updated_at if state else None
            time = max(self.now, last) if last else self.now
            if state is not None:
                common |= advance.progress(draft, state)
            data, value = events.seal(draft, common=common, prev_hash=state.last_hash if state else "", time=time)
            self.state = fold(state, data, time)
            self.trail.append(value)
            self.states.append(self.known)
        self.flush()

    def flush(self) -> None:
        if self.state is None or self.state is self._flushed:
            return
        for key, record in snapshot.parts(self._flushed, self.state):
            if record is None:
                self.topic.pop(key, None)
            else:
                self.topic[key] = record
        self._flushed = self.state

    # --- what may happen ---

    def command(self, command: Command) -> None:
        """A command arrives."""
        self._offset += 1
        source = Source(topic="t", partition=0, offset=self._offset)
        match command:
            case ExecuteCommand():
                drafts = answers.execute(self.state, command, source=source, now=self.now)
            case RollbackCommand():
                drafts = answers.rollback(self.state, command, self.package, source=source, now=self.now)
            case ControlCommand():
                drafts = answers.control(self.state, command, source=source, now=self.now, quorums=self.quorums)
        self.stage(*drafts)

    def outcome(self, phase: Phase, name: str, attempt: int, outcome: Outcome) -> None:
        """An attempt ended (or a stale word of one arrives)."""
        if self.running.get((phase, name)) == attempt:
            del self.running[phase, name]
            self.told_to_stop.discard((phase, name))
        handler = self.program(phase).handlers[name]
        self.stage(*attempts.end(self.known, handler, phase, attempt, outcome, now=self.now, draw=0.5))

    def capture(self, phase: Phase, name: str) -> None:
        """The step records what was there before."""
        if phase == "rollback" or name in self.known.undo or attempts.is_dry(self.known, phase):
            return
        step = self.known.phase_steps(phase)[name]
        self.stage(events.StepCaptured(step=name, adapter=step.adapter, attempt=step.attempt, summary="before"))
        self.state = with_undo(self.known, name, {"was": name})
        self.flush()

    def change_owner(self, repeatable: bool, *, in_order: bool = False, again: bool = True) -> None:
        """The owner is lost, or lets go `in_order`; the next one loads what is durable and goes on.

        With `again` false it has no slot to make again what is in doubt.
        """
        if in_order and self.running:
            self.state = self.known.model_copy(update={"handing_over": True})
            self.flush()
        self.epoch += 1
        self.running.clear()
        self.told_to_stop.clear()
        self.state = self._flushed = snapshot.load(self.topic)["e1"]
        if self.state.status in (Status.RUNNING, Status.ROLLING_BACK):
            phase = self.phase
            handlers = self.program(phase).handlers
            self.stage(*attempts.resume(self.state, phase, handlers, lambda handler: repeatable, self.now))
            for step in attempts.in_doubt(self.known, phase) if again else ():
                self._begin(step.step, phase)

    @property
    def phase(self) -> Phase:
        return "rollback" if self.known.status is Status.ROLLING_BACK else "run"

    def program(self, phase: Phase) -> Program:
        if phase == "run":
            return program.run_program(self.package)
        return program.rollback_program(self.package, self.known)

    def _begin(self, name: str, phase: Phase) -> None:
        handler = self.program(phase).handlers[name]
        step = self.known.phase_steps(phase)[name]
        if step.status is StepStatus.PENDING and name in self.false_conditions:
            self.stage(*attempts.skip(self.known, handler, phase, "its condition is false"))
            return
        drafts = attempts.start(self.known, handler, phase, self.now)
        self.stage(*drafts)
        if drafts:
            self.running[phase, name] = self.known.phase_steps(phase)[name].attempt

    def settle(self) -> None:
        """Decides until there is nothing but to wait."""
        for _ in range(10_000):
            state = self.known
            if state.status is Status.PENDING and not state.total_steps and not self._checked():
                continue
            decision = advance.advance(state, self.package, self.program(self.phase), self.now)
            if state.status is Status.PENDING and not decision.drafts:
                steps = self.program("run").planned()
                self.stage(events.ExecutionStarted(steps=steps, total_steps=len(steps)))
            elif decision.complete:
                self.stage(advance.completion(state, {}, self.now))
            elif decision.drafts:
                self.stage(*decision.drafts)
            elif decision.start:
                phase = self.phase
                for name in decision.start:
                    self._begin(name, phase)
            else:
                self.told_to_stop.update(("run", name) for name in decision.stop)
                self.wake_at = decision.wake_at
                return
        raise AssertionError("it never comes to rest")

    def _checked(self) -> bool:
        """What `prepare` does with a package that is good; whether there was nothing to do."""
        wait = self.package.spec.safety.approval_required and not self.known.dry_run and not self.known.approved_by
        if wait:
            self.stage(events.ExecutionAwaitingApproval(expires_at=self.now + timedelta(hours=1)))
        return not wait
