"""One record of the event topics as the audit sees it: parsed, but not validated by models, which are too slow here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import NamedTuple

import orjson
from pydantic import JsonValue

from consumer.journal.reader import LogRecord
from schemas.canonical import canonical
from schemas.events import EVENT_TYPES, JsonObject

_PREFIX, _SUFFIX = "wpk.", ".v1"
#: Of each type its name without prefix and version, and the channel that it belongs to.
_TYPES = {kind: (model.name, model.channel) for kind, model in EVENT_TYPES.items()}
#: By how much an event's bytes are longer than those that are hashed: `,"hash":"…"`.
_HASH_FIELD = 74
#: Looked up once: they are called for each of millions of records.
_loads, _dumps, _sha256, _SORTED = orjson.loads, orjson.dumps, hashlib.sha256, orjson.OPT_SORT_KEYS
_MAY_BE_WHOLE = frozenset({float, dict, list})


class Place(NamedTuple):
    """Where a record lies."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}@{self.offset}"


class Foreign(ValueError):
    """A record that no agent wrote; the text says what it is instead."""


@dataclass(slots=True, eq=False)
class Entry:
    """An event with its place."""

    record: LogRecord
    execution_id: str
    seq: int
    epoch: int
    hash: str
    """What it says its hash is."""
    prev: str
    name: str
    """The type without prefix and version: `step.started`."""
    raw: JsonObject
    """The CloudEvent, without the hash in its data."""
    data: JsonObject
    flaw: str | None
    """Why its content is not what its hash was taken over; None: it is."""

    @property
    def place(self) -> Place:
        """Where it lies."""
        return Place(self.record.topic, self.record.partition, self.record.offset)

    @property
    def what(self) -> str:
        """It, for a human."""
        return f"{self.name} (seq {self.seq}) at {self.place}"

    def text(self, name: str) -> str | None:
        """A field of its data, where that is text."""
        value = self.data.get(name)
        return value if isinstance(value, str) else None


def parse(record: LogRecord, channel: str) -> Entry:
    """The event in a record of that channel (`events.progress`). Raises Foreign.

    A flaw in the hash is noted, not raised: such an event still has its place in the chain.
    """
    value = record.value or b""
    try:
        raw = _loads(value)
        data, kind = raw["data"], raw["type"]
        claimed = data.pop("hash")
        execution_id, seq, epoch, prev = data["execution_id"], data["seq"], data["attempt_epoch"], data["prev_hash"]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Foreign("is no event of an agent") from error
    texts = type(execution_id) is type(prev) is type(claimed) is type(kind) is str
    if not (texts and type(seq) is type(epoch) is int and seq >= 1):
        raise Foreign("is no event of an agent: a field that all events have is of another kind")
    if record.key != execution_id.encode() or raw.get("subject") != execution_id:
        raise Foreign(f"is an event of execution {execution_id[:128]} under another key or subject")
    known = _TYPES.get(kind)
    if known is None:
        name = kind.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    else:
        name, home = known
        if home != channel:
            raise Foreign(f"is of type {kind}, which belongs to another topic")
    # Sorted JSON is nearly always the canonical form already. Where it has the claimed hash, the content is what was
    # hashed, since other content has other bytes; only where it has not, the canonical form is worked out.
    sorted_bytes = _dumps(raw, None, _SORTED)
    flaw = None
    if _sha256(sorted_bytes).hexdigest() != claimed and not _is_hash_of(claimed, raw):
        flaw = "its hash is not that of its content"
    elif len(value) != len(sorted_bytes) + _HASH_FIELD and _is_ambiguous(value):
        flaw = "a name stands in it twice, so that readers may see different values"
    return Entry(record, execution_id, seq, epoch, claimed, prev, name, raw, data, flaw)


def _is_hash_of(claimed: str, raw: dict[str, JsonValue]) -> bool:
    """By the canonical form: first the quick way, for whole numbers written as 2.0, then the exact one."""
    if _sha256(_dumps(_whole(raw), None, _SORTED)).hexdigest() == claimed:
        return True
    try:
        return _sha256(canonical(raw)).hexdigest() == claimed
    except ValueError:  # it has no canonical form
        return False


def _whole(value: JsonValue) -> JsonValue:
    """The value with whole numbers as RFC 8785 writes them: 2, not 2.0."""
    if isinstance(value, dict):
        return {name: _whole(item) if type(item) in _MAY_BE_WHOLE else item for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) if type(item) in _MAY_BE_WHOLE else item for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _is_ambiguous(value: bytes) -> bool:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise Foreign
        return dict(pairs)

    try:
        json.loads(value, object_pairs_hook=once)
    except Foreign:
        return True
    except (ValueError, RecursionError):
        return False
    return False
