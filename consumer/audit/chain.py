"""One execution's events, linked one to the next by number, epoch and hash, in whatever order they come."""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Callable
from itertools import pairwise

from consumer.audit.entry import Entry, Place
from consumer.audit.findings import Finding, Kind
from consumer.audit.tale import Tale
from schemas.events import JsonObject

#: Of each hash so many bytes are kept; nobody finds another event with the same 128 bits.
_KEPT = 16
_UNKNOWN = bytes(_KEPT)
_DIGITS = 2 * _KEPT
_NOTHING: JsonObject = {}

Tell = Callable[[Finding], None]
Taken = Callable[["Chain", Entry], None]


class Chain:
    """What is known of an execution so far: some hundred bytes, and 16 for each event.

    `tell` gets what is wrong; `taken` each event that holds, in sequence, and may not keep its content. Where a newer
    owner's event takes the place of one that was given out, it and those after it are given out too.
    """

    __slots__ = (
        "_broken_link",
        "_epochs",
        "_hashes",
        "_last",
        "_offsets",
        "_rival",
        "epoch",
        "execution_id",
        "hash",
        "owner",
        "partition",
        "rewound",
        "seq",
        "story",
        "waiting",
    )

    def __init__(self, execution_id: str, partition: int) -> None:
        self.execution_id = execution_id
        self.partition = partition
        self.seq = 0
        self.hash = ""
        self.epoch = 0
        """The owner's epoch in the last event."""
        self.waiting: dict[int, list[Entry]] = {}
        """Events that came before one that is to come before them, by number."""
        self.owner: tuple[int, str] | None = None
        """The epoch and the agent that the verifier last found to belong together."""
        self.story = Tale()
        """What its events say."""
        self.rewound: int | None = None
        """The number from which on events that were given out were void, as a newer owner's show; None: none were."""
        self._hashes = bytearray()
        self._epochs: list[tuple[int, int]] = []
        self._offsets: dict[str, int] = {}
        self._last: Entry | None = None
        self._rival: tuple[Entry, Finding] | None = None
        self._broken_link: Finding | None = None

    @property
    def end(self) -> Place | None:
        """Where the last event lies."""
        return self._last.place if self._last else None

    @property
    def last(self) -> Entry | None:
        """The last event, without its content."""
        return self._last

    def rest(self) -> None:
        """Lets go of what is not needed to name the last event: nothing is expected to come."""
        last = self._last
        if last is not None:
            last.record = last.record._replace(key=None, value=None, headers=())
            last.execution_id, last.prev = self.execution_id, ""

    def knows(self, seq: int, digest: str) -> bool | None:
        """Whether the event of that number has that hash; None where it was not there to be seen."""
        kept = self._hash_at(seq)
        return None if kept == _UNKNOWN else kept == _short(digest)

    def add(self, entry: Entry, tell: Tell, taken: Taken) -> None:
        """Takes the next record."""
        if entry.seq == self.seq + 1:
            self._link(entry, tell, taken)
            if self.waiting:
                while self.seq + 1 in self.waiting:
                    self._take_waiting(tell, taken)
        elif entry.seq > self.seq:
            self.waiting.setdefault(entry.seq, []).append(entry)
        else:
            self._again(entry, tell, taken)

    def jump(self, tell: Tell, taken: Taken) -> int:
        """Goes over what is missing before the next waiting event; how many were missing."""
        number = min(self.waiting)
        missing = number - 1 - self.seq
        entry = max(self.waiting[number], key=_epoch)
        self._hashes += _UNKNOWN * (missing - 1) + _short(entry.prev)
        self.seq, self.hash, self._rival = number - 1, entry.prev, None
        while self.seq + 1 in self.waiting:
            self._take_waiting(tell, taken)
        return missing

    def _take_waiting(self, tell: Tell, taken: Taken) -> None:
        entries = self.waiting.pop(self.seq + 1)
        if len(entries) > 1:
            entries.sort(key=_epoch, reverse=True)
        self._link(entries[0], tell, taken)
        for entry in entries[1:]:
            if entry.seq == self.seq + 1:  # the first was fenced: it did not count
                self._link(entry, tell, taken)
            else:
                self._again(entry, tell, taken)

    def _link(self, entry: Entry, tell: Tell, taken: Taken) -> None:
        epoch, record = entry.epoch, entry.record
        if epoch < self.epoch:
            tell(
                _finding(Kind.FENCED, entry, f"an owner of epoch {entry.epoch} wrote it after epoch {self.epoch} began")
            )
            return
        if entry.prev != self.hash and entry.flaw is None:
            self._mismatch(entry, tell)
        before = self._offsets.get(record.topic, -1)
        if record.offset < before:
            text = f"it lies before an earlier event of the same execution (at {before})"
            tell(_finding(Kind.REORDERED, entry, text))
        else:
            self._offsets[record.topic] = record.offset
        if epoch > self.epoch or not self._epochs:
            self._epochs.append((entry.seq, epoch))
            self.epoch = epoch
        self._hashes += _short(entry.hash)
        self.seq, self.hash, self._last, self._rival = entry.seq, entry.hash, entry, None
        taken(self, entry)
        entry.raw = entry.data = _NOTHING  # what follows needs its place and its hash alone

    def _mismatch(self, entry: Entry, tell: Tell) -> None:
        """The event does not name the hash of the one before it."""
        last = self._last
        if self._rival is not None and self._rival[0].hash == entry.prev and last is not None:
            _, finding = self._rival  # the other of that number is what the chain goes on from
            finding.place = last.place
            finding.message = f"another event of its number ({self._rival[0].place}) is what the next one follows"
            self._hashes[-_KEPT:] = _short(entry.prev)
            return
        if last is None or last.seq != self.seq:
            text = (
                "it says that an event came before it, and it is the first" if self.seq == 0 else "it is out of chain"
            )
            tell(_finding(Kind.ALTERED, entry, text))
            return
        if self._broken_link is not None and self._broken_link.seq == last.seq - 1:
            # Neither the one before nor the one after agrees with it: it is the one that was exchanged.
            self._broken_link.seq, self._broken_link.place = last.seq, last.place
            self._broken_link.message = "it follows neither the event before it, nor does the one after follow it"
            self._broken_link = None
            return
        text = f"{entry.what} follows an event with another hash: one of the two was exchanged"
        self._broken_link = _finding(Kind.ALTERED, last, text)
        tell(self._broken_link)

    def _again(self, entry: Entry, tell: Tell, taken: Taken) -> None:
        """An event of a number that was there already."""
        known, epoch = self._hash_at(entry.seq), self._epoch_at(entry.seq)
        if known == _short(entry.hash):
            tell(_finding(Kind.DOUBLED, entry, "the same event came before"))
        elif known == _UNKNOWN:
            self._hashes[(entry.seq - 1) * _KEPT : entry.seq * _KEPT] = _short(entry.hash)
        elif entry.epoch < epoch:
            text = f"an owner of epoch {entry.epoch} wrote it; epoch {epoch} has another event of its number"
            tell(_finding(Kind.FENCED, entry, text))
        elif entry.epoch > epoch:
            self._rewind(entry, tell, taken)
        elif entry.flaw is None:
            finding = _finding(
                Kind.FOREIGN, entry, "there is another event of its number and epoch, which the chain has"
            )
            if entry.seq == self.seq:
                self._rival = entry, finding
            tell(finding)

    def _rewind(self, entry: Entry, tell: Tell, taken: Taken) -> None:
        """A newer owner did not know of what stands there from that number on: it is void."""
        count, self.rewound = self.seq - entry.seq + 1, entry.seq
        last = self._last
        finding = _finding(
            Kind.FENCED,
            entry,
            f"it takes the place of {count} that an owner of epoch {self.epoch} wrote when it had lost",
        )
        if last is not None and count == 1:
            finding.place = last.place
            finding.message = f"an owner of epoch {self.epoch} wrote it; {entry.what} of epoch {entry.epoch} holds"
        tell(finding)
        before = entry.seq - 1
        del self._hashes[before * _KEPT :]
        self._epochs = [(seq, epoch) for seq, epoch in self._epochs if seq <= before]
        self.epoch = self._epochs[-1][1] if self._epochs else 0
        follows = before == 0 or self._hash_at(before) in (_short(entry.prev), _UNKNOWN)
        self.seq, self._last, self._rival = before, None, None
        self.hash = entry.prev if follows else "?"
        self._link(entry, tell, taken)

    def _hash_at(self, seq: int) -> bytes:
        return bytes(self._hashes[(seq - 1) * _KEPT : seq * _KEPT]) if 0 < seq <= self.seq else _UNKNOWN

    def _epoch_at(self, seq: int) -> int:
        for (_, epoch), (after, _) in pairwise([*self._epochs, (self.seq + 1, 0)]):
            if seq < after:
                return epoch
        return self.epoch


def _short(digest: str) -> bytes:
    """The first bytes of a hash; of a text that is none, zeros with a mark."""
    try:
        kept = unhexlify(digest[:_DIGITS])
    except ValueError:  # binascii.Error is one
        kept = b""
    return kept if len(kept) == _KEPT else b"\x00" * (_KEPT - 1) + b"\x01"


def _epoch(entry: Entry) -> int:
    return entry.epoch


def _finding(kind: Kind, entry: Entry, text: str) -> Finding:
    return Finding(kind, entry.execution_id, entry.seq, entry.place, f"{entry.what}: {text}")
