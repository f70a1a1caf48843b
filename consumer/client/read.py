"""Reading what the topics hold at present: the newest state of executions, and the history of one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import nlargest

from consumer.client.errors import ClientError, UnknownExecution
from consumer.client.follow import EVENT_TOPICS, decoded
from consumer.client.partitions import count_partitions, partition_of, reaching
from consumer.client.trails import PatientTrail
from consumer.journal import lineage
from consumer.journal.connection import KafkaConnection
from consumer.journal.reader import LogRecord, open_reader
from consumer.journal.restore import Fold
from consumer.journal.topics import TopicNames
from consumer.ports import Topic
from schemas import snapshot
from schemas.events import Event, Status
from schemas.execution import ExecutionState

#: Clocks of agents and brokers differ; a reading by time begins so much earlier.
CLOCK_SKEW = timedelta(minutes=2)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which executions to list; nothing given: all."""

    statuses: frozenset[Status] = frozenset()
    workflow: str | None = None
    """The workflow's name, or `name-version`."""
    since: datetime | None = None
    """Changed at that moment or later."""
    stuck_since: datetime | None = None
    """Not ended, and nothing has happened since that moment, though no backoff is to wait for."""

    def admits(self, state: ExecutionState) -> bool:
        """Whether that execution is wanted."""
        return (
            (not self.statuses or state.status in self.statuses)
            and (self.workflow is None or self.workflow in (state.workflow_name, state.workflow_id))
            and (self.since is None or (state.updated_at is not None and state.updated_at >= self.since))
            and (self.stuck_since is None or is_stuck(state, self.stuck_since))
        )


def is_stuck(state: ExecutionState, since: datetime) -> bool:
    """Whether the execution has not ended and nothing was due to happen after that moment, and nothing did."""
    if state.status is None or state.over:
        return False
    steps = [*state.steps.values(), *state.rollback_steps.values()]
    due = [step.retry_at for step in steps if step.retry_at is not None and not step.status.settled]
    return all(moment <= since for moment in (state.updated_at or _LONG_AGO, *due))


@dataclass(frozen=True, slots=True)
class History:
    """What the topics hold of one execution."""

    events: list[Event]
    state: ExecutionState
    missing: int
    """How many events before the last are not there any more."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Executions, newest first, and how many could not be read."""

    executions: list[ExecutionState]
    unreadable: int
    more: int = 0
    """How many others are wanted too, and older than those that were asked for."""


async def read_states(
    connection: KafkaConnection, topics: TopicNames, partitions: Iterable[int], wanted: Callable[[str], bool]
) -> dict[str, dict[str, bytes]]:
    """The newest state records of those partitions, by execution; `wanted` says of which keys."""
    grouped: dict[str, dict[str, bytes]] = defaultdict(dict)
    for key, value in await _newest(connection, topics, partitions, wanted):
        grouped[key.partition("/")[0]][key] = value
    return grouped


async def read_heads(
    connection: KafkaConnection, topics: TopicNames, partitions: Iterable[int], only: str | None = None
) -> Iterator[tuple[str, bytes]]:
    """The newest head of each execution, or of the one, by its id. What was given out is let go of: they are many."""

    def wanted(key: str) -> bool:
        return key == only if only is not None else "/" not in key

    return await _newest(connection, topics, partitions, wanted)


async def _newest(
    connection: KafkaConnection, topics: TopicNames, partitions: Iterable[int], wanted: Callable[[str], bool]
) -> Iterator[tuple[str, bytes]]:
    topic = topics.name(Topic.STATE)
    folds: dict[int, Fold] = defaultdict(Fold)
    async with reaching(connection):
        async with open_reader(connection, [(topic, number) for number in partitions]) as reader:
            async with aclosing(reader.to_end()) as records:
                async for record in records:
                    folds[record.partition].add(record if _is_wanted(record, wanted) else _emptied(record))

    def given_out() -> Iterator[tuple[str, bytes]]:
        for fold in folds.values():
            for key in [*fold.values]:
                value = fold.values.pop(key)
                if not lineage.is_reserved(key):
                    yield key.decode(errors="replace"), value

    return given_out()


