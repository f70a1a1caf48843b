"""What is said of an owner of a partition: who it is, its bounds, where it is in its life, and what keeps it up."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consumer.ports import CommandTopic, Record


class Phase(enum.Enum):
    """Where an owner is in its life."""

    FENCING = "fencing"
    RESTORING = "restoring"
    ACTIVE = "active"
    QUIESCING = "quiescing"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who claims the partition."""

    agent: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of an owner, in bytes and seconds."""

    record_bytes: int = 1_000_000
    """The largest record; see `topics.TopicReport.record_limit`."""
    batch_bytes: int = 4 << 20
    batch_records: int = 5_000
    backlog_bytes: int = 16 << 20
    """More than this queued makes `backlog` wait."""
    backlog_records: int = 20_000
    start_seconds: float = 60.0
    write_seconds: float = 30.0
    """A write that takes longer has an unknown outcome: the owner recovers."""
    mend_soon_seconds: float = 10.0
    """How long after a take-over or a recovery records are looked for that came late; see `PartitionOwner`."""
    proof_seconds: float = 5.0
    """An effect begins only if the ownership was proven so recently."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nothing is written at present."""

    since: float
    """On the monotonic clock."""
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What is written at once."""

    number: int
    records: Sequence[Record]
    offsets: Mapping[CommandTopic, int]


@dataclass(slots=True)
class Stats:
    """What an owner has done so far, for metrics."""

    batches: int = 0
    records: int = 0
    bytes: int = 0
    last_write_seconds: float = 0.0
    restored: int = 0
    """Records of the state topic that were read to take the partition."""
