"""The records of one partition that were fetched and not yet taken: which is next, which waits, when it is enough."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import orjson

from consumer.intake.decode import RawRecord
from consumer.ports import CommandTopic

#: A topic's partition is paused while so much of it waits here (records, bytes).
QUEUE_RECORDS = 500
QUEUE_BYTES = 2 << 20
#: How long a rollback or control command waits for the execute command that it names (seconds): the topics are not
#: ordered to each other, so that it may be read first although it was sent later. Counted from when it was fetched, so
#: that many such commands wait at the same time and not one after the other.
PATIENCE = 2.0


class Inbox:
    """See the module. The oldest record of each topic is its head; heads are taken in the order of their times."""

    def __init__(self) -> None:
        self._queues: dict[CommandTopic, deque[tuple[float, RawRecord]]] = {role: deque() for role in CommandTopic}
        self._bytes = dict.fromkeys(CommandTopic, 0)
        self._expected: dict[CommandTopic, int] = {}
        self._put_off: dict[CommandTopic, float] = {}

    def forget(self) -> None:
        """Nothing waits, and nothing is known of what was taken."""
        self.expect({})

    def expect(self, offsets: Mapping[CommandTopic, int]) -> None:
        """Begins anew: nothing waits, and what lies before these offsets was taken."""
        for queue in self._queues.values():
            queue.clear()
        self._bytes = dict.fromkeys(CommandTopic, 0)
        self._expected = dict(offsets)
        self._put_off.clear()

    def push(self, record: RawRecord) -> None:
        """Takes a fetched record in, unless it was before."""
        if record.offset < self._expected.get(record.role, 0):
            return
        self._expected[record.role] = record.offset + 1
        self._queues[record.role].append((time.monotonic(), record))
        self._bytes[record.role] += len(record.value or b"")

    def rewind(self, role: CommandTopic, offset: int) -> None:
        """The topic begins anew at that offset, lower than what was taken: its records are others."""
        self._expected[role] = offset

    def next_offset(self, role: CommandTopic) -> int | None:
        """The next offset to be fetched; None where that is the topic's beginning, since nothing was ever consumed."""
        return self._expected.get(role)

    def full(self, role: CommandTopic) -> bool:
        """Whether more of that topic should not be fetched now."""
        return len(self._queues[role]) >= QUEUE_RECORDS or self._bytes[role] >= QUEUE_BYTES

    def head(self, *, room: bool) -> RawRecord | None:
        """The record to be taken next. Without `room` for executions execute commands wait, and others never do."""
        now = time.monotonic()
        heads = [
            queue[0][1]
            for role, queue in self._queues.items()
            if queue and (room or role is not CommandTopic.EXECUTE) and self._put_off.get(role, 0.0) <= now
        ]
        return min(heads, key=lambda record: record.timestamp_ms, default=None)

    @property
    def waits(self) -> bool:
        """Whether a head was put off: it must be looked at again although nothing new comes."""
        return bool(self._put_off)

    def put_off(self, role: CommandTopic) -> bool:
        """Lets the topic's head wait for what other topics bring, until its time is over; False: it is over."""
        until = self._queues[role][0][0] + PATIENCE
        if time.monotonic() >= until:
            return False
        self._put_off[role] = until
        return True

    def put_off_again(self, role: CommandTopic, seconds: float) -> None:
        """Lets the topic's head wait a little longer."""
        self._put_off[role] = time.monotonic() + seconds

    def done(self, record: RawRecord) -> None:
        """The topic's head was taken."""
        self._queues[record.role].popleft()
        self._bytes[record.role] -= len(record.value or b"")
        self._put_off.pop(record.role, None)
        if record.role is CommandTopic.EXECUTE:
            self._put_off = dict.fromkeys(self._put_off, 0.0)  # it may have been what others wait for

    def holds(self, execution_id: str) -> bool:
        """Whether an execute command with that id waits here."""
        name = execution_id.encode()
        return any(
            record.key == name or (name in (record.value or b"") and _names(record.value, execution_id))
            for _, record in self._queues[CommandTopic.EXECUTE]
        )


def _names(value: bytes | None, execution_id: str) -> bool:
    """Whether the command is for that execution: the id may also be part of another one, or of the package."""
    try:
        command = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return False
    return isinstance(command, dict) and command.get("execution_id") == execution_id
