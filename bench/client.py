"""The client of the measurements: it submits commands and sees ends, the same way whoever works on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, Producer, TopicPartition

from bench.stage import MB, STILL

_QUIET = {"log_level": 0}
Command = tuple[bytes, bytes]
"""Execution id, and the command's body."""


class Client:
    """One producer and one `read_committed` reader of the results, in librdkafka's threads: they cost little beside
    what is measured. Not safe for two threads but as `paced` uses it."""

    def __init__(self, bootstrap: str, prefix: str, partitions: int, *, fetch_wait_ms: int) -> None:
        self._topic = f"{prefix}.commands.execute"
        self._producer = Producer(
            {
                **_QUIET,
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "partitioner": "murmur2_random",
                "linger.ms": 1,
                "queue.buffering.max.messages": 1_000_000,
                "message.max.bytes": 8 * MB,
            }
        )
        self._reader = Consumer(
            {
                **_QUIET,
                "bootstrap.servers": bootstrap,
                "group.id": f"{prefix}-bench",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": fetch_wait_ms,
                "fetch.message.max.bytes": 8 * MB,
            }
        )
        # From the beginning, and one reader for all: the embedded broker can't say where a topic ends.
        self._reader.assign(
            [TopicPartition(f"{prefix}.events.results", n, OFFSET_BEGINNING) for n in range(partitions)]
        )
        self.seen: set[bytes] = set()
        """All whose end was seen."""
        self.results: list[bytes] = []
        """All results, as they came."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._producer.purge()
        self._reader.close()

    def _take(self, most: int, timeout: float) -> list[bytes]:
        """Ends that were not seen before."""
        fresh = []
        for message in self._reader.consume(most, timeout):
            key = _key(message)
            self.results.append(message.value() or b"")
            if key not in self.seen:
                self.seen.add(key)
                fresh.append(key)
        return fresh

    def burst(self, commands: Sequence[Command]) -> float:
        """Submits all at once; seconds until the last has ended. Raises TimeoutError where nothing ends any more."""
        open_ = {execution_id for execution_id, _ in commands}
        began = moved = time.perf_counter()
        for execution_id, body in commands:
            self._producer.produce(self._topic, body, key=execution_id)
        self._producer.poll(0)
        while open_:
            ended = self._take(min(len(open_), 1000), 0.05)
            self._producer.poll(0)
            now = time.perf_counter()
            if ended:
                moved = now
                open_.difference_update(ended)
            elif now - moved > STILL:
                raise TimeoutError(f"{len(open_)} of {len(commands)} have not ended, none in the last {STILL:g} s")
        return time.perf_counter() - began

    def paced(self, commands: Sequence[Command], per_second: float) -> list[float]:
        """Submits at that rate, whatever has ended (an open loop); seconds from when each was due to its end seen.

        Counted from when it was due, not from when it was sent, so that a client that falls behind hides nothing.
        """
        due: dict[bytes, float] = {}
        first = time.perf_counter() + 0.05

        def submit() -> None:
            for number, (execution_id, body) in enumerate(commands):
                due[execution_id] = at = first + number / per_second
                time.sleep(max(0.0, at - time.perf_counter()))
                self._producer.produce(self._topic, body, key=execution_id)
                self._producer.poll(0)

        took: list[float] = []
        moved = first
        sender = threading.Thread(target=submit, daemon=True)
        sender.start()
        while len(took) < len(commands):
            for key in self._take(1, 0.2):
                moved = time.perf_counter()
                if key in due:
                    took.append(moved - due[key])
            if time.perf_counter() - moved > STILL:
                raise TimeoutError(f"{len(commands) - len(took)} of {len(commands)} have not ended")
        sender.join()
        return took


def _key(message: Message) -> bytes:
    if (error := message.error()) is not None:
        raise KafkaException(error)
    key = message.key()
    assert isinstance(key, bytes), "a result without a key"
    return key
