"""Owns the executions of all partitions that the agent owns: takes commands in, starts runners, remembers what ended.

A failing execution concerns nobody else: each runs as its own task, whose errors end here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

import orjson
import structlog
from pydantic import ValidationError

from consumer.engine import prepare, resolving, senders
from consumer.engine.dead_letter import dead_letter
from consumer.engine.execution import Execution
from consumer.engine.incoming import Incoming, Refused, Understood, Unreadable
from consumer.engine.partition import Partition
from consumer.engine.runner import Parting, Runner
from consumer.engine.senders import Judged
from consumer.engine.services import Services
from consumer.engine.slots import Slots
from consumer.errors import OwnershipLost
from consumer.ports import Journal, Record, Topic
from consumer.telemetry import traces
from consumer.telemetry.logs import log_execution_end
from consumer.workflow import ahead, answers, attempts, rehearsals
from schemas import events, snapshot
from schemas.commands import ControlCommand, ExecuteCommand, RollbackCommand
from schemas.events import EventData, Status
from schemas.execution import ExecutionState
from schemas.failure import Failure

__all__ = ["Partition", "StateReader", "Supervisor", "supervising"]
_log = structlog.get_logger(__name__)

#: Reads the newest records of a partition's state topic again.
StateReader = Callable[[Journal], Awaitable[Mapping[str, bytes]]]
_READ_PAUSE_SECONDS = 1.0
#: Bytes that are kept of a record which the dead-letter topic does not take whole.
_KEPT = 16 * 1024
#: States that are read in one go: there may be very many, and the agent must not stand still meanwhile.
_ADOPTED_AT_ONCE = 50
#: Records of one append when executions are forgotten.
_TOMBSTONES = 1000


class Supervisor:
    """See the module. Open it with `supervising`."""

    def __init__(self, services: Services, read_state: StateReader, group: asyncio.TaskGroup) -> None:
        self._services = services
        self._read_state = read_state
        self._group = group
        self._slots = Slots(services.limits.max_executions, self._measure)
        self._live = 0
        self._held_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._runners: set[Runner] = set()
        self._on_room: Callable[[], None] = lambda: None
        self.room = asyncio.Event()
        """Set while new executions may be accepted."""
        self.room.set()

    # --- what runs ---

    @property
    def live(self) -> int:
        """Executions that have not ended, waiting ones included."""
        return self._live

    @property
    def running(self) -> int:
        """Executions that run steps at this moment."""
        return self._slots.taken

    def states(self) -> Iterator[ExecutionState]:
        """Those of the executions that have not ended."""
        return (runner.state for runner in self._runners)

    def _measure(self) -> None:
        limits = self._services.limits
        resting = self._slots.resting
        too_many = self._live - resting >= limits.max_executions or resting >= limits.max_waiting
        if too_many or self._held_bytes >= limits.max_held_bytes:
            self.room.clear()
        elif not self.room.is_set():
            self.room.set()
            self._on_room()
        self._services.metrics.executions(running=self._live - resting, waiting=resting)

    def on_room(self, callback: Callable[[], None]) -> None:
        """Has `callback` called whenever there is room again."""
        self._on_room = callback

    def cancel_all(self) -> None:
        """Cancels every execution's task; the group that owns them waits for their ends."""
        for task in self._tasks:
            task.cancel()

    # --- partitions ---

    async def adopt(self, journal: Journal, states: Iterable[tuple[str, ExecutionState | ValueError]]) -> Partition:
        """Goes on with what a former owner left, on behalf of the new one. Nothing runs before all of it is known.

        A state that can't be read is left as it is; commands for it become dead letters, so that nothing runs twice.
        """
        partition, living = Partition(journal), list[ExecutionState]()
        for number, (name, state) in enumerate(states):
            if isinstance(state, ValueError):
                _log.error("execution.unreadable", execution=name, reason=str(state)[:500])
                partition.unreadable.add(name)
            elif state.status is None or state.over:
                partition.remember(state)
            else:
                living.append(state)
            if number % _ADOPTED_AT_ONCE == 0:
                await asyncio.sleep(0)
        for state in living:
            self._start(partition, Execution(state.execution_id, state, journal, self._services))
        return partition

    def hold(self, partition: Partition) -> None:
        """No further step begins; what runs goes on, and the trail of none is a crash if the next owner finds it so."""
        self._slots.hold(partition.journal)
        for execution in partition.live.values():
            execution.note_hand_over(possible=True)

    def resume(self, partition: Partition) -> None:
        """Ends the hold."""
        for execution in partition.live.values():
            execution.note_hand_over(possible=False)
        self._slots.resume(partition.journal)

    def part(self, parting: Parting) -> None:
        """The agent stops: ends those running steps, in all partitions. Hold them first, and wait by `quiet`."""
        for runner in self._runners:
            runner.part(parting)

    async def quiet(self, within: float) -> bool:
        """Whether all running steps came to their end within that time (seconds); hold first."""
        try:
            async with asyncio.timeout(within):
                await self._slots.idle()
        except TimeoutError:
            return False
        return True

    async def drop(self, partition: Partition) -> None:
        """Stops whatever runs there; the next owner goes on with it."""
        for task in partition.tasks:
            task.cancel()
        if partition.tasks:
            await asyncio.wait(list(partition.tasks))
        self._slots.resume(partition.journal)

    def _start(self, partition: Partition, execution: Execution) -> None:
        partition.live[execution.execution_id] = execution
        partition.forget(execution.execution_id)
        self._live += 1
        execution.grew = partial(self._weigh, execution)
        self._weigh(execution)
        task = self._group.create_task(self._run(partition, execution), name=f"execution {execution.execution_id}")
        for owner in (partition.tasks, self._tasks):
            owner.add(task)
            task.add_done_callback(owner.discard)

    def _weigh(self, execution: Execution) -> None:
        self._held_bytes -= execution.weight
        execution.weight = len(orjson.dumps(execution.state.command))
        if resolving.is_needed(execution.state):  # its package is yet to come, and may be as large as that
            execution.weight = max(execution.weight, self._services.limits.max_command_bytes)
        self._held_bytes += execution.weight
        self._measure()

    async def _run(self, partition: Partition, execution: Execution) -> None:
        structlog.contextvars.bind_contextvars(execution=execution.execution_id)
        runner = Runner(execution, self._services, self._slots)
        self._runners.add(runner)
        try:
            await runner.run()
        except* OwnershipLost:
            _log.info("execution.left", reason="the partition's owner is lost; its next owner goes on")
        except* Exception as group:
            _log.error("execution.crashed", exc_info=group)
            await self._end_crashed(execution, group)
        finally:
            self._runners.discard(runner)
            self._live -= 1
            self._held_bytes -= execution.weight
            partition.live.pop(execution.execution_id, None)
            state = execution.known
            if state is not None and partition.journal.alive:
                partition.remember(state)  # also where it could not be ended: its id must stay known
                if state.over:
                    self._services.metrics.execution_ended(state, traces.exemplar(state, self._services.traces))
                    log_execution_end(state)
            self._measure()

    async def _end_crashed(self, execution: Execution, group: BaseExceptionGroup[Exception]) -> None:
        """A defect of ours must not leave an execution without an end: it fails, and says that it was the agent."""
        execution.discard()  # what could not be staged or queued as a whole did not happen
        state = execution.state
        if state.over or not execution.journal.alive:
            return
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        failure = Failure(type="internal", message=f"the agent failed: {type(first).__name__}: {str(first)[:500]}")
        phase: events.Phase = "rollback" if state.status is Status.ROLLING_BACK else "run"
        failed = [
            events.StepFailed(step=s.step, adapter=s.adapter, phase=phase, attempt=s.attempt, error=failure)
            for s in attempts.in_doubt(state, phase)
        ]
        result = events.ExecutionRollbackFailed if phase == "rollback" else events.ExecutionFailed
        try:
            execution.stage(*failed)  # first, so that the result tells of these steps what the trail does
            fields = answers.result_fields(execution.state, execution.now())
            execution.stage(result(**fields, error=failure, error_message=failure.message))
            await execution.flush()
        except OwnershipLost:
            _log.info("execution.left", reason="the partition's owner is lost; its next owner goes on")
        except Exception:
            execution.discard()
            _log.exception("execution.stuck", status=state.status)

    # --- commands ---

    async def take(self, partition: Partition, incoming: Incoming, *, awaited: bool = False) -> Awaitable[None]:
        """Decides what the record leads to and queues that with the record's offset; awaiting the answer waits until
        it is durable. Call it in the order of the records. Raises OwnershipLost.

        `awaited`: the execution is not known yet, but its execute command seems to wait on the topic. A cancel is kept
        for it then.
        """
        content = incoming.content
        if isinstance(content, Unreadable):
            return self._bury(partition, incoming, content)
        if content.execution_id in partition.unreadable:
            detail = f"the state of execution {content.execution_id} can't be read; the agent's log says why"
            return self._bury(partition, incoming, Unreadable(reason="internal", detail=detail))
        rehearsal = await self._rehearsal(partition, content)
        execution = await self._find(partition, content)
        try:
            drafts = self._answer(execution, incoming, content, rehearsal, awaited=awaited)
            execution.stage(*drafts)
            if any(isinstance(draft, events.ExecutionAccepted) for draft in drafts):
                execution.stage(*ahead.end(execution.state, execution.now()))
            durable = execution.flush({incoming.topic: incoming.source.offset + 1})
        except OwnershipLost:
            raise
        except Exception as error:  # neither a defect of ours nor a record that is too large may stop the partition
            execution.discard()
            _log.exception("command.failed", execution=content.execution_id, offset=incoming.source.offset)
            detail = f"the agent could not answer it: {type(error).__name__}: {str(error)[:300]}"
            return self._bury(partition, incoming, Unreadable(reason="internal", detail=detail))
        self._services.metrics.command(content.kind if isinstance(content, Refused) else content.command.kind, drafts)
        self._follow_up(partition, execution)
        return durable

    def _bury(self, partition: Partition, incoming: Incoming, content: Unreadable) -> Awaitable[None]:
        """The record goes to the dead-letter topic; where that does not take it whole, its beginning does."""
        offsets = {incoming.topic: incoming.source.offset + 1}
        self._services.metrics.dead_letter(content.reason)
        try:
            return partition.journal.append([dead_letter(incoming, content)], offsets)
        except ValueError:
            return partition.journal.append([dead_letter(incoming, content, keep=_KEPT)], offsets)

    def _answer(
        self,
        execution: Execution,
        incoming: Incoming,
        content: Understood | Refused,
        rehearsal: events.Rehearsal | None,
        *,
        awaited: bool,
    ) -> list[EventData]:
        state, now, source = execution.known, execution.now(), incoming.source
        if isinstance(content, Refused):
            asked = answers.Asked(kind=content.kind, requested_by=content.requested_by, workflow_id=content.workflow_id)
            return answers.refuse(state, asked, content.problems, source=source, now=now, code="invalid")
        judged = senders.judge(incoming, content, state, self._services, awaited=awaited)
        drafts = self._answer_command(content, state, judged, now=now, awaited=awaited)
        known = {"rehearsal": rehearsal}
        drafts = [
            each.model_copy(update=known) if isinstance(each, events.ExecutionAccepted) else each for each in drafts
        ]
        return senders.with_policy(drafts, self._services)

    def _answer_command(
        self, content: Understood, state: ExecutionState | None, judged: Judged, *, now: datetime, awaited: bool
    ) -> list[EventData]:
        command, source = content.command, judged.source
        if judged.problem is not None:
            asked = answers.Asked.of(command)
            return answers.refuse(state, asked, [judged.problem], source=source, now=now, code="forbidden")
        match command:
            case ExecuteCommand():
                return answers.execute(state, command, source=source, now=now, traceparent=content.traceparent)
            case RollbackCommand():
                try:
                    package = prepare.package_of(state) if state and state.command else None
                except (ValidationError, ValueError):
                    package = None
                return answers.rollback(state, command, package, source=source, now=now)
            case ControlCommand():
                if awaited and command.action == "cancel" and (state is None or state.status is None):
                    return ahead.cancel(state, command, source=source)
                return answers.control(state, command, source=source, now=now, quorums=judged.quorums)

    def _follow_up(self, partition: Partition, execution: Execution) -> None:
        state = execution.state
        if execution.execution_id in partition.live:
            execution.changed.set()
        elif state.status is None or state.over:
            partition.remember(state)
        else:
            self._start(partition, execution)

    async def _find(self, partition: Partition, content: Understood | Refused) -> Execution:
        name = content.execution_id
        live = partition.live.get(name)
        if live is not None:
            return live
        rollback = isinstance(content, Understood) and isinstance(content.command, RollbackCommand)
        state = await self._recalled(partition, name, whole=rollback)
        return Execution(name, state, partition.journal, self._services)

    async def _rehearsal(self, partition: Partition, content: Understood | Refused) -> events.Rehearsal | None:
        """The dry run that an execute command names, by what is known here."""
        command = content.command if isinstance(content, Understood) else None
        if not isinstance(command, ExecuteCommand) or command.dry_run_id is None:
            return None
        live = partition.live.get(command.dry_run_id)
        return rehearsals.of(command, live.known if live else await self._recalled(partition, command.dry_run_id))

    async def _recalled(self, partition: Partition, name: str, *, whole: bool = False) -> ExecutionState | None:
        """What is known of an execution that does not live; read again where memory has too little of it."""
        state = partition.recall(name, whole=whole)
        if state is None and name in partition.ended:
            records = await self._read_again(partition.journal)
            mine = {k: v for k, v in records.items() if k == name or k.startswith(f"{name}/")}
            known = name in partition.ended  # the sweep may have forgotten it meanwhile
            state = snapshot.load(mine).get(name) if known else None
        return state

    async def _read_again(self, journal: Journal) -> Mapping[str, bytes]:
        """The state topic's newest records, with all that was queued before. Raises OwnershipLost only."""
        await journal.append(())  # what is queued may be about the very execution that is looked for
        while True:
            try:
                return await self._read_state(journal)
            except OwnershipLost:
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"[:300]
                _log.warning("state.unread", partition=journal.partition, reason=reason)
                if not journal.alive:
                    raise OwnershipLost("the owner was lost while the state was read") from error
            await asyncio.sleep(_READ_PAUSE_SECONDS)

    # --- retention ---

    async def sweep(self, partition: Partition) -> int:
        """Forgets executions whose retention is over: tombstones for all that the state topic holds of them."""
        limit = self._services.clock.now() - timedelta(seconds=self._services.limits.state_retention)
        old = partition.expired(limit) - partition.live.keys()
        if not old:
            return 0
        records = await self._read_state(partition.journal)
        old -= partition.live.keys()
        for name in old:
            partition.forget(name)
        keys = [key for key in records if key.partition("/")[0] in old]
        keys.sort(key=lambda key: "/" not in key)  # heads last: parts without a head would be found by nobody
        tombstones = [Record(Topic.STATE, key.encode(), None) for key in keys]
        # All are queued at once: what a command accepts under such an id from now on must come after them.
        chunks = range(0, len(tombstones), _TOMBSTONES)
        for durable in [partition.journal.append(tombstones[at : at + _TOMBSTONES]) for at in chunks]:
            await durable
        return len(old)


@asynccontextmanager
async def supervising(services: Services, read_state: StateReader) -> AsyncIterator[Supervisor]:
    """A supervisor whose executions end with the block."""
    async with asyncio.TaskGroup() as group:
        supervisor = Supervisor(services, read_state, group)
        try:
            yield supervisor
        finally:
            supervisor.cancel_all()
