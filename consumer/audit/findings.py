"""What a verification finds, and its report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from consumer.audit.entry import Place


class Kind(StrEnum):
    """What is wrong with a record, or with an execution."""

    ALTERED = "altered"
    """Its content is not what was hashed, or its hash is not what the next event or the state knows."""
    MISSING = "missing"
    """Events between two others, or at the beginning, are not there."""
    CUT = "cut"
    """The end is not there: the state topic knows more, or nobody knows how it ended."""
    FOREIGN = "foreign"
    """No agent wrote it: no event, under another key, in another topic, on another partition, or beside the chain."""
    REORDERED = "reordered"
    """It lies before events that came before it."""
    DOUBLED = "doubled"
    """It is there twice. Readers take it once; a trail of exactly_once has no such."""
    FENCED = "fenced"
    """An owner wrote it that had lost the partition. Readers pass it over; a trail of exactly_once has no such."""
    DISAGREES = "disagrees"
    """A result does not say what the events before it say, or something comes after the end."""


#: What an owner that was lost may leave with at_least_once: harmless, since every reader passes it over.
VOID = frozenset({Kind.DOUBLED, Kind.FENCED})
#: Of void records so many are kept to be shown.
MOST_VOID = 1_000


@dataclass(slots=True)
class Finding:
    """One thing that is wrong, and where."""

    kind: Kind
    execution_id: str | None
    seq: int | None
    place: Place | None
    """The record; None where there is no record left to name."""
    message: str
    """A sentence that goes on after `execution …`."""


@dataclass(slots=True)
class Report:
    """What came of a verification."""

    strict: bool = False
    """Whether void records count as broken: the trail was written with exactly_once throughout."""
    records: int = 0
    events: int = 0
    """Events that hold: one of each number."""
    executions: int = 0
    expired: int = 0
    """Events that retention took from between others; most are log lines, which are kept for a shorter time."""
    begun_before: int = 0
    """Executions whose beginning was not read (--from), or that retention took: verified from their first event on."""
    unchecked_ends: int = 0
    """Executions of which the state topic knows nothing any more, so that only the chain speaks for their end."""
    checkpoint: str | None = None
    """The signed checkpoint that the trail was compared with."""
    attested: int = 0
    """Executions that are still what that checkpoint says."""
    beyond: int = 0
    """Executions of the checkpoint whose last event then is beyond the retention."""
    void: list[Finding] = field(default_factory=list)
    """What readers pass over, the first so many; `counts` has all."""
    counts: Counter[Kind] = field(default_factory=Counter)
    _first: dict[str, Finding] = field(default_factory=dict)
    _nameless: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Takes a finding; of what is broken the first in an execution is kept, all are counted."""
        self.counts[finding.kind] += 1
        if finding.kind in VOID and not self.strict:
            if len(self.void) < MOST_VOID:
                self.void.append(finding)
        elif finding.execution_id is None:
            self._nameless.append(finding)
        else:
            known = self._first.get(finding.execution_id)
            if known is None or (finding.seq or 0) < (known.seq or 0):
                self._first[finding.execution_id] = finding

    @property
    def broken(self) -> list[Finding]:
        """What is broken: the first of each execution, and records that are of none; in the order of their places."""
        return sorted([*self._nameless, *self._first.values()], key=_by_place)

    @property
    def broken_executions(self) -> int:
        """How many executions do not verify."""
        return len(self._first)

    @property
    def holds(self) -> bool:
        """Whether nothing is broken."""
        return not self._first and not self._nameless


def _by_place(finding: Finding) -> tuple[str, int, int]:
    place = finding.place
    return (place.topic, place.partition, place.offset) if place else ("", -1, -1)
