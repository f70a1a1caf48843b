"""Everything that the topics hold after quiet, as plain records: read once by librdkafka, once by aiokafka.

`read` is the whole of it. Nothing of the agent's own reading is used, so that a mistake there can't hide itself here.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMANDS = ("commands.execute", "commands.rollback", "commands.control")
EVENTS = ("events.progress", "events.logs", "events.results")
STATE, DEAD = "state", "dead-letter"
ROLES = (*COMMANDS, *EVENTS, STATE, DEAD)

Place = tuple[str, int]
"""Role of a topic, and partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record that a `read_committed` reader sees."""

    role: str
    """The topic's name without the prefix."""
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def place(self) -> str:
        """Where it lies, for a human."""
        return f"{self.role}-{self.partition}@{self.offset}"

    def header(self, name: str) -> str | None:
        """The last header of that name."""
        return next((value.decode(errors="replace") for key, value in reversed(self.headers) if key == name), None)


@dataclass(slots=True, kw_only=True)
class History:
    """What lies in the topics of one prefix."""

    prefix: str
    partitions: int
    records: dict[Place, list[Record]] = field(default_factory=lambda: defaultdict(list))
    """In the order of the offsets."""
    ends: dict[Place, int] = field(default_factory=dict)
    """High watermarks: where the next record comes."""
    stable: dict[Place, int] = field(default_factory=dict)
    """Last stable offsets: below the high watermark where a transaction is open."""
    committed: dict[Place, int] = field(default_factory=dict)
    """The group's offsets of the command topics, where there are any."""
    disagreements: list[str] = field(default_factory=list)
    """What the two readers saw otherwise."""

    def of(self, *roles: str) -> Iterator[Record]:
        """The records of these topics, partition by partition."""
        for role in roles:
            for partition in range(self.partitions):
                yield from self.records.get((role, partition), ())

    def topic(self, role: str) -> str:
        """The topic's whole name."""
        return f"{self.prefix}.{role}"


def compare(history: History, others: dict[Place, list[Record]], name: str) -> list[str]:
    """What another reader saw otherwise. Compaction may have taken records away meanwhile, of the state alone."""
    found: list[str] = []
    for role in ROLES:
        for partition in range(history.partitions):
            place = role, partition
            mine = {record.offset: record for record in history.records.get(place, ())}
            theirs = {record.offset: record for record in others.get(place, ())}
            missing, extra = mine.keys() - theirs.keys(), theirs.keys() - mine.keys()
            if role == STATE:
                newest = {record.key: record.offset for record in history.records.get(place, ())}
                kept = {offset for key, offset in newest.items() if mine[offset].value is not None}
                missing &= kept
            found += [f"{mine[offset].place} is not seen by {name}" for offset in sorted(missing)]
            found += [f"{theirs[offset].place} is seen by {name} alone" for offset in sorted(extra)]
            both = sorted(mine.keys() & theirs.keys())
            found += [f"{mine[at].place} is another record for {name}" for at in both if mine[at] != theirs[at]]
    return found


# --- kept in a file ---


def save(history: History, file: Path) -> None:
    """Keeps it as JSON Lines: first what is said of the partitions, then each record."""
    with file.open("w") as out:
        about = {
            "prefix": history.prefix,
            "partitions": history.partitions,
            "disagreements": history.disagreements,
            **{
                name: [[role, partition, offset] for (role, partition), offset in sorted(offsets.items())]
                for name, offsets in _offsets(history)
            },
        }
        out.write(json.dumps(about) + "\n")
        for record in history.of(*ROLES):
            out.write(json.dumps(_plain(record)) + "\n")


def load(file: Path) -> History:
    """What `save` kept."""
    with file.open() as lines:
        about = json.loads(next(lines))
        history = History(prefix=about["prefix"], partitions=about["partitions"], disagreements=about["disagreements"])
        for name, offsets in _offsets(history):
            offsets.update({(role, partition): offset for role, partition, offset in about[name]})
        for line in lines:
            record = _record(json.loads(line))
            history.records[record.role, record.partition].append(record)
    return history


def _offsets(history: History) -> Iterable[tuple[str, dict[Place, int]]]:
    return ("ends", history.ends), ("stable", history.stable), ("committed", history.committed)


def _plain(record: Record) -> dict[str, Any]:
    return {
        "role": record.role,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": _text(record.key),
        "value": _text(record.value),
        "headers": [[name, _text(value)] for name, value in record.headers],
    }


def _record(raw: dict[str, Any]) -> Record:
    headers = tuple((name, _bytes(value) or b"") for name, value in raw["headers"])
    return Record(**(raw | {"key": _bytes(raw["key"]), "value": _bytes(raw["value"]), "headers": headers}))


def _text(value: bytes | None) -> str | dict[str, str] | None:
    """As text, so that the file can be read and searched; what is none, as base64."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _bytes(value: str | dict[str, str] | None) -> bytes | None:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"])
    return None if value is None else value.encode()
