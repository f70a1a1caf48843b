"""How fast a trail is verified: executions written to a real broker, then read, with time and memory.

`python -m bench.trail --executions 20000`; on your own broker with KAFKA_BOOTSTRAP_SERVERS.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer

from consumer.client import Auditor, partition_of
from consumer.dev.broker import EmbeddedBroker
from consumer.journal import topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.ports import Topic
from tests.audit.trail import completed, undone
from tests.support.stories import Story

PARTITIONS = 4
_AT_ONCE = 5_000


def stories(count: int) -> Iterator[Story]:
    """Most complete, some are rolled back."""
    for number in range(count):
        yield undone(f"run-{number}") if number % 10 == 9 else completed(f"run-{number}")


async def write(connection: KafkaConnection, names: TopicNames, count: int) -> int:
    """Writes that many executions with their states; how many events they have."""
    await topics.create(connection, names, PARTITIONS)
    producer = AIOKafkaProducer(**connection.options("bench"), acks="all", max_batch_size=1 << 19, linger_ms=20)
    await producer.start()
    written, under_way = 0, list[asyncio.Future[object]]()
    try:
        for story in stories(count):
            key = story.execution_id
            number = partition_of(key, PARTITIONS)
            rows = [(names.name(Topic(told.event.data.channel)), key, told.value) for told in story]
            written += len(rows)
            rows += [(names.name(Topic.STATE), name, value) for name, value in story.snapshot().items()]
            for topic, name, value in rows:
                under_way.append(await producer.send(topic, value, key=name.encode(), partition=number))
            if len(under_way) > _AT_ONCE:
                await asyncio.gather(*under_way)
                under_way.clear()
        await asyncio.gather(*under_way)
    finally:
        await producer.stop()
    return written


@asynccontextmanager
async def broker() -> AsyncIterator[str]:
    """The one of the environment, or an embedded one."""
    named = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if named:
        yield named
        return
    async with EmbeddedBroker() as embedded:
        yield embedded.bootstrap


async def main(count: int) -> None:
    """Writes, measures, prints."""
    async with broker() as bootstrap:
        connection, names = KafkaConnection(bootstrap_servers=bootstrap), TopicNames(f"bench-{secrets.token_hex(3)}")
        began = time.monotonic()
        written = await write(connection, names, count)
        print(f"written   {count:,} executions, {written:,} events in {time.monotonic() - began:.1f} s")
        began, cpu = time.monotonic(), time.process_time()
        report = await Auditor(connection, names).verify()
        wall, used = time.monotonic() - began, time.process_time() - cpu
        assert report.holds, report.broken
        assert report.events == written, (report.events, written)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"verified  {report.events:,} events in {wall:.1f} s, {used:.1f} s of a core: "
            f"{report.events / used:,.0f} events/s per core; {memory:.0f} MB at most, writing included"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=5_000)
    asyncio.run(main(parser.parse_args().executions))
