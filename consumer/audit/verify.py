"""Verifying a trail: every record of the event topics in the order of time, then what the state topic knows.

What a chain can't show: an execution of which all records are gone, an end that is cut off, and a trail that somebody
wrote anew from its beginning with right hashes. While the state topic knows an execution (WPK_STATE_RETENTION after its
end) its head is the witness against the first two; a signed checkpoint is one against all three, for what lies before
it; for the rest only who may write to the topics stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, cast

from consumer.audit.chain import Chain
from consumer.audit.checkpoint import Channel, Checkpoint, Mark
from consumer.audit.entry import Entry, Foreign, Place, parse
from consumer.audit.findings import Finding, Kind, Report
from consumer.audit.tale import TELL_NOTHING
from consumer.journal.reader import LogRecord

#: Milliseconds of the topics' time after which an event that others came after is taken as missing.
PATIENCE_MS = 600_000
_SWEEP = 50_000
_LOGS = "events.logs"


class Head(NamedTuple):
    """What the state topic knows of an execution."""

    seq: int
    hash: str
    expected: bool = True
    """Whether events of it must be there: it began after the time from which on they are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is read."""

    channels: Mapping[str, str]
    """The topics' names, with what they are: `events.progress`, `events.logs`, `events.results`."""
    beginnings: Mapping[tuple[str, int], int]
    """The first offset that each partition still holds."""
    execution_id: str | None = None
    """Only this one."""
    from_middle: bool = False
    """Whether the reading begins at a time: what began before is verified from its first event that is read."""
    strict: bool = False
    checkpoint: Checkpoint | None = None
    """What the trail was at an earlier moment."""


Emit = Callable[[Chain, Entry], None]


