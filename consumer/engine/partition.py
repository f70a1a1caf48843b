"""What an agent keeps in memory of one partition's executions: those that live, and enough of the others to know them.

What ended outnumbers what lives by far, and stays known for days. So of each only the head of its state is kept, as it
lies in the state topic: a tenth of what the state takes as objects, and enough for all commands but a rollback.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

import orjson

from consumer.engine.execution import Execution
from consumer.ports import Journal
from schemas import snapshot
from schemas.execution import ExecutionState

#: How many ended executions stay whole, for a rollback soon after the end, and how much each may hold (bytes).
_RECENT, _RECENT_BYTES = 64, 16 * 1024
#: A longer head is not kept; it is read again (bytes).
_HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Ended:
    """What is kept of an ended execution."""

    head: bytes | None
    """The head of its state; None where it must be read again: it is long, or the execution could not be ended."""
    at: datetime | None
    """From when on its retention counts; None: it is never over."""
    answered: bool
    """Whether its execute command was; else the id is known from other commands only."""


class Partition:
    """The executions of one partition number under one owner."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.live: dict[str, Execution] = {}
        self.ended: dict[str, Ended] = {}
        """Executions that ended, and ids that are known from refused commands only."""
        self.tasks: set[asyncio.Task[None]] = set()
        self.unreadable: set[str] = set()
        """Executions whose state can't be read."""
        self._recent: OrderedDict[str, ExecutionState] = OrderedDict()

    def remember(self, state: ExecutionState) -> None:
        """Keeps an ended execution (or an id that is known from refused commands only)."""
        name = state.execution_id
        if _is_whole(state):
            self._recent.pop(name, None)
            if _weight(state) <= _RECENT_BYTES:
                self._recent[name] = state
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        head = snapshot.head(state)
        done = state.over or state.status is None  # what could not be ended may go on, and then needs all of its state
        kept = head if done and len(head) <= _HEAD_BYTES else None
        self.ended[name] = Ended(kept, state.completed_at or state.updated_at, state.status is not None)

    def knows(self, execution_id: str) -> bool:
        """Whether the execute command of that id was answered."""
        ended = self.ended.get(execution_id)
        return execution_id in self.live or (ended is not None and ended.answered)

    def recall(self, execution_id: str, *, whole: bool) -> ExecutionState | None:
        """What memory has of an ended execution; with `whole` only where nothing of it is missing.

        Else command, outputs and undo records may be missing: such a state may be changed and written, but for what
        needs those it must be read again.
        """
        recent = self._recent.get(execution_id)
        if recent is not None:
            return recent
        ended = self.ended.get(execution_id)
        if ended is None or ended.head is None:
            return None
        state = ExecutionState.model_validate_json(ended.head)
        return state if not whole or _is_whole(state) else None

    def forget(self, execution_id: str) -> None:
        """It lives again, or its retention is over."""
        self.ended.pop(execution_id, None)
        self._recent.pop(execution_id, None)

    def expired(self, limit: datetime) -> set[str]:
        """Those that ended before that moment."""
        return {name for name, ended in self.ended.items() if ended.at is not None and ended.at < limit}


def _is_whole(state: ExecutionState) -> bool:
    """An execution that was accepted has a command; one whose state has none was made from its head."""
    return state.command is not None or state.command_digest is None


def _weight(state: ExecutionState) -> int:
    """About how many bytes of JSON the state holds beside its head."""
    outputs = [step.output for steps in (state.steps, state.rollback_steps) for step in steps.values()]
    return len(orjson.dumps([state.command, state.undo, outputs]))
