"""Where an agent under chaos can be made to die, stand still or be slow: named places in the code of a normal agent.

The agent's own code knows nothing of them: `install` wraps the functions that `TABLE` names, in the process of
`tests.chaos.agent` and nowhere else. A place that was renamed is found by `tests/unit/test_chaos_failpoints.py`.

A fail point is armed by a text, `NAME[:nth][:action[=seconds]]`: at the nth time from now on that the place is reached
(1 if left out) the action is taken, once:

- `kill`   SIGKILL to itself, as a power cut (the default)
- `stop`   SIGSTOP to itself; somebody else must send SIGCONT
- `exit`   ends at once by `os._exit`, with 70
- `block`  the event loop is blocked for so many seconds
- `delay`  only this place waits for so many seconds (a place that is no coroutine is blocked instead)

What was reached is appended to a file before it is done, so that a driver counts only what really happened.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import json
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

Moment = Literal["before", "in", "after"]
Action = Literal["kill", "stop", "exit", "block", "delay"]

EXIT_CODE = 70
_DEFAULT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """A function, and at what moment of a call the fail point lies. `in`: the request's bytes are out, no answer is."""

    module: str
    attribute: str
    moment: Moment
    request: int | None = None
    """The API key, where the place is one kind of request to Kafka."""


#: Requests by their API key; see https://kafka.apache.org/protocol#protocol_api_keys.
REQUESTS: Final = {
    "Produce": 0,
    "Fetch": 1,
    "ListOffsets": 2,
    "OffsetCommit": 8,
    "OffsetFetch": 9,
    "FindCoordinator": 10,
    "JoinGroup": 11,
    "Heartbeat": 12,
    "LeaveGroup": 13,
    "SyncGroup": 14,
    "InitProducerId": 22,
    "AddPartitionsToTxn": 24,
    "AddOffsetsToTxn": 25,
    "EndTxn": 26,
    "TxnOffsetCommit": 28,
}
_AROUND: Final[tuple[Moment, ...]] = ("before", "after")
_CONNECTION = ("aiokafka.conn", "AIOKafkaConnection.send")

#: Functions before and after which an agent may break, in the order of a partition's life.
_FUNCTIONS: Final = {
    # the group
    "assigned": ("consumer.intake.listener", "Listener.on_partitions_assigned"),
    "revoked": ("consumer.intake.listener", "Listener.on_partitions_revoked"),
    # taking a partition: fence, read, claim, read on, set the consumer, resume what runs
    "lane.take_over": ("consumer.intake.lane", "Lane._take_over"),
    "owner.open": ("consumer.journal.owner", "PartitionOwner.open"),
    "writer.start": ("consumer.journal.writer", "ExactlyOnceWriter.start"),
    "plain_writer.start": ("consumer.journal.writer", "AtLeastOnceWriter.start"),
    "claim": ("consumer.journal.owner", "PartitionOwner._claim"),
    "restore": ("consumer.journal.owner", "restore"),
    "offsets": ("consumer.intake.listener", "Listener.seek"),
    "adopt": ("consumer.engine.supervisor", "Supervisor.adopt"),
    "resume": ("consumer.engine.runner", "Runner._resume"),
    # a batch
    "flush": ("consumer.engine.execution", "Execution.flush"),
    "write": ("consumer.journal.writer", "ExactlyOnceWriter.write"),
    "plain_write": ("consumer.journal.writer", "AtLeastOnceWriter.write"),
    "transaction.begin": ("aiokafka", "AIOKafkaProducer.begin_transaction"),
    "transaction.offsets": ("aiokafka", "AIOKafkaProducer.send_offsets_to_transaction"),
    "transaction.commit": ("aiokafka", "AIOKafkaProducer.commit_transaction"),
    "send": ("consumer.journal.producers", "send"),
    "durable": ("consumer.journal.queue", "AppendQueue.done"),
    # a command and its steps
    "take": ("consumer.engine.supervisor", "Supervisor.take"),
    "launch": ("consumer.engine.runner", "Runner._launch"),
    "effect": ("consumer.engine.step", "StepRunner._attempt"),
    "outcome": ("consumer.engine.step", "StepRunner.run"),
    "results": ("consumer.engine.runner", "Runner._take_results"),
    # the end
    "sweep": ("consumer.engine.supervisor", "Supervisor.sweep"),
    "drop": ("consumer.engine.supervisor", "Supervisor.drop"),
    "owner.close": ("consumer.journal.owner", "PartitionOwner.close"),
    "drain": ("consumer.intake.listener", "Listener._drain"),
}


def _table() -> dict[str, Place]:
    places: dict[str, Place] = {}
    for name, (module, attribute) in _FUNCTIONS.items():
        for moment in _AROUND:
            places[f"{name}.{moment}"] = Place(module, attribute, moment)
    for name, key in REQUESTS.items():
        for moment in get_args(Moment):
            places[f"{name}.{moment}"] = Place(*_CONNECTION, moment, request=key)
    return places


#: All fail points by name: `EndTxn.in`, `effect.before`.
TABLE: Final = _table()