class Verifier:
    """Takes records, then heads; `report` says what was found. `emit` gets each event that holds, in its sequence."""

    def __init__(self, scope: Scope, emit: Emit | None = None) -> None:
        self.report = Report(strict=scope.strict)
        self.chains: dict[str, Chain] = {}
        self.ends: Mapping[tuple[str, int], int] = {}
        """Up to where each partition was read."""
        self._scope = scope
        self._channels = dict(scope.channels)
        self._checkpoint = scope.checkpoint
        self._emit = emit
        self._waiting: set[Chain] = set()
        self._owners: dict[tuple[int, int], tuple[int, str]] = {}
        """Of each partition's epochs the owner, as chains remember it."""
        self._logs_since: dict[int, int] = {}
        self._next_sweep = _SWEEP

    def add(self, records: Iterable[LogRecord]) -> None:
        """The next records, in the order of their times."""
        only, count = None if self._scope.execution_id is None else self._scope.execution_id.encode(), 0
        for record in records:
            count += 1
            if only is None or record.key == only:
                self._add(record)
        self.report.records += count
        if self.report.records >= self._next_sweep:
            self._next_sweep = self.report.records + _SWEEP
            self._sweep(record.timestamp)

    def _add(self, record: LogRecord) -> None:
        channel = self._channels[record.topic]
        if channel == _LOGS:
            self._logs_since.setdefault(record.partition, record.timestamp)
        try:
            entry = parse(record, channel)
        except Foreign as error:
            self._tell_foreign(record, str(error))
            return
        chain = self.chains.get(entry.execution_id)
        if chain is None:
            chain = self.chains[entry.execution_id] = self._begin(entry)
        if entry.flaw is not None:
            self._tell(_about(Kind.ALTERED, entry, entry.flaw))
        elif record.partition != chain.partition:
            self._tell(_about(Kind.FOREIGN, entry, f"the execution's other events are on partition {chain.partition}"))
            return
        elif (entry.epoch, entry.data.get("agent")) != chain.owner:
            self._check_owner(chain, entry)
        chain.add(entry, self._tell, self._taken)
        if chain.waiting:
            self._waiting.add(chain)
        elif self._waiting:
            self._waiting.discard(chain)

    def _begin(self, entry: Entry) -> Chain:
        chain = Chain(entry.execution_id, entry.record.partition)
        self.report.executions += 1
        return chain

    def _check_owner(self, chain: Chain, entry: Entry) -> None:
        """One epoch of a partition is one owner's, and that is one agent."""
        agent, place = entry.text("agent") or "", (entry.record.partition, entry.epoch)
        owner = self._owners.setdefault(place, (entry.epoch, agent))
        if owner[1] == agent:
            chain.owner = owner
        else:
            text = f"{agent[:128]} wrote it in epoch {entry.epoch}, which is {owner[1][:128]}'s"
            self._tell(_about(Kind.FOREIGN, entry, text))

    def _taken(self, chain: Chain, entry: Entry) -> None:
        tale = chain.story
        if chain.rewound == entry.seq:
            tale.reopen()
        if entry.name not in TELL_NOTHING or tale.ended is not None:
            for wrong in tale.take(entry):
                if entry.flaw is None and chain.rewound is None:
                    self._tell(_about(Kind.DISAGREES, entry, wrong))
        self.report.events += 1
        if self._checkpoint is not None:
            self._check_place(self._checkpoint, entry)
        if self._emit is not None:
            self._emit(chain, entry)
        if tale.over:
            tale.forget_steps()
            chain.rest()

    def _check_place(self, checkpoint: Checkpoint, entry: Entry) -> None:
        """What lies before a checkpoint's end must have been there then."""
        _, number, offset = entry.place
        if offset >= checkpoint.ends.get((self._scope.channels[entry.record.topic], number), 0):
            return
        mark = checkpoint.marks.get(entry.execution_id)
        if mark is None or entry.seq > mark.seq:
            text = f"it lies before the end that {checkpoint.name} has, which does not know it"
            self._tell(_about(Kind.FOREIGN, entry, text))

    # --- what is missing ---

    @property
    def waiting(self) -> frozenset[tuple[str, int]]:
        """Of each execution that can't go on yet, the number that is missing."""
        return frozenset((chain.execution_id, chain.seq + 1) for chain in self._waiting)

    def _sweep(self, now: int) -> None:
        for chain in [*self._waiting]:
            newest = max(entry.record.timestamp for entries in chain.waiting.values() for entry in entries)
            if now - newest > PATIENCE_MS:
                self._jump(chain)

    def _jump(self, chain: Chain) -> None:
        while chain.waiting:
            before = chain.last
            number = min(chain.waiting)
            after = chain.waiting[number][0]
            begins, seq = chain.seq == 0, chain.seq
            only_logs = not begins and self._logs_expired(chain.partition, before)
            if not only_logs:
                chain.story.forget_steps()  # before those that follow are taken: what they rest on is not known
            missing = chain.jump(self._tell, self._taken)
            if only_logs:
                self.report.expired += missing
            elif begins and (self._scope.from_middle or self._has_expired(chain.partition)):
                self.report.begun_before += 1
            else:
                self._tell(_missing(seq, number, before, after))
        self._waiting.discard(chain)

    def _has_expired(self, partition: int) -> bool:
        """Whether retention took anything from the partition of any topic."""
        return any(self._scope.beginnings.get((topic, partition), 0) > 0 for topic in self._scope.channels)

    def _logs_expired(self, partition: int, before: Entry | None) -> bool:
        """Whether log lines that came after that event are beyond the log topic's retention."""
        topic = next(name for name, channel in self._scope.channels.items() if channel == _LOGS)
        if not self._scope.beginnings.get((topic, partition), 0):
            return False
        since = self._logs_since.get(partition)
        return since is None or before is None or before.record.timestamp <= since

    # --- the end ---

    def finish(self) -> None:
        """All records were read."""
        for chain in [*self._waiting]:
            self._jump(chain)

    def witness(self, heads: Mapping[str, Head]) -> list[str]:
        """Compares with what the state topic knew when the reading began.

        Gives the executions that have no end and of which it knew nothing: it must be looked at once more, since they
        may have begun meanwhile.
        """
        for execution_id, head in heads.items():
            chain = self.chains.get(execution_id)
            if chain is None:
                if head.expected:
                    self._tell_cut(execution_id, head, None)
            elif chain.seq < head.seq:
                self._tell_cut(execution_id, head, chain)
            elif chain.knows(head.seq, head.hash) is False:
                place = chain.end if head.seq == chain.seq else None
                text = f"seq {head.seq} is not the event that the state topic knows; the trail ends at {chain.end}"
                self._tell(Finding(Kind.ALTERED, execution_id, head.seq, place, text))
        self.report.unchecked_ends = sum(name not in heads for name in self.chains)
        return [
            name
            for name, chain in self.chains.items()
            if name not in heads and chain.story.accepted and not chain.story.over
        ]

    def lost(self, execution_ids: Iterable[str]) -> None:
        """Of these, which have no end, no agent knows anything."""
        for name in execution_ids:
            chain = self.chains[name]
            text = f"seq {chain.seq} is the last event, without a result, and no agent knows of it: it is cut off"
            self._tell(Finding(Kind.CUT, name, chain.seq, chain.end, text))

    def attest(self, checkpoint: Checkpoint) -> None:
        """Compares with what was signed at an earlier moment."""
        self.report.checkpoint = checkpoint.name
        names = {channel: topic for topic, channel in self._scope.channels.items()}
        for execution_id, mark in checkpoint.marks.items():
            if self._scope.execution_id in (None, execution_id):
                place = Place(names[mark.channel], mark.partition, mark.offset)
                self._attest(checkpoint.name, execution_id, mark, place)

    def _attest(self, name: str, execution_id: str, mark: Mark, place: Place) -> None:
        chain = self.chains.get(execution_id)
        holds = None if chain is None else chain.knows(mark.seq, mark.hash)
        known = f"{name} knows {mark.seq} events of it"
        if holds:
            self.report.attested += 1
        elif chain is not None and chain.rewound is not None and chain.rewound <= mark.seq:
            text = f"seq {mark.seq} is not the event that {name} names; a newer owner took its place"
            self._tell(Finding(Kind.FENCED, execution_id, mark.seq, place, text))
        elif holds is False:
            text = f"seq {mark.seq} is not the event that {name} names: events were changed or written anew since"
            self._tell(Finding(Kind.ALTERED, execution_id, mark.seq, place, text))
        elif self._scope.beginnings.get((place.topic, place.partition), 0) > mark.offset:
            self.report.beyond += 1
        elif chain is None:
            self._tell(Finding(Kind.CUT, execution_id, mark.seq, place, f"{known}, and none of it is there any more"))
        elif chain.seq < mark.seq:
            text = f"{known}, and seq {chain.seq} is the last that is there: the rest was removed"
            self._tell(Finding(Kind.CUT, execution_id, mark.seq, chain.end, text))
        else:
            text = f"{known}, and the last of them is not there any more, though later ones are"
            self._tell(Finding(Kind.MISSING, execution_id, mark.seq, place, text))

    def checkpoint(self, made_at: datetime, prefix: str) -> Checkpoint:
        """What was read."""
        channels = self._scope.channels
        marks = {}
        for execution_id, chain in self.chains.items():
            if chain.end is not None:
                topic, number, offset = chain.end
                channel = cast(Channel, channels[topic])
                marks[execution_id] = Mark(number, chain.seq, chain.hash, channel, offset)
        found = {(channels[topic], number): end for (topic, number), end in self.ends.items()}
        return Checkpoint(made_at=made_at, prefix=prefix, ends=found, marks=marks)

    def _tell_cut(self, execution_id: str, head: Head, chain: Chain | None) -> None:
        if chain is None:
            text = f"the state topic knows {head.seq} events of it, and none is there"
            self._tell(Finding(Kind.CUT, execution_id, 1, None, text))
            return
        text = f"seq {chain.seq} is the last event; the state topic knows of {head.seq}: the end is cut off"
        self._tell(Finding(Kind.CUT, execution_id, chain.seq, chain.end, text))

    # --- telling ---

    def _tell(self, finding: Finding) -> None:
        self.report.add(finding)

    def _tell_foreign(self, record: LogRecord, text: str) -> None:
        place = Place(record.topic, record.partition, record.offset)
        self._tell(Finding(Kind.FOREIGN, None, None, place, f"the record at {place} {text}"))


def _about(kind: Kind, entry: Entry, text: str) -> Finding:
    return Finding(kind, entry.execution_id, entry.seq, entry.place, f"{entry.what}: {text}")


def _missing(seq: int, number: int, before: Entry | None, after: Entry) -> Finding:
    gone = f"seq {seq + 1} is" if number == seq + 2 else f"seq {seq + 1} to {number - 1} are"
    where = f"between {before.place} and {after.place}" if before else f"before {after.place}"
    return Finding(Kind.MISSING, after.execution_id, seq + 1, after.place, f"{gone} missing {where}")
