"""A trail that goes on where records are missing for good: the log topic's retention is shorter than the audit's."""

from __future__ import annotations

from schemas.events import Event
from schemas.execution import ExecutionState
from schemas.trail import Trail


class PatientTrail:
    """A `Trail` that can be told that what is missing will not come."""

    def __init__(self, execution_id: str) -> None:
        self._execution_id = execution_id
        self._trail = Trail()
        self.missing = 0
        """How many events were jumped over."""

    @property
    def state(self) -> ExecutionState | None:
        """The state after all events that were given out."""
        return self._trail.state

    @property
    def waiting(self) -> list[Event]:
        """Events that can't be folded yet, as one before them has not come."""
        seq = self._trail.state.seq if self._trail.state else 0
        return [event for event in self._trail.events if event.data.seq > seq]

    def add(self, event: Event) -> list[Event]:
        """Takes an event; gives those that are next in order."""
        return self._trail.add(event)

    def jump(self) -> list[Event]:
        """Leaves out what is missing before the first waiting event; gives those that are then next in order."""
        waiting = self.waiting
        if not waiting:
            return []
        state = self._trail.state or ExecutionState(execution_id=self._execution_id)
        before = waiting[0].data.seq - 1
        self.missing += before - state.seq
        self._trail = Trail()
        self._trail.state = state.model_copy(
            update={"seq": before, "workflow_id": state.workflow_id or waiting[0].data.workflow_id}
        )
        return [taken for event in waiting for taken in self._trail.add(event)]

    def finish(self) -> list[Event]:
        """Jumps until nothing waits: all there is was read."""
        taken: list[Event] = []
        while more := self.jump():
            taken += more
        return taken
