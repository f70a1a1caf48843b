"""One execution: its state, and the only way to change it. Who runs it (`runner`) and who answers commands
(`supervisor`) both stage events here; staging and flushing never await, so that events can't interleave.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from pydantic import JsonValue

from consumer.engine.services import Services
from consumer.ports import CommandTopic, Journal, JsonObject, Record, Topic
from consumer.telemetry.traces import Traces
from consumer.workflow import advance
from schemas import events, snapshot
from schemas.events import CONTENT_TYPE, EventData
from schemas.execution import ExecutionState, StepStatus, fold, with_undo

_HEADERS = (("content-type", CONTENT_TYPE.encode()),)


class Execution:
    """The state of one execution under its present owner."""

    def __init__(self, execution_id: str, state: ExecutionState | None, journal: Journal, services: Services) -> None:
        self.execution_id = execution_id
        self.journal = journal
        self.changed = asyncio.Event()
        """Set whenever the state changed; the runner decides again."""
        self.weight = 0
        """Bytes of its command as JSON, from when it lives."""
        self.grew: Callable[[], None] = lambda: None
        """To be called when the command got its package, and weighs more."""
        self._services = services
        self._state = state
        self._flushed = state
        self._records: list[Record] = []
        self.traces = services.traces
        self._untold: list[tuple[EventData, ExecutionState | None, ExecutionState]] = []
        """Staged events with the states around them, where traces are sent."""

    @property
    def known(self) -> ExecutionState | None:
        """The state; None before the first event."""
        return self._state

    @property
    def state(self) -> ExecutionState:
        """The state of an execution that has one."""
        assert self._state is not None
        return self._state

    def now(self) -> datetime:
        """The present moment."""
        return self._services.clock.now()

    def stage(self, *drafts: EventData) -> None:
        """Numbers, chains and folds the events; they are written by the next `flush`."""
        for draft in drafts:
            state = self._state
            common: dict[str, JsonValue] = {
                "execution_id": self.execution_id,
                "seq": (state.seq if state else 0) + 1,
                "dry_run": draft.dry_run or (state.dry_run if state else False),
                "agent": self._services.agent,
                "attempt_epoch": self.journal.epoch,
            }
            workflow_id = self._workflow_id(draft)
            if workflow_id is not None:
                common["workflow_id"] = workflow_id
            if state is not None:
                common |= advance.progress(draft, state)
            time = self._event_time()
            data, value = events.seal(draft, common=common, prev_hash=state.last_hash if state else "", time=time)
            after = fold(state, data, time)
            assert after is not state, "a sealed event is the next of its execution"
            self._state = after
            if self.traces is not None:
                self._untold.append((data, state, after))
            self._records.append(Record(Topic(draft.channel), self.execution_id.encode(), value, _HEADERS))
        self.changed.set()

    def _workflow_id(self, draft: EventData) -> str | None:
        """The accepted command's; before it, whatever a refused command said."""
        state = self._state
        if state is None or state.status is None:
            return draft.workflow_id or (state.workflow_id if state else None)
        return state.workflow_id or draft.workflow_id

    def _event_time(self) -> datetime:
        """The trail's times never go back, whatever the clock does or the former owner's clock was."""
        now, last = self.now(), self._state.updated_at if self._state else None
        return now if last is None or now >= last else last

    def keep_undo(self, step: str, record: JsonObject) -> None:
        """Adds a step's undo record to what the next `flush` writes."""
        self._state = with_undo(self.state, step, record)

    def note_hand_over(self, *, possible: bool) -> None:
        """Queues a note in the state, where a step is at work here, that its owner may let go in order; or that the
        execution stays here. By its absence the next owner knows that the former one was lost while the step ran."""
        state = self._state
        if state is None or state.handing_over is possible or (possible and not self._at_work(state)):
            return
        self._state = state.model_copy(update={"handing_over": possible})
        with contextlib.suppress(ValueError):  # as large as it may be: no rebalance fails for a note
            self.flush()

    def _at_work(self, state: ExecutionState) -> bool:
        """Whether a step runs under this owner. Delays do not count: they do nothing, and there may be very many."""
        return state.epoch == self.journal.epoch and any(
            step.status is StepStatus.RUNNING and not step.in_doubt and step.adapter != "delay"
            for steps in (state.steps, state.rollback_steps)
            for step in steps.values()
        )

    @property
    def staged(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._records) or self._state is not self._flushed

    def flush(self, offsets: Mapping[CommandTopic, int] | None = None) -> Awaitable[None]:
        """Queues all that is staged, with the snapshot; awaiting waits until it is durable. Raises OwnershipLost.

        Raises ValueError, at once, where a record is larger than the topics take: then nothing of it happened.
        """
        records = list(self._records)
        if self._state is not None and self._state is not self._flushed:
            for key, value in snapshot.parts(self._flushed, self._state):
                records.append(Record(Topic.STATE, key.encode(), value))
        try:
            durable = self.journal.append(records, offsets)
        except ValueError:
            self.discard()
            raise
        self._records, self._flushed = [], self._state
        if self.traces is not None and self._untold:
            self._tell(self.traces, asyncio.ensure_future(durable))
        return durable

    def _tell(self, traces: Traces, durable: asyncio.Future[None]) -> None:
        """Has traces made of the events as soon as they are durable; of what is lost with the owner, none."""
        untold, self._untold = self._untold, []

        def tell(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and done.exception() is None:
                for data, before, after in untold:
                    traces.told(data, before, after)

        durable.add_done_callback(tell)

    def discard(self) -> None:
        """Forgets what was staged since the last flush: the state is again what the journal was given."""
        self._records, self._state = [], self._flushed
        self._untold = []
