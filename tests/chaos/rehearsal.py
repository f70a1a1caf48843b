"""A small history without Kafka: the real engine over a journal in memory, one crash, and no promise broken.

What the invariants are tested on. The journal's part (claims, offsets, the place of each record) is acted here.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from consumer.intake.decode import RawRecord, decode
from consumer.ports import CommandTopic
from tests.chaos import catalogue as _all_kinds  # noqa: F401 - fills the table of kinds
from tests.chaos import kinds, marks
from tests.chaos.history import COMMANDS, EVENTS, ROLES, STATE, History, Record
from tests.chaos.kinds import Draw, Drawn
from tests.chaos.marks import Mark
from tests.chaos.published import NUMBER_HEADER, Acknowledged, Command, Published, digest
from tests.chaos.rules.owners import OFFSETS, OWNER
from tests.chaos.view import parse
from tests.support.engine_house import House, house, load
from tests.support.eventually import eventually
from tests.support.memory_journal import MemoryJournal

_PATIENCE = 60.0
_NOW = 1_700_000_000_000
#: What is under way when the first owner dies.
IN_DOUBT = ("on_interrupt_retry", "on_interrupt_fail", "compensated")
BEFORE = ("chain", "graph", "retries", "undone_by_handlers", "duplicates", "conflict", "garbage", "dry", "goes_on")
AFTER = ("pause", "approval", "approval_refused", "undone_later", "unknown", "invalid_command", "nameless", "waits")


@dataclass
class Rehearsal:
    """What came of it."""

    history: History
    published: Published
    marks: list[Mark]


@dataclass
class _Stage:
    """The topics of one partition, as they grow."""

    house: House
    file: Path
    history: History = field(default_factory=lambda: History(prefix="wpk", partitions=1))
    published: Published = field(default_factory=Published)
    drawn: list[Drawn] = field(default_factory=list)
    followed: set[tuple[int, int]] = field(default_factory=set)
    _batches: int = 0
    _offsets: dict[str, int] = field(default_factory=dict)

    def append(self, role: str, key: bytes | None, value: bytes | None, headers: Any = ()) -> Record:
        """A record at the end of that topic."""
        known = self.history.records[role, 0]
        record = Record(
            role=role,
            partition=0,
            offset=len(known),
            timestamp=_NOW,
            key=key,
            value=value,
            headers=tuple(headers),
        )
        known.append(record)
        return record

    def claim(self, epoch: int | None) -> int:
        """A new owner's first record; its epoch."""
        claim = {"agent": "tester", "group": "g", "at": "", "after": epoch, "token": "t"}
        return self.append(STATE, OWNER, json.dumps(claim).encode()).offset

    def collect(self) -> None:
        """Writes what the present owner's journal took since."""
        epoch = ("epoch", str(self.house.journal.epoch).encode())
        for batch in self.house.log.batches[self._batches :]:
            for record in batch.records:
                headers = (*record.headers, epoch) if record.topic.value == STATE else record.headers
                self.append(record.topic.value, record.key, record.value, headers)
            if batch.offsets:
                self._offsets |= {topic.value: offset for topic, offset in batch.offsets.items()}
                self.append(STATE, OFFSETS, json.dumps(self._offsets).encode(), [epoch])
        self._batches = len(self.house.log.batches)

    async def draw(self, name: str) -> None:
        """Sends an execution of that kind."""
        number = len(self.drawn)
        source = random.Random(f"rehearsal/{number}")
        pace = 0.5 if name in IN_DOUBT else 0.05
        drawn = kinds.KINDS[name][0](Draw(source, number, self.file, 0.0, pace, kind=name))
        self.drawn.append(drawn)
        self.published.plan(drawn.plan)
        for message in drawn.messages:
            await self.send(number, message)

    async def send(self, plan: int, message: kinds.Message) -> None:
        """Publishes it and has the engine take it."""
        value = message.body if isinstance(message.body, bytes) else json.dumps(message.body).encode()
        key = message.key.encode() if message.key else None
        number = len(self.published.commands)
        command = Command(
            number=number,
            plan=plan,
            role=message.role,
            key=message.key,
            answers=message.answers,
            digest=digest(value),
        )
        self.published.command(command)
        record = self.append(message.role, key, value, [(NUMBER_HEADER, str(number).encode())])
        topic = self.history.topic(message.role)
        self.published.acknowledge(Acknowledged(command=number, topic=topic, partition=0, offset=record.offset))
        raw = RawRecord(
            role=CommandTopic(message.role),
            topic=topic,
            partition=0,
            offset=record.offset,
            timestamp_ms=_NOW,
            key=key,
            value=value,
            headers=record.headers,
        )
        await (await self.house.supervisor.take(self.house.partition, decode(raw, 900_000)))

    async def follow(self) -> bool:
        """Sends what is to follow on what happened; whether all has its end."""
        self.collect()
        events = [parse(record) for record in self.history.of(*EVENTS)]
        for drawn in self.drawn:
            for index, each in enumerate(drawn.follow_ups):
                found = any(
                    event.execution == drawn.plan.execution_id
                    and (event.is_end if each.event == "result" else event.name == each.event)
                    for event in events
                )
                if found and (drawn.plan.number, index) not in self.followed:
                    self.followed.add((drawn.plan.number, index))
                    await self.send(drawn.plan.number, each.message)
        waiting = {drawn.plan.execution_id for drawn in self.drawn if drawn.plan.waits}
        due = sum(len(drawn.follow_ups) for drawn in self.drawn)
        return set(self.house.partition.live) <= waiting and len(self.followed) == due

    async def crash(self) -> None:
        """The owner dies while steps run; what it had not written is lost, and the next one goes on."""
        former = self.house.journal
        former.kill()
        await self.house.supervisor.drop(self.house.partition)
        self.collect()
        journal = MemoryJournal(epoch=self.claim(former.epoch), log=former.log)
        self.house.journal = journal
        self.house.partition = await self.house.supervisor.adopt(journal, load(journal.log).items())