@dataclass(slots=True)
class Armed:
    """What is to happen, and when. Raises ValueError for a name or an action that there is not."""

    name: str
    nth: int = 1
    action: Action = "kill"
    seconds: float = _DEFAULT_SECONDS

    def __post_init__(self) -> None:
        if self.name not in TABLE:
            raise ValueError(f"{self.name!r} is no fail point")
        if self.action not in get_args(Action):
            raise ValueError(f"{self.action!r} is no action; there are {', '.join(get_args(Action))}")

    @classmethod
    def parse(cls, text: str) -> Armed:
        """What `str` gives: `EndTxn.in:3:kill`, `write.before::delay=2.5`, `claim.after`."""
        name, _, rest = text.partition(":")
        nth, _, how = rest.partition(":")
        action, _, seconds = how.partition("=")
        return cls(
            name,
            int(nth) if nth else 1,
            cast(Action, action or "kill"),
            float(seconds) if seconds else _DEFAULT_SECONDS,
        )

    def __str__(self) -> str:
        return f"{self.name}:{self.nth}:{self.action}={self.seconds:g}"


class FailPoints:
    """The armed fail points of this process. Armed from any thread, reached in any."""

    def __init__(self, hits: str | None = None) -> None:
        self._hits = hits
        self._armed: list[Armed] = []
        self._lock = threading.Lock()

    def arm(self, armed: Armed) -> None:
        """From now on it is waited for."""
        with self._lock:
            self._armed.append(armed)

    def disarm(self) -> None:
        """Nothing is waited for any more."""
        with self._lock:
            self._armed.clear()

    def watching(self, prefix: str) -> bool:
        """Whether any armed name begins so. Quick: asked at each request."""
        return any(armed.name.startswith(prefix) for armed in self._armed)

    def reach(self, name: str) -> None:
        """The place is reached, by what can't wait."""
        due = self._due(name)
        if due is not None:
            self._act(due)

    async def reach_async(self, name: str) -> None:
        """The place is reached, by a coroutine."""
        due = self._due(name)
        if due is None:
            return
        if due.action == "delay":
            self._note(due)
            await asyncio.sleep(due.seconds)
        else:
            self._act(due)

    def _due(self, name: str) -> Armed | None:
        if not self._armed:
            return None
        with self._lock:
            for armed in self._armed:
                if armed.name == name:
                    armed.nth -= 1
                    if armed.nth <= 0:
                        self._armed.remove(armed)
                        return armed
        return None

    def _act(self, armed: Armed) -> None:
        self._note(armed)
        match armed.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "exit":
                os._exit(EXIT_CODE)
            case "block" | "delay":
                time.sleep(armed.seconds)

    def _note(self, armed: Armed) -> None:
        if self._hits is None:
            return
        entry = {"point": armed.name, "action": armed.action, "pid": os.getpid(), "time": time.time()}
        descriptor = os.open(self._hits, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, json.dumps(entry).encode() + b"\n")
        finally:
            os.close(descriptor)


def resolve(place: Place) -> tuple[Any, str, Callable[..., Any]]:
    """The object that holds the function, its name there, and the function. Raises AttributeError, ImportError."""
    holder: Any = importlib.import_module(place.module)
    *path, name = place.attribute.split(".")
    for part in path:
        holder = getattr(holder, part)
    return holder, name, getattr(holder, name)


def install(points: FailPoints) -> None:
    """Wraps all that `TABLE` names, in this process."""
    for place in {(place.module, place.attribute): place for place in TABLE.values()}.values():
        holder, name, function = resolve(place)
        if place.request is not None:
            setattr(holder, name, _wrapped_requests(function, points))
        else:
            label = next(name for name, target in _FUNCTIONS.items() if target == (place.module, place.attribute))
            setattr(holder, name, _wrapped(function, label, points))


def _wrapped(function: Callable[..., Any], label: str, points: FailPoints) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            await points.reach_async(f"{label}.before")
            result = await function(*args, **kwargs)
            await points.reach_async(f"{label}.after")
            return result

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        points.reach(f"{label}.before")
        result = function(*args, **kwargs)
        points.reach(f"{label}.after")
        return result

    return call


def _wrapped_requests(send: Callable[..., Awaitable[Any]], points: FailPoints) -> Callable[..., Awaitable[Any]]:
    names = {key: name for name, key in REQUESTS.items()}

    @functools.wraps(send)
    def call(self: Any, request: Any, expect_response: bool = True) -> Awaitable[Any]:
        name = names.get(request.API_KEY)
        if name is None or not points.watching(f"{name}."):
            return send(self, request, expect_response)
        return call_async(self, request, expect_response, name)

    async def call_async(self: Any, request: Any, expect_response: bool, name: str) -> Any:
        await points.reach_async(f"{name}.before")
        answer = send(self, request, expect_response)  # writes to the socket at once
        try:
            await points.reach_async(f"{name}.in")
        except BaseException:
            if inspect.iscoroutine(answer):
                answer.close()
            raise
        result = await answer
        await points.reach_async(f"{name}.after")
        return result

    return call


def names(*, moments: tuple[Moment, ...] = ("before", "in", "after")) -> Iterator[str]:
    """The names of the fail points of those moments."""
    return (name for name, place in TABLE.items() if place.moment in moments)
