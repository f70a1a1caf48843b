"""A signed checkpoint of a trail: against it a later verification shows that nothing before it was changed since.

Hashes alone don't show that: whoever may write to the topics can write an execution anew from its first event with
right hashes, and the state topic forgets. A checkpoint names the last event of each execution by its hash, which
stands for all events before it, and where each partition ended. It is kept where the writer of the topics can't reach
it, and it is signed, so that it is believed wherever it was kept.

What is signed is the RFC 8785 form of `statement`; it holds for each partition the digest of the executions' last
events, and those are listed beside it, so that a verification can name what was changed.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, NamedTuple

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from consumer.errors import AgentError
from consumer.policy import signatures, signing
from consumer.policy.signatures import SignatureError
from schemas.canonical import canonical
from schemas.scalars import format_moment

FORMAT: Final = "wpk-audit-checkpoint"

Channel = Literal["events.progress", "events.logs", "events.results"]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[int, Field(ge=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CheckpointError(AgentError):
    """A checkpoint that can't be believed, or does not belong to this trail; the message says why."""


class Mark(NamedTuple):
    """The last event of an execution when the checkpoint was made."""

    partition: Count
    seq: Number
    hash: Digest
    channel: Channel
    offset: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What the trail was at a moment."""

    made_at: datetime
    prefix: str
    """Of the topics' names."""
    ends: Mapping[tuple[str, int], int]
    """The offset after the last record that was read, by channel and partition."""
    marks: Mapping[str, Mark]
    """By execution."""

    @property
    def name(self) -> str:
        """It, for a human."""
        return f"the checkpoint of {format_moment(self.made_at)}"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Partition(_Model):
    partition: Count
    ends: dict[Channel, Count]
    executions: Count
    digest: Digest


class _Statement(_Model):
    format: Literal["wpk-audit-checkpoint"] = FORMAT
    version: Literal[1] = 1
    made_at: AwareDatetime
    prefix: str
    partitions: tuple[_Partition, ...]

    def signed_bytes(self) -> bytes:
        return canonical(self.model_dump(mode="json"))


class _File(_Model):
    statement: _Statement
    signature: str
    executions: dict[str, Mark]


def seal(checkpoint: Checkpoint, key: signing.SigningKey) -> bytes:
    """The file of a checkpoint, signed with that key."""
    statement = _statement(checkpoint)
    signature = signing.sign(key, statement.signed_bytes())
    file = _File(statement=statement, signature=signature, executions=dict(checkpoint.marks))
    return file.model_dump_json().encode() + b"\n"


def opened(content: bytes, public_key: str) -> Checkpoint:
    """The checkpoint in a file, which the key (PEM) must have signed. Raises CheckpointError, and SignatureError."""
    try:
        file = _File.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        raise CheckpointError(f"it is no checkpoint: {where or 'the file'}: {first['msg']}") from error
    _, public = signatures.load_key(public_key)
    data = file.statement.signed_bytes()
    try:
        made = signatures.made_by(public, signatures.decoded(file.signature, data), data)
    except SignatureError as error:
        raise CheckpointError(str(error)) from error
    if not made:
        raise CheckpointError("its signature is not of that key, or the file was changed; is the key the right one?")
    ends: dict[tuple[str, int], int] = {}
    ends |= {(name, each.partition): end for each in file.statement.partitions for name, end in each.ends.items()}
    found = Checkpoint(made_at=file.statement.made_at, prefix=file.statement.prefix, ends=ends, marks=file.executions)
    if _statement(found) != file.statement:
        raise CheckpointError("the executions that it lists are not those that were signed; the file was changed")
    return found


def _statement(checkpoint: Checkpoint) -> _Statement:
    ends: dict[int, dict[Channel, int]] = defaultdict(dict)
    for (channel, number), end in checkpoint.ends.items():
        ends[number][channel] = end  # type: ignore[index]  # a channel of ours, as the file's model holds
    listed: dict[int, list[tuple[str, Mark]]] = {number: [] for number in sorted(ends)}
    for execution_id, mark in checkpoint.marks.items():
        listed.setdefault(mark.partition, []).append((execution_id, mark))
    partitions = tuple(
        _Partition(partition=number, ends=ends[number], executions=len(marks), digest=_digest(marks))
        for number, marks in listed.items()
    )
    return _Statement(made_at=checkpoint.made_at, prefix=checkpoint.prefix, partitions=partitions)


def _digest(marks: Iterable[tuple[str, Mark]]) -> str:
    """SHA-256 over one JSON array for each execution, each on a line, sorted by their ids."""
    found = hashlib.sha256()
    for execution_id, mark in sorted(marks):
        found.update(orjson.dumps([execution_id, *mark]) + b"\n")
    return found.hexdigest()
