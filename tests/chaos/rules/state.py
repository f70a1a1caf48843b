"""What the agents go on from after a crash: the state topic and the offsets agree with what the events say."""

from __future__ import annotations

import json
from collections.abc import Iterator

from consumer.journal.lineage import Lineage
from tests.chaos.history import COMMANDS, STATE, Record
from tests.chaos.rules.owners import OFFSETS, OWNER, epoch_of
from tests.chaos.view import Finding, View, rule


def newest(view: View, partition: int) -> dict[bytes, Record]:
    """The newest record of each key; with at_least_once of those that count."""
    found: dict[bytes, Record] = {}
    lineage = Lineage()
    for record in view.history.records.get((STATE, partition), ()):
        if record.key is None:
            continue
        if not view.exact:
            epoch = epoch_of(record)
            if record.key == OWNER:
                lineage.claim(record.offset, json.loads(record.value or b"{}").get("after"))
            elif epoch is not None and not lineage.record(epoch):
                continue
        found[record.key] = record
    return {key: record for key, record in found.items() if record.value is not None}


@rule("state is the fold")
def state_is_the_fold(view: View) -> Iterator[Finding]:
    """The newest snapshot of each execution is what its events lead to, and there is one for each."""
    heads = _heads(view)
    for name, record in heads.items():
        if name not in view.trails:
            yield f"the state {record.place} is of {name}, which has no events", (record,)
    for name, trail in view.trails.items():
        head = heads.get(name)
        if head is None:
            accepted = any(event.name == "execution.accepted" for event in trail)
            lives = accepted and not any(event.is_end for event in trail)
            if lives or not view.forgets:
                yield f"{name} has no state", trail[-1:]
            continue
        if head.partition != trail[-1].record.partition:
            yield f"the state {head.place} of {name} is not on its events' partition", (head, trail[-1])
        told = json.loads(head.value or b"{}")
        kept = told.get("seq"), told.get("last_hash"), told.get("epoch", 0), told.get("status")
        state = view.folded.get(name)
        wanted = (state.seq, state.last_hash, state.epoch, state.status and state.status.value) if state else None
        if kept != wanted:
            yield f"the state {head.place} of {name} says {kept}; its events lead to {wanted}", (head, trail[-1])


def _heads(view: View) -> dict[str, Record]:
    """The newest record of each execution's own key."""
    return {
        key.decode(): record
        for partition in range(view.history.partitions)
        for key, record in newest(view, partition).items()
        if not key.startswith(b"@") and b"/" not in key
    }


@rule("offsets agree")
def offsets_agree(view: View) -> Iterator[Finding]:
    """After quiet the group's offset, the one in the state, and the end of each command topic are one.

    With at_least_once the higher of the first two: the commit that follows a write may have failed.
    """
    for partition in range(view.history.partitions):
        record = newest(view, partition).get(OFFSETS)
        kept = json.loads(record.value or b"{}") if record is not None else {}
        for role in COMMANDS:
            end = view.history.ends.get((role, partition), 0)
            committed = view.history.committed.get((role, partition), 0)
            in_state = kept.get(role, 0)
            right = committed == in_state == end if view.exact else max(committed, in_state) == end
            if not right:
                message = f"{role}-{partition} ends at {end}; the group's offset is {committed}, the state's {in_state}"
                yield message, (record,) if record is not None else ()
