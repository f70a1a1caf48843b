"""Which records of a state partition count: the pure rule that every reader of it follows.

Each owner writes a claim before anything else, and the claim's offset is the owner's epoch, which all its state
records carry. A claim names the epoch it was made after, as a compare-and-set would: where two agents believe in the
same moment that the partition is theirs, the log's order decides, and the second claim is void. With transactions the
broker fences and nothing is ever void; without them this rule is the fence.

Claims share one key, so that compaction may leave a void claim and take the valid one away. What the valid owner wrote
still tells: only an owner that found its claim valid writes under its epoch, and it does so at once. A claim is
therefore refuted by any record whose epoch lies between the one it names and its own.

An owner numbers its batches, and state records carry that number too. Where a write's outcome was unknown the owner
writes the batch again, under the same number, by another connection; what the network still held of the first attempt
may come after later batches, and is void for its lower number.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from consumer.ports import CommandTopic

#: Keys of the journal's own records in the state topic. No execution id can be one: `@` is not allowed in ids.
OWNER_KEY = b"@owner"
OFFSETS_KEY = b"@offsets"
MARK_KEY = b"@mark"
EPOCH_HEADER = "epoch"
BATCH_HEADER = "batch"


def is_reserved(key: bytes | None) -> bool:
    """Whether a state record belongs to the journal itself and not to an execution."""
    return key is not None and key.startswith(b"@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an owner writes to the state partition when it takes it."""

    agent: str
    group: str
    at: str
    """When, in ISO 8601."""
    after: int | None
    """The epoch of the owner before, as this one read it; None where there was none."""
    token: str
    """Unlike any other: by it the owner finds its own claim in the log."""

    def encode(self) -> bytes:
        """The record's value."""
        fields = {
            "agent": self.agent,
            "group": self.group,
            "at": self.at,
            "after": self.after,
            "token": self.token,
        }
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, value: bytes) -> Claim:
        """The claim of a record's value. Raises ValueError."""
        match json.loads(value):
            case {"agent": str(agent), "group": str(group), "at": str(at), "after": after, "token": str(token)} if (
                after is None or type(after) is int
            ):
                return cls(agent=agent, group=group, at=at, after=after, token=token)
            case other:
                raise ValueError(f"no claim: {other!r:.200}")


class Lineage:
    """Follows the owners of one state partition through its log."""

    def __init__(self, epoch: int | None = None, batch: int = 0) -> None:
        self.epoch = epoch
        """The epoch of the present owner, so far."""
        self._refuted_above = 0 if epoch is None else epoch
        self._batch = batch

    def claim(self, offset: int, after: int | None) -> bool:
        """Takes note of a claim; whether it is valid."""
        if self.epoch is not None and (after is None or after < self.epoch):
            return False
        self.epoch = offset
        self._refuted_above = -1 if after is None else after
        self._batch = 0
        return True

    def record(self, epoch: int, batch: int = 0) -> bool:
        """Whether a state record of that epoch's batch counts."""
        if epoch == self.epoch:
            if batch < self._batch:
                return False
        elif self.epoch is None or epoch > self._refuted_above:
            # The claim of that epoch was compacted away; one between it and the present claim's refutes the latter.
            self.epoch = self._refuted_above = epoch
        else:
            return False
        self._batch = batch
        return True


def epoch_of(headers: tuple[tuple[str, bytes], ...]) -> int | None:
    """The epoch in a state record's headers; None where there is none to read."""
    return _number(headers, EPOCH_HEADER)


def batch_of(headers: tuple[tuple[str, bytes], ...]) -> int:
    """The number of the batch in a state record's headers; 0 where there is none to read."""
    return _number(headers, BATCH_HEADER) or 0


def stamp(epoch: int, batch: int) -> tuple[tuple[str, bytes], ...]:
    """The headers that a state record of that batch carries."""
    return ((EPOCH_HEADER, str(epoch).encode()), (BATCH_HEADER, str(batch).encode()))


def _number(headers: tuple[tuple[str, bytes], ...], wanted: str) -> int | None:
    for name, value in reversed(headers):
        if name == wanted:
            return int(value) if value.isdigit() else None
    return None


def encode_offsets(offsets: dict[CommandTopic, int]) -> bytes:
    """The value of the record under `OFFSETS_KEY`."""
    return json.dumps({topic.value: offset for topic, offset in sorted(offsets.items())}).encode()


def decode_offsets(value: bytes) -> dict[CommandTopic, int]:
    """What `encode_offsets` wrote. Raises ValueError."""
    match json.loads(value):
        case dict() as offsets if all(type(offset) is int for offset in offsets.values()):
            known = {topic.value for topic in CommandTopic}
            return {CommandTopic(name): offset for name, offset in offsets.items() if name in known}
        case other:
            raise ValueError(f"no offsets: {other!r:.200}")