def _is_wanted(record: LogRecord, wanted: Callable[[str], bool]) -> bool:
    return lineage.is_reserved(record.key) or (record.key is not None and wanted(record.key.decode(errors="replace")))


def _emptied(record: LogRecord) -> LogRecord:
    """The record as a tombstone: its epoch still tells who owned the partition, its value is not kept."""
    return record._replace(value=None)


async def read_state(connection: KafkaConnection, topics: TopicNames, execution_id: str) -> ExecutionState | None:
    """The newest state of an execution; None where the state topic does not know it (any more)."""
    topic = topics.name(Topic.STATE)
    count = await count_partitions(connection, [topic])
    home, prefix = partition_of(execution_id, count), f"{execution_id}/"

    def mine(key: str) -> bool:
        return key == execution_id or key.startswith(prefix)

    found = await read_states(connection, topics, [home], mine)
    if execution_id not in found:  # a command without a key, or from a producer with another partitioner
        others = [number for number in range(count) if number != home]
        found = await read_states(connection, topics, others, mine) if others else found
    try:
        return snapshot.load(found.get(execution_id, {})).get(execution_id)
    except (ValueError, KeyError, TypeError) as error:
        raise ClientError(
            f"the state of execution {execution_id} in {topic} can't be read ({str(error)[:200]}); "
            "was it written by a newer version?"
        ) from error


async def list_states(
    connection: KafkaConnection, topics: TopicNames, wanted: Filter, most: int | None = None
) -> Listing:
    """The executions that the state topic knows: those that live, and those that ended within the retention.

    Their commands, outputs and undo records are left out. `most`: so many, the newest.
    """
    topic = topics.name(Topic.STATE)
    count = await count_partitions(connection, [topic])
    heads = await read_heads(connection, topics, range(count))
    unreadable = total = 0

    def admitted() -> Iterator[ExecutionState]:
        nonlocal unreadable, total
        for execution_id, value in heads:
            try:
                state = snapshot.load({execution_id: value}).get(execution_id)
            except (ValueError, KeyError, TypeError):
                unreadable += 1
                continue
            if state is not None and wanted.admits(state):
                total += 1
                yield state

    states = sorted(admitted(), key=_age, reverse=True) if most is None else nlargest(most, admitted(), key=_age)
    return Listing(states, unreadable, total - len(states))


def _age(state: ExecutionState) -> datetime:
    return state.accepted_at or state.updated_at or _LONG_AGO


async def read_history(
    connection: KafkaConnection,
    topics: TopicNames,
    execution_id: str,
    *,
    since: datetime | None = None,
    of: Collection[Topic] = EVENT_TOPICS,
) -> History:
    """The events of an execution that the topics hold now, folded. Raises UnknownExecution where there is none.

    `since` is a moment before its acceptance: what lies before is not read.
    """
    names = [topics.name(topic) for topic in of]
    number = partition_of(execution_id, await count_partitions(connection, names))
    places = [(name, number) for name in names]
    starts = {place: since - CLOCK_SKEW for place in places} if since else None
    trail, events, key = PatientTrail(execution_id), list[Event](), execution_id.encode()
    async with reaching(connection), open_reader(connection, places, starts=starts) as reader:
        async with aclosing(_values(reader.to_end(), key)) as values:
            async for value in values:
                for event in decoded([value]):
                    events += trail.add(event)
    events += trail.finish()
    if trail.state is None:
        raise UnknownExecution(execution_id)
    return History(events, trail.state, trail.missing)


async def _values(records: AsyncGenerator[LogRecord, None], key: bytes) -> AsyncGenerator[bytes | None, None]:
    async with aclosing(records):
        async for record in records:
            if record.key == key:
                yield record.value
