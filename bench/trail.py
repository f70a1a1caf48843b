"""How fast a trail is read: executions written to a real broker, then every verb on it, with time and memory.

`python -m bench.trail --executions 100000 --broker apache`: an Apache Kafka of its own, written in transactions of
which some are aborted. `embedded` (the default) is quicker to start and has no transactions; KAFKA_BOOTSTRAP_SERVERS
names another, which needs transactions too.

The verification is compared with a floor of the same run: aiokafka reads the same records, orjson parses them, and
nothing is done with them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from consumer.cli.audit import collect_rarely
from consumer.client import Auditor, Client
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.ports import Topic
from tests.audit.many import PARTITIONS, write
from tests.support.kafka import ExternalBroker, KafkaBroker, apache_broker, embedded_broker
from tests.support.processes import environment

EVENTS = (Topic.PROGRESS, Topic.LOGS, Topic.RESULTS)
#: Each verb that reads the whole trail, or finds one execution in it.
VERBS: tuple[tuple[str, ...], ...] = (
    ("audit", "verify", "--strict"),
    ("audit", "replay", "--json"),
    ("audit", "replay", "--executions", "--status", "rolled-back"),
    ("audit", "export", "-o", "trail.parquet"),
    ("audit", "export", "-o", "trail.csv"),
    ("audit", "export", "--table", "executions", "-o", "executions.jsonl"),
    ("audit", "timeline", "run-9"),
    ("explain", "run-9"),
    ("list",),
    ("dead-letter", "list"),
)


class Measured(NamedTuple):
    """What a command took."""

    code: int
    seconds: float
    cpu: float
    """Seconds of a core."""
    memory: float
    """Megabytes at most."""
    output: bytes


def measure(variables: Mapping[str, str], folder: Path, *arguments: str) -> Measured:
    """Runs `wpk …` in that folder to its end. Its output goes to a file, as a shell's redirection has it."""
    began = time.monotonic()
    with (folder / "output").open("w+b") as output:
        launcher = [sys.executable, "-S", "-c", _LAUNCHER, sys.executable, "-m", "consumer", *arguments]
        done = subprocess.run(
            launcher,
            check=True,
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
        )
        took = time.monotonic() - began
        output.seek(0)
        told = output.read()
    # A launcher of its own, since the most memory of a child is never less than that of the process that it came from.
    *errors, used = done.stderr.decode().splitlines()
    code, cpu, kilobytes = used.split()
    return Measured(int(code), took, float(cpu), int(kilobytes) / 1024, told + "\n".join(errors).encode())


_LAUNCHER = """import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)"""


async def floor(bootstrap: str, names: TopicNames, events: int) -> float:
    """Seconds of a core that it takes to fetch so many events and to parse them."""
    places = [TopicPartition(names.name(topic), number) for topic in EVENTS for number in range(PARTITIONS)]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 << 20,
    )
    consumer.assign(places)
    began, read = time.process_time(), 0
    await consumer.start()
    try:
        await consumer.seek_to_beginning(*places)
        while read < events:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=2000)).values():
                for record in records:
                    orjson.loads(record.value)
                read += len(records)
    finally:
        await consumer.stop()
    return time.process_time() - began


async def verify(connection: KafkaConnection, names: TopicNames, events: int) -> float:
    """Seconds of a core that a verification takes, of the state topic too."""
    began = time.process_time()
    report = await Auditor(connection, names, strict=True).verify()
    assert report.holds, report.broken
    assert report.events == events, (report.events, events)
    return time.process_time() - began


async def replay(connection: KafkaConnection, names: TopicNames, events: int) -> float:
    """Seconds of a core that it takes to give out all events that hold, checked, without the state topic."""
    began, given = time.process_time(), 0
    async with contextlib.aclosing(Client(connection, names).replay()) as events_given:
        async for _ in events_given:
            given += 1
    assert given == events, (given, events)
    return time.process_time() - began


@contextlib.contextmanager
def broker(kind: str) -> Iterator[KafkaBroker]:
    """The one of the environment, or one of its own."""
    if named := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield ExternalBroker(named)
        return
    with apache_broker() if kind == "apache" else embedded_broker() as own:
        yield own


async def main(count: int, kind: str) -> None:
    """Writes, measures, prints."""
    names = TopicNames(f"bench-{secrets.token_hex(3)}")
    collect_rarely()  # as the verbs do
    with broker(kind) as kafka, tempfile.TemporaryDirectory(prefix="wpk-bench-") as folder:
        connection, began = KafkaConnection(bootstrap_servers=kafka.bootstrap), time.monotonic()
        events = await write(connection, names, count, transactions=kafka.kind == "apache")
        print(f"written   {count:,} executions, {events:,} events to {kafka} in {time.monotonic() - began:.0f} s")
        for _ in range(2):  # one beside the other, since the machine may have other work
            bare = await floor(kafka.bootstrap, names, events)
            print(f"floor     {events / bare:,.0f} events/s per core, to fetch and to parse")
            for word, measured in (("replayed", replay), ("verified", verify)):
                took = await measured(connection, names, events)
                print(f"{word}  {events / took:,.0f} events/s per core, {took / bare:.1f} times the floor")
        variables = environment(kafka, names.prefix, WPK_PROCESSING_GUARANTEE="exactly_once")
        for arguments in VERBS:
            done = await asyncio.to_thread(measure, variables, Path(folder), *arguments)
            assert done.code == 0, done.output[-2000:]
            print(
                f"{'wpk ' + ' '.join(arguments):60} {done.seconds:7.1f} s {done.cpu:7.1f} s of a core "
                f"{done.memory:5.0f} MB   load {os.getloadavg()[0]:.1f}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=5_000)
    parser.add_argument("--broker", choices=("embedded", "apache"), default="embedded")
    given = parser.parse_args()
    asyncio.run(main(given.executions, given.broker))
