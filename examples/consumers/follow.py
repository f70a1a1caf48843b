"""Follows one execution with librdkafka alone: nothing of the agent's own code, so that any language can do the same.

    pip install confluent-kafka
    python follow.py EXECUTION_ID            # KAFKA_BOOTSTRAP_SERVERS, WPK_TOPIC_PREFIX (wpk)

Prints each event once, in sequence, until the execution is over; its exit code is 0 where it completed. It takes all
executions' records of one partition and keeps those of the one; a program that looks after many keeps an `Order` for
each.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

TOPICS = ("events.progress", "events.logs", "events.results")
RESULTS = ("completed", "failed", "cancelled", "rejected", "rolled_back", "rollback_failed")
SIGN = 0x7FFFFFFF
Event = dict[str, Any]


class Order:
    """Puts the events of one execution in sequence: three topics bring them in any order, and some perhaps twice."""

    def __init__(self) -> None:
        self.seq = self.epoch = 0
        self.waiting: dict[int, Event] = {}

    def add(self, event: Event) -> Iterator[Event]:
        """Takes an event; gives those that are next."""
        seq, epoch = event["data"]["seq"], event["data"]["attempt_epoch"]
        known = self.waiting.get(seq)
        if seq > self.seq and (known is None or epoch > known["data"]["attempt_epoch"]):
            self.waiting[seq] = event  # of two with one number that of the newer owner holds
        while (following := self.waiting.pop(self.seq + 1, None)) is not None:
            if following["data"]["attempt_epoch"] < self.epoch:
                break  # an owner wrote it that had lost the partition; the right one is still to come
            self.seq, self.epoch = following["data"]["seq"], following["data"]["attempt_epoch"]
            yield following


def partition_of(key: bytes, partitions: int) -> int:
    """Where Kafka's Java client puts a record with that key: murmur2, as in org.apache.kafka.common.utils.Utils."""
    mixed, most = 0x5BD1E995, 0xFFFFFFFF
    found = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * mixed & most
        found = (found * mixed & most) ^ ((word ^ word >> 24) * mixed & most)
    if len(key) > whole:
        found = (found ^ int.from_bytes(key[whole:], "little")) * mixed & most
    found = (found ^ found >> 13) * mixed & most
    return ((found ^ found >> 15) & SIGN) % partitions


def is_over(event: Event) -> bool:
    """Whether nothing follows: a result, unless a rollback does; a refused later command ends nothing."""
    name, data = event["type"].removeprefix("wpk.").removesuffix(".v1"), event["data"]
    ends = name.removeprefix("execution.") in RESULTS and name.startswith("execution.")
    return ends and not data.get("rollback_follows") and not (name == "execution.rejected" and data.get("command"))


def events(bootstrap: str, prefix: str, execution_id: str) -> Iterator[Event]:
    """The execution's events in sequence, those to come too, until it is over."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "unused",  # librdkafka wants one; nothing is committed
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    try:
        names, key, order = [f"{prefix}.{topic}" for topic in TOPICS], execution_id.encode(), Order()
        counts = {len(consumer.list_topics(name, timeout=30).topics[name].partitions) for name in names}
        if counts == {0}:
            raise SystemExit(f"there are no topics {prefix}.events.*; is WPK_TOPIC_PREFIX another?")
        number = partition_of(key, counts.pop())
        consumer.assign([TopicPartition(name, number, 0) for name in names])
        while True:
            for message in consumer.consume(500, timeout=0.5):
                if message.error() is not None:
                    if message.error().fatal():
                        raise KafkaException(message.error())
                    continue  # it tries again by itself
                if message.key() == key:
                    for event in order.add(json.loads(message.value())):
                        yield event
                        if is_over(event):
                            return
    finally:
        consumer.close()


def main(execution_id: str) -> int:
    """Prints them; the exit code."""
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
    status = ""
    for event in events(bootstrap, os.environ.get("WPK_TOPIC_PREFIX", "wpk"), execution_id):
        data = event["data"]
        status = data.get("status") or status
        words = [event["time"], event["type"].removeprefix("wpk.").removesuffix(".v1"), data.get("step") or ""]
        words += [line["text"] for line in data.get("lines", ())]
        sys.stdout.write("  ".join(filter(None, words)) + "\n")
        sys.stdout.flush()
    return 0 if status == "completed" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
