"""The floor: a process that reads commands and publishes what an agent would publish for each, and does nothing else.

    python -m bench.floor --shape FILE      (Kafka, prefix and group by the agent's own environment variables)

A loop as one writes it with aiokafka: commands that were fetched together are handled together, sends are not awaited
one by one, and the offsets are committed when all of them are acknowledged. Number, topics, partitions and sizes of the
records are those of a real run of the agent (`bench.shape`); the bytes in them mean nothing.

`--sends batch` builds whole batches, as the agent's journal does, instead of `producer.send` for each record.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Awaitable, Sequence
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import ConsumerRecord

from bench import shape
from bench.shape import RecordShape
from consumer.journal.producers import MAX_BATCH_BYTES

READY = "floor: ready"
_Template = tuple[str, bytes, bytes, list[tuple[str, bytes]]]
_MAX_RECORDS = 500


def _templates(records: Sequence[RecordShape], prefix: str) -> list[_Template]:
    return [
        (
            f"{prefix}.{record.role}",
            b"k" * record.key,
            os.urandom(record.value // 2).hex().encode() + b"x" * (record.value % 2),  # nothing that compresses well
            [(name, b"h" * size) for name, size in record.headers],
        )
        for record in records
    ]


class Floor:
    """The loop."""

    def __init__(self, producer: AIOKafkaProducer, templates: Sequence[_Template]) -> None:
        self._producer = producer
        self._templates = templates
        self.send = self.each

    def _keyed(self, command: ConsumerRecord, key: bytes) -> bytes:
        # Where the agent's key is the command's own, and padded to the size where it is more than that.
        own: bytes = command.key
        return own.ljust(len(key), b"-")

    async def each(self, partition: int, commands: Sequence[ConsumerRecord]) -> list[Awaitable[object]]:
        """Each record by itself; aiokafka groups them into batches."""
        return [
            await self._producer.send(topic, value, key=self._keyed(command, key), partition=partition, headers=headers)
            for command in commands
            for topic, key, value, headers in self._templates
        ]

    async def batch(self, partition: int, commands: Sequence[ConsumerRecord]) -> list[Awaitable[object]]:
        """Batches made here."""
        sent: list[Awaitable[object]] = []
        for topic in dict.fromkeys(topic for topic, *_ in self._templates):
            of_topic = [template for template in self._templates if template[0] == topic]
            batch = self._producer.create_batch()
            for command in commands:
                for _, key, value, headers in of_topic:
                    keyed = self._keyed(command, key)
                    if batch.append(timestamp=None, key=keyed, value=value, headers=headers) is None:
                        batch.close()
                        sent.append(await self._producer.send_batch(batch, topic, partition=partition))
                        batch = self._producer.create_batch()
                        batch.append(timestamp=None, key=keyed, value=value, headers=headers)
            batch.close()
            sent.append(await self._producer.send_batch(batch, topic, partition=partition))
        return sent

    async def run(self, consumer: AIOKafkaConsumer) -> None:
        """Until it is cancelled."""
        while True:
            fetched = await consumer.getmany(timeout_ms=100, max_records=_MAX_RECORDS)
            if fetched:
                sent = [future for place, some in fetched.items() for future in await self.send(place.partition, some)]
                await asyncio.gather(*sent)
                await consumer.commit({place: some[-1].offset + 1 for place, some in fetched.items()})


async def main(file: Path, sends: str) -> None:
    """Consumes as a group of one until SIGTERM."""
    prefix, bootstrap = os.environ["WPK_TOPIC_PREFIX"], os.environ["KAFKA_BOOTSTRAP_SERVERS"]
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", max_batch_size=MAX_BATCH_BYTES, max_request_size=16 << 20
    )
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=f"{prefix}-floor",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=int(os.environ.get("WPK_FETCH_MAX_WAIT_MS", "500")),
        max_partition_fetch_bytes=2 << 20,
    )
    floor = Floor(producer, _templates(shape.load(file), prefix))
    floor.send = floor.batch if sends == "batch" else floor.each
    topic = f"{prefix}.commands.execute"
    await producer.start()
    try:
        # Assigned by hand: a group of one process would get all of them anyway, only later.
        consumer.assign([TopicPartition(topic, number) for number in range(int(os.environ["WPK_PARTITIONS"]))])
        await consumer.start()
        try:
            print(READY, flush=True)
            loop, work = asyncio.get_running_loop(), asyncio.ensure_future(floor.run(consumer))
            loop.add_signal_handler(signal.SIGTERM, work.cancel)
            try:
                await work
            except asyncio.CancelledError:
                if not work.cancelled():
                    raise
        finally:
            await consumer.stop()
    finally:
        await producer.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", type=Path, required=True)
    parser.add_argument("--sends", choices=("each", "batch"), default="each")
    asked = parser.parse_args()
    asyncio.run(main(asked.shape, asked.sends))
