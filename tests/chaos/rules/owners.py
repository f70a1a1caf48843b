"""Contract 2: one owner of a partition at a time; what a fenced owner wrote is never seen."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.chaos.history import EVENTS, STATE, Record
from tests.chaos.view import Event, Finding, Json, View, rule

OWNER, OFFSETS = b"@owner", b"@offsets"


@rule("epoch never falls in a trail")
def epoch_never_falls_in_trail(view: View) -> Iterator[Finding]:
    """Along the numbers of an execution; with exactly_once no older one exists at all."""
    for name, events in view.every.items() if view.exact else view.trails.items():
        for before, after in pairwise(events):
            if after.epoch < before.epoch:
                yield f"{name}: {after.where} is of an older owner than {before.where}", (before, after)


@rule("no fenced owner seen")
def no_fenced_owner_seen(view: View) -> Iterator[Finding]:
    """With exactly_once epochs never fall in the order of a partition's log, in any topic."""
    if not view.exact:
        return
    newest: dict[tuple[str, int], Event] = {}
    for event in view.events:
        place = event.record.role, event.record.partition
        before = newest.get(place)
        if before is not None and event.epoch < before.epoch:
            message = f"{event.execution}: {event.where} was written after a newer owner's {before.where}"
            yield message, (before, event)
        else:
            newest[place] = event
    for partition in range(view.history.partitions):
        epoch, last = -1, None
        for record in view.history.records.get((STATE, partition), ()):
            own = epoch_of(record)
            if own is not None and own < epoch and last is not None:
                yield f"the state record {record.place} of epoch {own} follows one of epoch {epoch}", (last, record)
            elif own is not None:
                epoch, last = own, record


def epoch_of(record: Record) -> int | None:
    """The owner's epoch that a state record was written under: a claim's is its own offset."""
    if record.key == OWNER:
        return record.offset
    text = record.header("epoch")
    return int(text) if text is not None and text.isdigit() else None


def claims(view: View, partition: int) -> dict[int, Json]:
    """The claims that compaction has left, by offset."""
    found = {}
    for record in view.history.records.get((STATE, partition), ()):
        if record.key == OWNER and record.value:
            found[record.offset] = json.loads(record.value)
    return found


@rule("epoch has a claim")
def epoch_has_a_claim(view: View) -> Iterator[Finding]:
    """Each epoch is the offset of a claim by the agent that wrote under it, unless that claim was compacted away."""
    agents: dict[tuple[int, int], set[str]] = defaultdict(set)
    first: dict[tuple[int, int], Event] = {}
    for event in view.events:
        key = event.record.partition, event.epoch
        agents[key].add(event.data["agent"])
        first.setdefault(key, event)
    for (partition, epoch), names in sorted(agents.items()):
        event = first[partition, epoch]
        known = claims(view, partition)
        if len(names) > 1:
            yield f"epoch {epoch} of partition {partition} was that of several agents: {sorted(names)}", (event,)
        if epoch in known:
            if known[epoch]["agent"] not in names:
                told = known[epoch]["agent"]
                yield f"epoch {epoch} of partition {partition} is {told}'s claim; {sorted(names)} wrote", (event,)
        elif not known or epoch > max(known) or _holds_other(view, partition, epoch):
            yield f"epoch {epoch} of partition {partition}, of {event.where}, has no claim at that offset", (event,)


def _holds_other(view: View, partition: int, offset: int) -> bool:
    return any(record.offset == offset for record in view.history.records.get((STATE, partition), ()))


@rule("claims follow each other")
def claims_follow(view: View) -> Iterator[Finding]:
    """With exactly_once each claim names an owner that is no older than the claim before it in the log."""
    if not view.exact:
        return
    for partition in range(view.history.partitions):
        for (before, _), (offset, claim) in pairwise(sorted(claims(view, partition).items())):
            if claim["after"] is None or claim["after"] < before:
                told = claim["after"]
                yield (
                    f"the claim state-{partition}@{offset} is after {told}, and overlooks that at {before}",
                    (json.dumps(claim),),
                )


@rule("no open transaction")
def no_open_transaction(view: View) -> Iterator[Finding]:
    """After quiet nothing is held back from readers."""
    for place, end in view.history.ends.items():
        stable = view.history.stable.get(place, end)
        if stable < end:
            yield (
                f"{place[0]}-{place[1]} is held back at {stable} by an open transaction; its end is {end}",
                (f"topics: {', '.join(EVENTS)}",),
            )
