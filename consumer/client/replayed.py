"""An event of a replay: what is asked of every event is at hand, its typed content is made when it is asked for."""

from __future__ import annotations

from datetime import datetime

from consumer.audit.entry import Entry, Place
from consumer.journal.reader import LogRecord
from schemas.events import Event, EventData, decode


class ReplayedEvent:
    """One event that holds. Making typed events takes longer than all else of a replay, and most are passed over."""

    __slots__ = ("_event", "_record", "execution_id", "name", "seq")

    def __init__(self, entry: Entry) -> None:
        self.execution_id = entry.execution_id
        self.seq = entry.seq
        self.name = entry.name
        """The type without prefix and version: `step.started`."""
        self._record: LogRecord = entry.record
        self._event: Event | None = None

    @property
    def value(self) -> bytes:
        """The CloudEvent as it lies in the topic."""
        return self._record.value or b""

    @property
    def place(self) -> Place:
        """Where it lies: topic, partition, offset."""
        return Place(self._record.topic, self._record.partition, self._record.offset)

    @property
    def event(self) -> Event:
        """The typed event. Raises EventError where its content is not what this version knows of its type."""
        if self._event is None:
            self._event = decode(self.value)
        return self._event

    @property
    def subject(self) -> str:
        """The execution's id, by its name in CloudEvents."""
        return self.execution_id

    @property
    def time(self) -> datetime:
        """When it happened. Raises EventError, as `event` does."""
        return self.event.time

    @property
    def data(self) -> EventData:
        """Its typed data: `isinstance(event.data, StepSucceeded)`. Raises EventError, as `event` does."""
        return self.event.data

    def __repr__(self) -> str:
        return f"<{self.name} (seq {self.seq}) of {self.execution_id} at {self.place}>"
