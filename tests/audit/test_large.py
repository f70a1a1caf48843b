"""A large trail in Apache Kafka, written in transactions of which some were aborted: whole, and tampered with.

`WPK_AUDIT_EXECUTIONS` (200 at least) says how many executions it has: 100,000 in CI. It is written once, and one test
does all with it; what each verb took stands below the tests' results.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.trail import measure
from consumer.audit import checkpoint as checkpoints
from consumer.audit.findings import Kind
from consumer.client import Auditor
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.ports import Topic
from tests.audit.many import Copy, Row, write
from tests.audit.trail import Json, resealed, sealed
from tests.support.kafka import KafkaBroker
from tests.support.processes import environment

pytestmark = [pytest.mark.timeout(1800), pytest.mark.long]

EXECUTIONS = int(os.environ.get("WPK_AUDIT_EXECUTIONS", "2000"))
#: Kilobytes of memory for each execution, and megabytes beside, that reading a trail may take.
_PER_EXECUTION, _BESIDE = 5.0, 400
Run = Callable[..., Awaitable[str]]


# --- what is done to executions of the copy: all of them are `completed`, see tests.audit.trail ---


def _altered(rows: list[Row]) -> tuple[list[Row], int]:
    at = _find(rows, "step.retrying")
    return [*rows[:at], rows[at]._replace(value=rows[at].value.replace(b'"503"', b'"504"')), *rows[at + 1 :]], at


def _exchanged(rows: list[Row]) -> tuple[list[Row], int]:
    at = _find(rows, "step.retrying")
    return [*rows[:at], _with_another_message(rows[at]), *rows[at + 1 :]], at


def _missing(rows: list[Row]) -> tuple[list[Row], int]:
    at = _find(rows, "step.retrying")
    return [*rows[:at], *rows[at + 1 :]], at  # the one after it


def _foreign(rows: list[Row]) -> tuple[list[Row], int]:
    at = _find(rows, "step.retrying") + 1
    return [*rows[:at], _with_another_message(rows[at - 1]), *rows[at:]], at


def _stranger(rows: list[Row]) -> tuple[list[Row], int]:
    at = _find(rows, "execution.completed")
    forged = resealed(rows[at].value, lambda raw: raw["data"].update(agent="mallory"))
    return [*rows[:at], rows[at]._replace(value=forged), *rows[at + 1 :]], at


def _garbage(rows: list[Row]) -> tuple[list[Row], int]:
    at = _find(rows, "step.retrying")
    return [*rows[:at], rows[at]._replace(value=b"\xff{not json"), *rows[at:]], at


def _doubled(rows: list[Row]) -> tuple[list[Row], int]:
    at = _find(rows, "step.retrying") + 1
    return [*rows[:at], rows[at - 1], *rows[at:]], at


def _reordered(rows: list[Row]) -> tuple[list[Row], int]:
    at = _find(rows, "step.retrying")  # in the same topic as the start of the second attempt
    return [*rows[:at], rows[at + 1], rows[at], *rows[at + 2 :]], at


def _cut(rows: list[Row]) -> tuple[list[Row], int]:
    at = _find(rows, "step.retrying") + 1
    return [*rows[: at + 1], *(row for row in rows if row.topic is Topic.STATE)], at


def _gone(rows: list[Row]) -> tuple[list[Row], None]:
    """As when the state topic has forgotten it, so that a checkpoint alone can tell."""
    return [], None


def _rewritten(rows: list[Row]) -> tuple[list[Row], None]:
    """From its first event, with right hashes, and the state topic has forgotten it: a checkpoint alone can tell."""
    found, before = list[Row](), ""
    for row in rows:
        if row.topic is not Topic.STATE:
            raw: Json = orjson.loads(row.value)
            del raw["data"]["hash"]
            raw["data"] |= {"prev_hash": before, "workflow_id": "harmless-1.0.0"}
            found.append(row._replace(value=sealed(raw)))
            before = raw["data"]["hash"]
    return found, None


DOINGS = {
    _altered: Kind.ALTERED,
    _exchanged: Kind.ALTERED,
    _missing: Kind.MISSING,
    _foreign: Kind.FOREIGN,
    _stranger: Kind.FOREIGN,
    _garbage: Kind.FOREIGN,
    _doubled: Kind.DOUBLED,
    _reordered: Kind.REORDERED,
    _cut: Kind.CUT,
    _gone: Kind.CUT,
    _rewritten: Kind.ALTERED,
}


def _find(rows: list[Row], name: str) -> int:
    return next(at for at, row in enumerate(rows) if f'"wpk.{name}.v1"'.encode() in row.value)


def _with_another_message(row: Row) -> Row:
    def change(raw: Json) -> None:
        raw["data"]["error"]["message"] = "nothing happened"

    return row._replace(value=resealed(row.value, change))


def victims() -> dict[str, Callable[[list[Row]], tuple[list[Row], int | None]]]:
    """Executions all over the trail, with what is done to each; each tenth but one has a second attempt."""
    every = EXECUTIONS // 10 // len(DOINGS) * 10
    return {f"run-{at * every + 8}": doing for at, doing in enumerate(DOINGS)}


async def test_every_verb_reads_a_large_trail_and_whatever_is_done_to_a_copy_is_found_at_its_place(
    apache_kafka: KafkaBroker, prefix: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    def tell(text: str) -> None:
        record_property("measured", text)

    connection = KafkaConnection(bootstrap_servers=apache_kafka.bootstrap)
    copy = Copy(names=TopicNames(f"{prefix}-copy"), changes={**victims()})
    began = time.monotonic()
    events = await write(connection, TopicNames(prefix), EXECUTIONS, transactions=True, copy=copy)
    tell(f"{EXECUTIONS:,} executions, {events:,} events and a copy: written in {time.monotonic() - began:.1f} s")
    variables = environment(apache_kafka, prefix, WPK_PROCESSING_GUARANTEE="exactly_once")

    async def run(*arguments: str) -> str:
        done = await asyncio.to_thread(measure, variables, tmp_path, *arguments)
        tell(f"wpk {' '.join(arguments)}: {done.seconds:.1f} s, {done.cpu:.1f} s of a core, {done.memory:.0f} MB")
        assert done.code == 0, done.output[-2000:]
        assert done.memory < _BESIDE + EXECUTIONS * _PER_EXECUTION / 1000, arguments
        return done.output.decode()

    await every_verb(run, tmp_path, events)
    public = (tmp_path / "audit.pub").read_text(encoding="utf-8")
    checkpoint = checkpoints.opened((tmp_path / "trail.checkpoint").read_bytes(), public)
    await the_copy(connection, copy, checkpoint)


async def every_verb(run: Run, folder: Path, events: int) -> None:
    """Each on all of the trail, by its own process."""
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "audit.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "audit.pub").write_bytes(public)

    holds = f"✔ {EXECUTIONS:,} executions verify, {events:,} events"
    assert f"{EXECUTIONS:,} executions" in await run(
        "audit", "checkpoint", "--key", "audit.pem", "-o", "trail.checkpoint"
    )
    against = ("--checkpoint", "trail.checkpoint", "--key", "audit.pub")
    assert holds in await run("audit", "verify", *against)
    assert len((await run("audit", "replay", "--json")).splitlines()) == events
    assert f"{events:,} events in trail.parquet" in await run("audit", "export", "-o", "trail.parquet")
    assert pyarrow_rows(folder / "trail.parquet") == events
    assert "undo-change" in await run("audit", "timeline", "run-9")
    assert "chain intact" in await run("explain", "run-9")
    assert len((await run("list", "--limit", "1000", "--json")).splitlines()) >= min(1000, EXECUTIONS)


def pyarrow_rows(file: Path) -> int:
    """How many rows a Parquet file has."""
    parquet: Any = importlib.import_module("pyarrow.parquet")
    return int(parquet.read_metadata(file).num_rows)


async def the_copy(connection: KafkaConnection, copy: Copy, checkpoint: checkpoints.Checkpoint) -> None:
    """Everything that was done to it is found, and nothing else, by its hashes and by what the original was."""
    # Offsets are others in the copy, since no transaction's end lies between.
    known = replace(checkpoint, prefix=copy.names.prefix, ends={})
    report = await Auditor(connection, copy.names, strict=True, checkpoint=known).verify()
    found = {finding.execution_id: (finding.kind, finding.place) for finding in report.broken}
    wanted = {name: (DOINGS[doing], copy.places.get(name)) for name, doing in victims().items()}
    by_doing = {doing: name for name, doing in victims().items()}
    for doing in (_gone, _rewritten):  # told at the place of the last event that the checkpoint knows
        mark = known.marks[by_doing[doing]]
        topic = copy.names.name(Topic(mark.channel))
        wanted[by_doing[doing]] = DOINGS[doing], (topic, mark.partition, mark.offset)
    wanted[None] = wanted.pop(by_doing[_garbage])  # nobody says whose it is
    assert found == wanted
    assert report.executions == EXECUTIONS - 1
