"""What an agent writes for one command: the records of a real run, which the floor writes again without any thought."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from confluent_kafka import Message

from consumer.ports import Topic


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordShape:
    """One record without its meaning; sizes in bytes."""

    role: str
    """The topic's name without its prefix."""
    key: int
    value: int
    headers: list[tuple[str, int]]


def of_run(messages: Sequence[Message], prefix: str, execution_id: bytes) -> list[RecordShape]:
    """The records of that execution, in the order of their time: events before the state that tells of them."""
    found = [message for message in messages if execution_id in (message.key() or b"")]
    assert found, f"no record has {execution_id!r} in its key"
    found.sort(key=lambda message: (message.timestamp()[1], str(message.topic()).endswith(Topic.STATE.value)))
    return [
        RecordShape(
            role=str(message.topic()).removeprefix(f"{prefix}."),
            key=len(message.key() or b""),
            value=len(message.value() or b""),
            headers=[(name, len(value or b"")) for name, value in dict(message.headers() or []).items()],
        )
        for message in found
    ]


def save(shape: Sequence[RecordShape], file: Path) -> None:
    """Writes it for the floor's process."""
    file.write_text(json.dumps([asdict(record) for record in shape]))


def load(file: Path) -> list[RecordShape]:
    """Reads what `save` wrote."""
    return [RecordShape(**record) for record in json.loads(file.read_text())]


def size(record: RecordShape) -> int:
    """Its bytes, without what Kafka's batches add."""
    return record.key + record.value + sum(len(name) + length for name, length in record.headers)


def told(shape: Sequence[RecordShape]) -> dict[str, str]:
    """For people: by topic, how many records of how many bytes."""
    by_role: dict[str, list[int]] = {}
    for record in shape:
        by_role.setdefault(record.role, []).append(size(record))
    return {role: f"{len(sizes)} records, {sum(sizes)} bytes" for role, sizes in sorted(by_role.items())}
