"""The load: publishes drawn workflows and commands, follows what becomes of them, and knows when all is quiet.

It is a user of the topics by librdkafka, in a thread of its own, so that nothing that the test's loop does slows it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from tests.chaos import catalogue as _all_kinds  # noqa: F401 - fills the table of kinds
from tests.chaos import kinds
from tests.chaos.kinds import Drawn
from tests.chaos.published import NUMBER_HEADER, Acknowledged, Command, Published, digest

Json = dict[str, Any]
Place = tuple[str, int, int]
_WATCHED = ("events.progress", "events.results", "dead-letter")
_BEGINS = {"execution.accepted", "execution.rolling_back"}
_ENDS = ("completed", "failed", "cancelled", "rejected", "rolled_back", "rollback_failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """What the load still waits for; empty when all is quiet."""

    unacknowledged: tuple[int, ...]
    """Commands that the brokers have not taken yet."""
    unanswered: tuple[Place, ...]
    """Commands of which the topics say nothing yet: topic, partition, offset."""
    unfinished: tuple[str, ...]
    """Executions that were accepted and have no end, those left out that wait for ever on purpose."""
    unsent: tuple[int, ...]
    """Plans of which something is still to be sent."""

    def __bool__(self) -> bool:
        return bool(self.unacknowledged or self.unanswered or self.unfinished or self.unsent)


@dataclass
class _Seen:
    """What the topics say of the executions, as far as it was read."""

    begun: dict[str, int] = field(default_factory=dict)
    """The number of the newest event that something begins with."""
    ended: dict[str, int] = field(default_factory=dict)
    """The number of the newest event after which nothing follows."""
    answered: set[Place] = field(default_factory=set)

    def unfinished(self) -> Iterator[str]:
        return (name for name, seq in self.begun.items() if self.ended.get(name, 0) < seq)


class Load:
    """Draws executions by number from the seed, from `first` on, and sends them.

    `start`, then `finish`, then wait until `open` is empty; `close` in any case. `published` is what the checks need.
    """

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        *,
        partitions: int,
        seed: int,
        marks: Path,
        book: Path | None = None,
        first: int = 0,
        shells: float = 0.2,
        pace: float = 1.0,
    ) -> None:
        self.published = Published(file=book)
        self.failure: BaseException | None = None
        """What ended its thread, if something did."""
        self._prefix = prefix
        self._seed = seed
        self._marks = marks
        self._shells = shells
        self._pace = pace
        self._next = first
        self._limit: int | None = None
        self._rate = 0.0
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._commands = 0
        self._sending: dict[int, tuple[str, bytes | None, bytes]] = {}
        self._failed: set[int] = set()
        self._drawn: dict[str, Drawn] = {}
        self._followed: set[tuple[str, int]] = set()
        self._waiting: set[str] = set()
        self._seen = _Seen()
        self._config: Json = {"bootstrap.servers": bootstrap, "log_level": 0}
        self._producer = self._new_producer()
        self._consumer = Consumer(
            {
                **self._config,
                "group.id": f"{prefix}-load",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
                "reconnect.backoff.max.ms": 1000,
            }
        )
        self._consumer.assign(
            [TopicPartition(f"{prefix}.{role}", number, 0) for role in _WATCHED for number in range(partitions)]
        )
        self._thread = threading.Thread(target=self._run, name="chaos-load", daemon=True)

    # --- what the driver does with it ---

    def start(self, rate: float, limit: int | None = None) -> None:
        """Sends so many executions a second from now on, `limit` in all (None: until `finish`). Does not block."""
        with self._lock:
            self._rate, self._limit = rate, limit
        if not self._thread.is_alive():
            self._thread.start()

    def pause(self) -> None:
        """Begins no further execution until the next `start`; what was begun is followed."""
        with self._lock:
            self._rate = 0.0

    @property
    def drawn(self) -> int:
        """How many executions were drawn so far; the next load of a long run begins there."""
        return self._next

    @property
    def drawing(self) -> bool:
        """Whether executions are still to be drawn."""
        with self._lock:
            return self._rate > 0 and (self._limit is None or len(self.published.plans) < self._limit)

    def open(self) -> Open:
        """What is still to come. Raises what ended the thread, if something did."""
        if self.failure is not None:
            raise RuntimeError("the load's thread has ended") from self.failure
        with self._lock:
            places = {(a.topic, a.partition, a.offset): a.command for a in self.published.acknowledged}
            unanswered = [place for place in places if place not in self._seen.answered]
            return Open(
                unacknowledged=tuple(sorted(self._sending)),
                unanswered=tuple(sorted(unanswered)),
                unfinished=tuple(sorted(set(self._seen.unfinished()) - self._waiting)),
                unsent=tuple(sorted(self._unsent())),
            )

    def settled(self, patience: float, alive: Callable[[], None] = lambda: None) -> Open:
        """Blocks until all is quiet, or for that time (seconds); what is open then. `alive` is called meanwhile."""
        deadline = time.monotonic() + patience
        while (left := self.open()) and time.monotonic() < deadline:
            alive()
            time.sleep(0.1)
        return left

    def close(self) -> None:
        """Ends the thread and the connections."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(30)
        self._consumer.close()
        self.published.close()

    # --- inside: sending ---

    def _new_producer(self) -> Producer:
        return Producer(
            {
                **self._config,
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # until the brokers have it
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "reconnect.backoff.max.ms": 1000,
            }
        )

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._stop.is_set():
                with self._lock:
                    drawing, rate = self.drawing, self._rate
                if not drawing:
                    due = time.monotonic()
                elif time.monotonic() >= due:
                    self._begin()
                    due = max(due + 1 / rate, time.monotonic() - 1)
                self._producer.poll(0)
                self._send_again()
                for message in self._consumer.consume(200, timeout=0.02):
                    self._take(message)
        except BaseException as error:
            self.failure = error
            raise

    def _begin(self) -> None:
        with self._lock:
            drawn = kinds.draw(self._next, self._seed, self._marks, shells=self._shells, pace=self._pace)
            self._next += 1
            self.published.plan(drawn.plan)
            if drawn.plan.execution_id is not None:
                self._drawn[drawn.plan.execution_id] = drawn
                if drawn.plan.waits:
                    self._waiting.add(drawn.plan.execution_id)
        for message in drawn.messages:
            self._send(drawn.plan.number, message)

    def _send(self, plan: int, message: kinds.Message) -> None:
        value = message.body if isinstance(message.body, bytes) else json.dumps(message.body).encode()
        with self._lock:
            number = self._commands
            self._commands += 1
            self.published.command(
                Command(
                    number=number,
                    plan=plan,
                    role=message.role,
                    key=message.key,
                    answers=message.answers,
                    digest=digest(value),
                )
            )
            self._sending[number] = (message.role, message.key.encode() if message.key else None, value)
        self._produce(number)

    def _produce(self, number: int) -> None:
        role, key, value = self._sending[number]
        headers: Any = [(NUMBER_HEADER, str(number).encode())]

        def told(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                self._failed.add(number)
                return
            with self._lock:
                self._sending.pop(number, None)
                self.published.acknowledge(
                    Acknowledged(
                        command=number, topic=message.topic(), partition=message.partition(), offset=message.offset()
                    )
                )

        try:
            self._producer.produce(f"{self._prefix}.{role}", value, key=key, headers=headers, on_delivery=told)
        except BufferError:
            self._producer.poll(0.5)
            self._produce(number)

    def _send_again(self) -> None:
        """An idempotent producer that met a fatal error takes nothing more: a new one sends what it has not."""
        if not self._failed:
            return
        self._producer.flush(10)  # tells of all others that it has given up
        self._producer = self._new_producer()
        numbers, self._failed = sorted(self._failed), set()
        for number in numbers:
            self._produce(number)

    # --- inside: following ---

    def _take(self, message: Any) -> None:
        error = message.error()
        if error is not None:
            return  # librdkafka goes on by itself
        if message.topic().endswith("dead-letter"):
            headers = {name: value.decode() for name, value in message.headers() or [] if name.startswith("wpk-")}
            place = headers["wpk-topic"], int(headers["wpk-partition"]), int(headers["wpk-offset"])
            with self._lock:
                self._seen.answered.add(place)
            return
        event = json.loads(message.value())
        name = event["type"].removeprefix("wpk.").removesuffix(".v1")
        self._note(name, event["data"])
        self._follow(name, event["data"])

    def _note(self, name: str, data: Json) -> None:
        with self._lock:
            execution, seq, seen = data["execution_id"], data["seq"], self._seen
            if "source" in data:
                source = data["source"]
                seen.answered.add((source["topic"], source["partition"], source["offset"]))
            if name in _BEGINS:
                seen.begun[execution] = max(seen.begun.get(execution, 0), seq)
            if self._is_end(name, data):
                seen.ended[execution] = max(seen.ended.get(execution, 0), seq)

    @staticmethod
    def _is_end(name: str, data: Json) -> bool:
        ended = name.removeprefix("execution.") in _ENDS
        return ended and data.get("command") is None and not data.get("rollback_follows")

    def _follow(self, name: str, data: Json) -> None:
        drawn = self._drawn.get(data["execution_id"])
        if drawn is None:
            return
        for index, follow in enumerate(drawn.follow_ups):
            ends = follow.event == "result" and self._is_end(name, data)
            if not ends and (follow.event != name or follow.step != data.get("step")):
                continue
            with self._lock:
                if (data["execution_id"], index) in self._followed:
                    continue
                self._followed.add((data["execution_id"], index))
            self._send(drawn.plan.number, follow.message)

    def _unsent(self) -> Iterator[int]:
        """Follow-ups on an end: they are certain to come. Others may find that it is too late."""
        for name, drawn in self._drawn.items():
            for index, follow in enumerate(drawn.follow_ups):
                if follow.event in ("result", "execution.awaiting_approval") and (name, index) not in self._followed:
                    yield drawn.plan.number