async def rehearse(directory: Path, mark_module: Any) -> Rehearsal:
    """Acts it; `mark_module` is the plug-in of `marks.PLUGIN`."""
    file = directory / "marks"
    file.touch()
    adapter = mark_module.build(None)
    async with house(mark_module, journal=MemoryJournal(epoch=0), adapters={"mark": adapter}) as engine:
        stage = _Stage(engine, file)
        stage.claim(None)
        for name in BEFORE:
            await stage.draw(name)
        await eventually(stage.follow, timeout=_PATIENCE, because="all before the crash has its end")
        for name in IN_DOUBT:
            await stage.draw(name)
        began = {drawn.plan.execution_id for drawn in stage.drawn[-len(IN_DOUBT) :]}
        await eventually(lambda: began <= {mark.execution for mark in marks.read(file)}, timeout=_PATIENCE)
        await stage.crash()
        for name in AFTER:
            await stage.draw(name)
        await eventually(stage.follow, timeout=_PATIENCE, because="all has its end")
        stage.collect()
    history = stage.history
    for role in ROLES:
        history.ends[role, 0] = history.stable[role, 0] = len(history.records[role, 0])
    history.committed = {(role, 0): history.ends[role, 0] for role in COMMANDS}
    return Rehearsal(history, stage.published, marks.read(file))


def copy(rehearsal: Rehearsal) -> Rehearsal:
    """One that a test may change."""
    old, published = rehearsal.history, rehearsal.published
    history = replace(
        old,
        records={place: list(records) for place, records in old.records.items()},
        ends=dict(old.ends),
        stable=dict(old.stable),
        committed=dict(old.committed),
        disagreements=[],
    )
    again = Published(
        plans=dict(published.plans), commands=dict(published.commands), acknowledged=list(published.acknowledged)
    )
    return Rehearsal(history, again, list(rehearsal.marks))
