"""A large trail in Apache Kafka, written in transactions of which some were aborted: whole, and tampered with.

`WPK_AUDIT_EXECUTIONS` says how many executions it has.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from bench.trail import measure
from consumer.audit.findings import Kind
from consumer.client import Auditor
from consumer.journal import topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.reader import LogRecord, open_reader
from consumer.journal.topics import TopicNames
from consumer.ports import Topic
from tests.audit.many import PARTITIONS, write
from tests.audit.trail import EVENTS, Json, resealed
from tests.support.kafka import KafkaBroker
from tests.support.processes import environment

pytestmark = [pytest.mark.timeout(1800), pytest.mark.long]

EXECUTIONS = int(os.environ.get("WPK_AUDIT_EXECUTIONS", "2000"))
#: What is written in place of a record, and at what of it a finding must point (None: at none of these).
Change = Callable[[LogRecord], tuple[list[LogRecord], int | None]]


class Forger:
    """Copies a trail, and on the way does one thing to each of some executions."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[str, int, int]] = {}
        """Where what must be found lies in the copy, by what was done."""
        self._held: dict[str, LogRecord] = {}
        self._cut: set[str] = set()
        every = max(1, EXECUTIONS // 10)
        self._doings = {f"run-{at * every}": doing for at, doing in enumerate(self.doings().items())}

    def doings(self) -> dict[str, Change]:
        """All that can be done to a trail."""
        return {
            "altered": self._alter,
            "exchanged": self._exchange,
            "missing": self._remove,
            "foreign": self._insert,
            "stranger": self._by_another_agent,
            "garbage": self._garbage,
            "doubled": self._double,
            "reordered": self._reorder,
            "cut": self._cut_off,
        }

    def victim(self, doing: str) -> str:
        """The execution to which that is done."""
        return next(name for name, (its, _) in self._doings.items() if its == doing)

    async def copy(self, connection: KafkaConnection, source: TopicNames, target: TopicNames) -> None:
        """Every record of all topics, in the order that each partition has."""
        await topics.create(connection, target, PARTITIONS)
        roles = {source.name(topic): topic for topic in (*EVENTS, Topic.STATE)}
        producer = AIOKafkaProducer(**connection.options("forger"), acks="all", max_batch_size=1 << 19, linger_ms=5)
        await producer.start()
        under_way: list[tuple[str | None, asyncio.Future[RecordMetadata]]] = []
        try:
            places = [(name, number) for name in roles for number in range(PARTITIONS)]
            async with open_reader(connection, places) as reader, aclosing(reader.to_end()) as records:
                async for record in records:
                    for doing, written in self._written(record, roles[record.topic]):
                        sent = await producer.send(
                            target.name(roles[record.topic]),
                            written.value,
                            key=written.key,
                            partition=record.partition,
                            timestamp_ms=record.timestamp,
                        )
                        under_way.append((doing, sent))
            for doing, future in under_way:
                there = await future
                if doing is not None:
                    self.places[doing] = (there.topic, there.partition, there.offset)
        finally:
            await producer.stop()

    def _written(self, record: LogRecord, role: Topic) -> list[tuple[str | None, LogRecord]]:
        key = (record.key or b"").decode()
        if key not in self._doings or role is Topic.STATE:
            return [(None, record)]
        doing, change = self._doings[key]
        records, found = change(record)
        return [(doing if at == found else None, each) for at, each in enumerate(records)]

    # --- what is done: the stories of all are `completed`, see tests.audit.trail ---

    def _alter(self, record: LogRecord) -> tuple[list[LogRecord], int | None]:
        if _type(record) != "step.retrying":
            return [record], None
        return [record._replace(value=(record.value or b"").replace(b'"503"', b'"504"'))], 0

    def _exchange(self, record: LogRecord) -> tuple[list[LogRecord], int | None]:
        if _type(record) != "step.retrying":
            return [record], None
        return [record._replace(value=resealed(record.value or b"", _another_message))], 0

    def _remove(self, record: LogRecord) -> tuple[list[LogRecord], int | None]:
        if _type(record) == "step.retrying":
            return [], None
        return [record], 0 if _seq(record) == 8 else None  # the one after it

    def _insert(self, record: LogRecord) -> tuple[list[LogRecord], int | None]:
        if _type(record) != "step.retrying":
            return [record], None
        return [record, record._replace(value=resealed(record.value or b"", _another_message))], 1

    def _by_another_agent(self, record: LogRecord) -> tuple[list[LogRecord], int | None]:
        if _type(record) != "execution.completed":
            return [record], None
        forged = resealed(record.value or b"", lambda raw: raw["data"].update(agent="mallory"))
        return [record._replace(value=forged)], 0

    def _garbage(self, record: LogRecord) -> tuple[list[LogRecord], int | None]:
        if _type(record) != "step.retrying":
            return [record], None
        return [record._replace(value=b"\xff{not json"), record], 0

    def _double(self, record: LogRecord) -> tuple[list[LogRecord], int | None]:
        return ([record, record], 1) if _type(record) == "step.retrying" else ([record], None)

    def _reorder(self, record: LogRecord) -> tuple[list[LogRecord], int | None]:
        if _seq(record) == 7:  # step.retrying, in the same topic as the start of the second attempt
            self._held["reordered"] = record
            return [], None
        return ([record, self._held["reordered"]], 0) if _seq(record) == 8 else ([record], None)

    def _cut_off(self, record: LogRecord) -> tuple[list[LogRecord], int | None]:
        seq = _seq(record)
        return ([], None) if seq > 8 else ([record], 0 if seq == 8 else None)


def _another_message(raw: Json) -> None:
    raw["data"]["error"]["message"] = "nothing happened"


def _type(record: LogRecord) -> str:
    name: str = orjson.loads(record.value or b"")["type"]
    return name.removeprefix("wpk.").removesuffix(".v1")


def _seq(record: LogRecord) -> int:
    number: int = orjson.loads(record.value or b"")["data"]["seq"]
    return number


async def test_every_verb_reads_a_large_trail(apache_kafka: KafkaBroker, prefix: str, tmp_path: Path) -> None:
    connection = KafkaConnection(bootstrap_servers=apache_kafka.bootstrap)
    events = await write(connection, TopicNames(prefix), EXECUTIONS, transactions=True)
    variables = environment(apache_kafka, prefix, WPK_PROCESSING_GUARANTEE="exactly_once")

    async def run(*arguments: str) -> str:
        done = await asyncio.to_thread(measure, variables, tmp_path, *arguments)
        print(f"wpk {' '.join(arguments)}: {done.seconds:.1f} s, {done.cpu:.1f} s of a core, {done.memory:.0f} MB")  # noqa: T201
        assert done.code == 0, done.output
        return done.output.decode()

    assert f"✔ {EXECUTIONS:,} executions verify, {events:,} events" in await run("audit", "verify")
    undone = await run("audit", "replay", "--executions", "--status", "rolled-back", "--json")
    assert len(undone.splitlines()) == EXECUTIONS // 10
    assert f"{events:,} events in trail.csv" in await run("audit", "export", "-o", "trail.csv")
    with (tmp_path / "trail.csv").open() as rows:
        assert sum(1 for _ in rows) == events + 1
    assert "chain intact" in await run("explain", "run-9")


async def test_whatever_is_done_to_a_copy_of_a_large_trail_is_found_at_its_place(
    apache_kafka: KafkaBroker, prefix: str
) -> None:
    connection = KafkaConnection(bootstrap_servers=apache_kafka.bootstrap)
    names, copied, forger = TopicNames(prefix), TopicNames(f"{prefix}-copy"), Forger()
    events = await write(connection, names, EXECUTIONS, transactions=True)
    original = await Auditor(connection, names, strict=True).verify()
    assert (original.holds, original.executions, original.events) == (True, EXECUTIONS, events), original.broken
    assert original.records == events, "what was aborted is not read"

    await forger.copy(connection, names, copied)
    report = await Auditor(connection, copied, strict=True).verify()
    found = {finding.execution_id: (finding.kind, finding.place) for finding in report.broken}
    wanted = {forger.victim(doing): (_KINDS[doing], forger.places[doing]) for doing in forger.doings()}
    wanted[None] = wanted.pop(forger.victim("garbage"))  # nobody says whose it is
    assert found == wanted
    assert report.executions == EXECUTIONS


_KINDS = {
    "altered": Kind.ALTERED,
    "exchanged": Kind.ALTERED,
    "missing": Kind.MISSING,
    "foreign": Kind.FOREIGN,
    "stranger": Kind.FOREIGN,
    "garbage": Kind.FOREIGN,
    "doubled": Kind.DOUBLED,
    "reordered": Kind.REORDERED,
    "cut": Kind.CUT,
}
