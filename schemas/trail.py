"""An execution's events as a reader of the topics meets them: over three topics, perhaps repeated, perhaps stale."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.events import Event
from schemas.execution import ExecutionState, apply


def select(events: Iterable[Event]) -> list[Event]:
    """The events that hold, in sequence: of one `seq` that with the highest epoch, and none of an epoch older than one
    seen at a lower `seq` (what a fenced owner still wrote, with at_least_once)."""
    best: dict[int, Event] = {}
    for event in events:
        known = best.get(event.data.seq)
        if known is None or event.data.attempt_epoch > known.data.attempt_epoch:
            best[event.data.seq] = event
    chosen: list[Event] = []
    epoch = 0
    for seq in sorted(best):
        event = best[seq]
        if event.data.attempt_epoch >= epoch:
            chosen.append(event)
            epoch = event.data.attempt_epoch
    return chosen


class Trail:
    """Collects the events of one execution in any order and folds them."""

    def __init__(self) -> None:
        self._events: dict[int, Event] = {}
        self.state: ExecutionState | None = None

    def add(self, event: Event) -> list[Event]:
        """Takes an event; gives those that thereby became part of the folded state, in order (often just this one).

        Where a newer owner's event replaces older ones, all is folded again and the events from there on are given.
        """
        data = event.data
        known = self._events.get(data.seq)
        if known is not None and known.data.attempt_epoch >= data.attempt_epoch:
            return []
        self._events[data.seq] = event
        seq = self.state.seq if self.state else 0
        if data.seq > seq and not (self.state and data.attempt_epoch < self.state.epoch):
            return self._advance()
        if data.seq <= seq:
            return self._refold(data.seq)
        return []

    def _advance(self) -> list[Event]:
        taken: list[Event] = []
        seq = self.state.seq if self.state else 0
        while (event := self._events.get(seq + 1)) is not None:
            after = apply(self.state, event)
            if after is self.state:
                break
            self.state, seq = after, seq + 1
            taken.append(event)
        return taken

    def _refold(self, since: int) -> list[Event]:
        chosen = select(self._events.values())
        self._events = {event.data.seq: event for event in chosen}
        self.state = None
        return [event for event in self._advance() if event.data.seq >= since]

    @property
    def events(self) -> list[Event]:
        """The events that hold, in sequence."""
        return select(self._events.values())
