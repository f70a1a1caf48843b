"""An approved plan, made again just before it is run: whether it is still what was approved.

It is made by a dry run that only memory knows of, under the same rules, limits and conditions as that which was read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime

from consumer.engine.execution import Execution
from consumer.engine.services import Services
from consumer.ports import CommandTopic, Journal, Record
from consumer.workflow import answers, rehearsals
from schemas.events import EventData, Rehearsal, Status
from schemas.execution import ExecutionState
from schemas.failure import Problem


class _Unwritten:
    """A journal that keeps nothing, on behalf of an owner."""

    def __init__(self, owner: Journal) -> None:
        self._owner = owner

    @property
    def partition(self) -> int:
        return self._owner.partition

    @property
    def epoch(self) -> int:
        return self._owner.epoch

    @property
    def alive(self) -> bool:
        return self._owner.alive

    @property
    def fresh(self) -> bool:
        return True

    def append(self, records: Sequence[Record], offsets: Mapping[CommandTopic, int] | None = None) -> Awaitable[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def may_act(self) -> None:
        return

    async def backlog(self) -> None:
        return


def scratch(execution: Execution, services: Services) -> Execution:
    """The same execution as a dry run that has not begun, of which nothing is written."""
    update = {
        "dry_run": True,
        "approvals": (),
        "approved_by": None,
        "approved_until": None,
        "rehearsal": None,
        "status": Status.PENDING,
    }
    state = execution.state.model_copy(update=update)
    made = Execution(execution.execution_id, state, _Unwritten(execution.journal), services)
    made.traces = None
    return made


def changed(state: ExecutionState, planned: ExecutionState, now: datetime) -> list[EventData]:
    """The end of an execution whose plan is another by now; nothing where it is the one that was approved."""
    if planned.plan_digest is not None and planned.plan_digest == state.approved_plan:
        return []
    by = next(given.by for given in state.approvals if given.plan_digest is not None)
    approved = f"{by} approved the plan {state.approved_plan}"
    if planned.plan_digest is None:
        why = planned.error_message or "a step can't be planned"
        problem = f"{approved}, and it can't be made again: {why}; nothing was run"
    else:
        problem = (
            f"{approved}, and by now it is {planned.plan_digest}; nothing was run: look at it again with wpk plan, and "
            "submit under a new id"
        )
    problems = [Problem(path="approval.digest", message=problem), *_differences(state.rehearsal, planned)]
    return [answers.rejection(state, problems, now=now, code="plan_changed")]


def _differences(before: Rehearsal | None, planned: ExecutionState) -> list[Problem]:
    """Step by step, what the plan is by now; where the dry run's own is known, only what differs."""
    known = before.plans if before is not None else {}
    problems = []
    for name, step in planned.steps.items():
        told, was = rehearsals.told(step), known.get(name)
        if was is None:
            message = f"would now: {told.summary}"
        elif was.digest == told.digest:
            continue
        elif was.summary == told.summary:
            message = f"would still: {told.summary}, but differently in its details"
        else:
            message = f"was to: {was.summary}; would now: {told.summary}"
        problems.append(Problem(path=f"steps.{name}", message=message))
    return problems
