"""The simulated cluster: its partitions, both coordinators, and the truth that the invariants ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from consumer.journal.topics import TopicNames
from consumer.ports import CommandTopic, Topic
from tests.simulation.groups import Group
from tests.simulation.log import Entry, Log, Payload
from tests.simulation.loop import Loop
from tests.simulation.network import Network
from tests.simulation.transactions import Place, Transactions


class Cluster:
    """What all clients of one schedule talk to."""

    def __init__(self, loop: Loop, names: TopicNames, partitions: int) -> None:
        self.loop = loop
        self.names = names
        self.partitions = partitions
        self.network = Network(loop)
        self.logs: dict[Place, Log] = {}
        for role in (*Topic, *CommandTopic):
            for number in range(partitions):
                place = names.name(role), number
                self.logs[place] = Log(*place, loop.time)
        self.command_logs = [self.log(role, number) for role in CommandTopic for number in range(partitions)]
        self.group = Group(loop)
        self.observers: list[Callable[[Entry], None]] = []
        """Told each record as it becomes durable: committed, or appended without a transaction."""
        self.transactions = Transactions(loop, self.durable, self.group.take_offsets)

    def log(self, role: Topic | CommandTopic, partition: int) -> Log:
        """The log of a topic's partition."""
        return self.logs[self.names.name(role), partition]

    def produce(self, log: Log, batch: Sequence[Payload]) -> int:
        """Appends without a transaction; the first offset."""
        added = log.append(batch)
        self.durable(added)
        return added[0].offset

    def durable(self, entries: Sequence[Entry]) -> None:
        """Tells who watches; of what becomes durable together the events first, and then the state."""
        state = self.names.name(Topic.STATE)
        for entry in sorted(entries, key=lambda entry: entry.topic == state):
            for observer in self.observers:
                observer(entry)

    def compact(self) -> None:
        """The cleaner passes over the state topic."""
        for number in range(self.partitions):
            gone = self.log(Topic.STATE, number).compact(self.loop.random)
            self.loop.note(f"compacted state-{number}: {gone} records less")
