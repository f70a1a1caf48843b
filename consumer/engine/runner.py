"""Runs one execution on one owner, from where its state stands to its end.

The loop: fold in what came back, decide (pure), make it durable, only then act. Commands reach it through the state:
who answers them stages events on the same `Execution` and sets `changed`.
"""

from __future__ import annotations

import asyncio
import enum
from datetime import datetime
from functools import partial

from consumer import tasks
from consumer.engine import prepare, replan, resolving
from consumer.engine.execution import Execution
from consumer.engine.services import Services
from consumer.engine.slots import Slots
from consumer.engine.step import Attempt, StepRunner
from consumer.workflow import advance, attempts, program
from consumer.workflow.advance import Decision
from consumer.workflow.attempts import Failed, Outcome
from consumer.workflow.program import Program
from schemas.events import ExecutionResult, Phase, Status
from schemas.execution import ExecutionState, StepStatus
from schemas.wpk import Handler

#: The longest sleep without a look at the clock (seconds), so that a jump of the wall clock is noticed.
_LONGEST_SLEEP = 60.0


class Parting(enum.IntEnum):
    """Which running steps have to end because the agent stops."""

    NONE = 0
    WAITS = 1
    """Those that only wait: the next owner goes on with them, with the time that is left."""
    ALL = 2
    """What may be repeated is left to the next owner, as in doubt; the trail of every other step says what happened."""


class Runner:
    """One execution's loop. `run` returns at its end, and raises OwnershipLost (in a group) when the owner is lost."""

    def __init__(self, execution: Execution, services: Services, slots: Slots) -> None:
        self._execution = execution
        self._services = services
        self._slots = slots
        self._results: list[tuple[Attempt, Outcome]] = []
        self._tasks: dict[tuple[Phase, str], asyncio.Task[None]] = {}
        self._stopping: set[tuple[Phase, str]] = set()
        self._parting = Parting.NONE
        self._parted: dict[tuple[Phase, str], Outcome | None] = {}
        """What is told of the attempts that were ended by the agent's stop; nothing of those left to the next owner."""
        self._starting: list[Attempt] = []
        self._doubtful: list[str] = []
        """Steps that a former owner had started, whose attempt is to be made again."""
        self._steps: StepRunner
        self._program: Program | None = None
        self._agreed: str | None = None
        """The digest of the approved plan, once it was made again and is the same."""

    @property
    def state(self) -> ExecutionState:
        """Where the execution stands."""
        return self._execution.state

    async def run(self) -> None:
        """Runs it to its end."""
        try:
            async with asyncio.TaskGroup() as group:
                while not await self._prepare():
                    if self._execution.state.over:  # else a rollback was asked for while its end was being written
                        return
                await self._loop(group)
        finally:
            self._slots.leave(self._execution)

    def part(self, parting: Parting) -> None:
        """Ends steps because the agent stops; hold the journal's slots first, so that none begins."""
        self._parting = max(self._parting, parting)
        self._execution.changed.set()

    async def _prepare(self) -> bool:
        """Checks the package and goes on where the trail ends; False: the execution is over."""
        if resolving.is_needed(self._execution.state):
            self._slots.rest(self._execution)
            await resolving.resolve(self._execution, self._services)
        prepared = await prepare.prepare(self._execution, self._services)
        if prepared is None:
            await self._execution.flush()
            return False
        self._steps = StepRunner(self._execution, self._services, prepared)
        if self._execution.state.status in (Status.RUNNING, Status.ROLLING_BACK):
            await self._resume()
        return True

    async def _resume(self) -> None:
        """Only a state that came from a former owner can be running before its loop has begun."""
        state = self._execution.state
        phase = self._phase()
        handlers = self._current_program().handlers
        doubtful = [handlers[step.step] for step in attempts.in_doubt(state, phase)]
        if state.epoch == self._execution.journal.epoch and not doubtful:
            return  # a rollback that this owner itself has just begun
        repeatable = {handler.name: await self._steps.repeatable(handler, phase) for handler in doubtful}
        self._execution.stage(
            *attempts.resume(
                self._execution.state,
                phase,
                handlers,
                lambda handler: repeatable[handler.name],
                self._execution.now(),
            )
        )
        self._doubtful = [step.step for step in attempts.in_doubt(self._execution.state, phase)]

    async def _loop(self, group: asyncio.TaskGroup) -> None:
        execution = self._execution
        while True:
            execution.changed.clear()
            await self._part()
            self._take_results()
            await self._judge_anew()
            if self._wants_plan and self._parting is Parting.NONE and self._slots.take(execution):
                await self._plan_again()
                if self._wants_plan:  # broken off: the agent stops
                    self._slots.rest(execution)
                await self._judge_anew()  # the plan took its time: the policy may be another
            decision = self._decide()
            if execution.staged:
                await execution.flush()
            if self._starting:
                await self._launch(group)
            if execution.state.over:
                return
            if not self._results:
                await self._wait(decision.wake_at)

    def _take_results(self) -> None:
        while self._results:
            attempt, outcome = self._results.pop(0)
            key = (attempt.phase, attempt.handler.name)
            self._tasks.pop(key, None)
            self._stopping.discard(key)
            drafts = attempts.end(
                self._execution.state,
                attempt.handler,
                attempt.phase,
                attempt.number,
                outcome,
                now=self._execution.now(),
                draw=self._services.draw(),
            )
            self._execution.stage(*drafts)
            self._services.metrics.attempt_ended(attempt.handler.type, drafts)

    def _decide(self) -> Decision:
        """Stages all that follows at once; what remains is to wait."""
        while True:
            state, now = self._execution.state, self._execution.now()
            steps = self._current_program()
            decision = advance.advance(state, self._steps.package, steps, now)
            if state.status is Status.PENDING and not decision.drafts:  # an approval came
                if self._wants_plan:
                    return decision  # as soon as there is a slot
                self._execution.stage(self._steps.beginning().model_copy(update={"plan_digest": self._agreed}))
            elif decision.complete:
                self._queue_what_is_known()
                self._execution.stage(advance.completion(state, self._steps.outputs(), now))
            elif decision.drafts:
                if any(isinstance(draft, ExecutionResult) for draft in decision.drafts):
                    self._queue_what_is_known()
                self._execution.stage(*decision.drafts)
            elif decision.stop and self._doubtful:
                self._give_up_doubtful(steps)
            elif not self._begin_all(decision, steps):
                self._stop(decision.stop, steps.phase)
                return decision

    async def _judge_anew(self) -> None:
        """A run that waited, and whose policy is another by now, begins by that one or not at all."""
        if self._execution.state.status is not Status.PENDING or self._steps.policy is self._services.policy:
            return
        prepared = await prepare.prepare(self._execution, self._services)
        if prepared is not None:
            self._steps = StepRunner(self._execution, self._services, prepared)

    @property
    def _wants_plan(self) -> bool:
        """Whether a plan was approved that has to be made again before the run begins."""
        state = self._execution.state
        return state.status is Status.PENDING and state.approved_plan is not None and self._agreed is None

    async def _plan_again(self) -> None:
        """Refuses the run where it would do something else than what was approved. A cancel ends the wait for it."""
        execution = self._execution
        again = replan.scratch(execution, self._services)
        work = asyncio.create_task(Runner(again, self._services, Slots(1, lambda: None)).run(), name="plan")
        try:
            while not work.done() and not execution.state.over and self._parting is Parting.NONE:
                execution.changed.clear()
                waiting = asyncio.create_task(execution.changed.wait())
                try:
                    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    await tasks.cancel_and_wait(waiting)
            if execution.state.over or not work.done():
                return
            await work
        finally:
            await tasks.cancel_and_wait(work)
        execution.stage(*replan.changed(execution.state, again.state, execution.now()))
        if not execution.state.over:
            self._agreed = execution.state.approved_plan

    def _queue_what_is_known(self) -> None:
        """A result may be too large for its record: that must not take along how the last step ended."""
        if self._execution.staged:
            self._execution.flush()

    def _begin_all(self, decision: Decision, steps: Program) -> bool:
        """Whether something began; where nothing may, an execution that only waits leaves its slot to others."""
        names = (*self._doubtful, *decision.start)
        if not names:
            self._free_slot()
            return False
        if not self._slot_for(names, steps):
            if self._slots.held(self._execution):
                self._free_slot()
            return False
        self._doubtful = []
        for name in names:
            self._begin(steps.handlers[name], steps.phase)
        return True

    def _give_up_doubtful(self, steps: Program) -> None:
        """The execution is being stopped before what a former owner had started was made again."""
        reason = "the agent was interrupted while it ran, and it was cancelled before it was made again"
        state, now = self._execution.state, self._execution.now()
        names, self._doubtful = self._doubtful, []
        for name in names:
            attempt = state.phase_steps(steps.phase)[name].attempt
            stopped = attempts.Stopped(reason=reason)
            self._execution.stage(
                *attempts.end(state, steps.handlers[name], steps.phase, attempt, stopped, now=now, draw=0.0)
            )

    def _phase(self) -> Phase:
        return "rollback" if self._execution.state.status is Status.ROLLING_BACK else "run"

    def _current_program(self) -> Program:
        phase = self._phase()
        if self._program is None or self._program.phase != phase:
            package = self._steps.package
            rollback = phase == "rollback"
            self._program = (
                program.rollback_program(package, self._execution.state) if rollback else program.run_program(package)
            )
        return self._program

    def _slot_for(self, names: tuple[str, ...], steps: Program) -> bool:
        idle = all(steps.handlers[name].type == "delay" for name in names)
        return (idle and not self._slots.held(self._execution)) or self._slots.take(self._execution)

    def _free_slot(self) -> None:
        """An execution that only waits (approval, backoff, delay) leaves its slot to others."""
        busy = any(attempt.handler.type != "delay" for attempt in self._starting)
        busy = busy or any(task.get_name() != "delay" for task in self._tasks.values())
        if not busy:
            self._slots.rest(self._execution)

    def _begin(self, handler: Handler, phase: Phase) -> None:
        """Stages the start of the step's next attempt (or why there is none); `_launch` acts once that is durable."""
        execution = self._execution
        step = execution.state.phase_steps(phase)[handler.name]
        repeated = step.status is StepStatus.RUNNING
        if step.status is StepStatus.PENDING:
            refused = self._steps.condition(handler, phase)
            if refused:
                execution.stage(*refused)
                return
        drafts = attempts.start(execution.state, handler, phase, execution.now())
        if not drafts:  # what began before it in this round could not, and stops the run
            return
        execution.stage(*drafts)
        step = execution.state.phase_steps(phase)[handler.name]
        began = step.started_at or execution.now()
        self._starting.append(
            Attempt(handler=handler, phase=phase, number=step.attempt, began=began, repeated=repeated)
        )

    async def _launch(self, group: asyncio.TaskGroup) -> None:
        """Begins the attempts whose start is durable, once the owner may act."""
        journal = self._execution.journal
        if not journal.fresh:  # the start is durable, but that was long ago: the process stood still meanwhile
            await journal.may_act()
        starting, self._starting = self._starting, []
        for attempt in starting:
            if attempt.phase == "run" and self._execution.state.cancel is not None:
                self._results.append((attempt, attempts.Stopped(reason="cancelled before it began")))
                continue
            key = (attempt.phase, attempt.handler.name)
            task = group.create_task(self._attempt(attempt), name=attempt.handler.type)
            task.add_done_callback(partial(self._settled, attempt))
            self._tasks[key] = task

    async def _attempt(self, attempt: Attempt) -> None:
        outcome = await self._steps.run(attempt)
        self._results.append((attempt, outcome))

    def _settled(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """A callback, not an `except`: a task that is cancelled before its first step never enters its own `try`."""
        key = (attempt.phase, attempt.handler.name)
        if task.cancelled():
            outcome = self._parted.get(key, attempts.Stopped(reason="the execution was cancelled"))
            if outcome is not None:
                self._results.append((attempt, outcome))
            elif self._tasks.get(key) is task:
                del self._tasks[key]
        self._execution.changed.set()

    async def _part(self) -> None:
        """Ends the attempts whose time is over because the agent stops."""
        if self._parting is Parting.NONE:
            return
        phase = self._phase()
        dry = attempts.is_dry(self._execution.state, phase)
        for key in self._tasks.keys() - self._stopping:
            name = key[1]
            handler = self._current_program().handlers[name]
            left = attempts.may_repeat(handler, repeatable=await self._steps.repeatable(handler, phase), dry=dry)
            waits = left and await self._steps.waits(handler, phase)
            task = self._tasks.get(key)  # it may have ended meanwhile
            if task is not None and (waits or self._parting is Parting.ALL):
                self._parted[key] = None if left else Failed(failure=attempts.interrupted(name))
                self._stopping.add(key)
                task.cancel()

    def _stop(self, names: tuple[str, ...], phase: Phase) -> None:
        for name in names:
            task = self._tasks.get((phase, name))
            if task is not None and (phase, name) not in self._stopping:
                self._stopping.add((phase, name))
                task.cancel()

    async def _wait(self, wake_at: datetime | None) -> None:
        delay = _LONGEST_SLEEP
        if wake_at is not None:
            delay = min(delay, max(0.0, (wake_at - self._execution.now()).total_seconds()))
        try:
            async with asyncio.timeout(delay):
                await self._execution.changed.wait()
        except TimeoutError:
            return
