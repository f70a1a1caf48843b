"""What the faults of a run have before them: the agents, the brokers, the network between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from tests.chaos.agents import Agents
from tests.chaos.record import Record
from tests.support.kafka import ProcessBroker, apache_broker
from tests.support.kafka.cluster import KafkaCluster, apache_cluster
from tests.support.kafka.proxy import ClientSet

T = TypeVar("T")
Mode = Literal["exactly_once", "at_least_once"]

#: Where agents run: three always, and one more that comes and goes.
PLACES = ("a", "b", "c")
GUEST = "d"
_PATIENCE = 120.0


class NotApplied(Exception):
    """A fault could not be applied; it says why, and is not counted."""


class Node(Protocol):
    """A broker that may be broken. Its verbs block."""

    @property
    def alive(self) -> bool: ...
    def kill(self) -> None: ...
    def stop(self) -> None: ...
    def freeze(self) -> None: ...
    def revive(self) -> None: ...
    def restart(self) -> None: ...


class OneNode:
    """The only broker of a small run."""

    def __init__(self, broker: ProcessBroker) -> None:
        self._broker = broker
        self.id = 1
        self.frozen = False

    @property
    def alive(self) -> bool:
        """Whether it runs, frozen or not."""
        return self._broker.alive

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self._broker.kill()
        self.frozen = False

    def stop(self) -> None:
        """Ends it in order."""
        self.revive()
        self._broker.stop()

    def freeze(self) -> None:
        """Lets it hang."""
        self._broker.pause()
        self.frozen = True

    def revive(self) -> None:
        """Lets it go on."""
        if self.frozen:
            self._broker.resume()
            self.frozen = False

    def restart(self) -> None:
        """Starts it with the data it had."""
        self._broker.restart()


class Kafka:
    """The brokers of a run: three with proxies before them, or one without."""

    def __init__(self, cluster: KafkaCluster | None, single: OneNode | None, direct: str) -> None:
        self.cluster = cluster
        self.direct = direct
        """How the load and the checks reach it: past all faults of the network."""
        self.nodes: dict[int, Node] = {1: single} if single is not None else {}
        if cluster is not None:
            self.nodes = dict(cluster.nodes)

    def bootstrap(self, place: str) -> str:
        """How the agents of that place reach it."""
        return self.direct if self.cluster is None else self.cluster.clients[place].bootstrap

    def network(self, place: str) -> ClientSet:
        """The ways between that place and the brokers. Raises NotApplied where there are none to be broken."""
        if self.cluster is None:
            raise NotApplied("there are no proxies before one node")
        return self.cluster.clients[place]

    def needed(self) -> KafkaCluster:
        """The cluster of three. Raises NotApplied where there is but one node."""
        if self.cluster is None:
            raise NotApplied("there is but one node")
        return self.cluster

    def heal(self) -> None:
        """All nodes run, all ways are open. Raises RuntimeError."""
        if self.cluster is not None:
            self.cluster.heal()
            return
        for node in self.nodes.values():
            node.revive()
            if not node.alive:
                node.restart()

    def until_whole(self, within: float = _PATIENCE) -> None:
        """Returns when no node is away or behind, so that another may fail. Raises NotApplied."""
        if self.cluster is not None:
            try:
                self.cluster.await_healthy(within)
            except RuntimeError as error:
                raise NotApplied(f"the cluster is not whole: {str(error).splitlines()[0]}") from error
        elif not all(node.alive for node in self.nodes.values()):
            raise NotApplied("the node is away")

    def describe(self) -> str:
        """For a diagnosis."""
        return self.cluster.describe() if self.cluster is not None else repr(self.nodes)


@contextlib.contextmanager
def kafka(nodes: int) -> Iterator[Kafka]:
    """Brokers of one's own. Raises jars.Unavailable."""
    if nodes == 1:
        with apache_broker() as broker:
            yield Kafka(None, OneNode(broker), broker.bootstrap)
        return
    with apache_cluster((*PLACES, GUEST)) as cluster:
        yield Kafka(cluster, None, cluster.direct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What faults are drawn for: known before anything runs, so that a seed always draws the same."""

    nodes: int
    mode: Mode
    partitions: int
    session: float
    """Seconds after which the group does without a silent agent."""
    forgets: bool = False
    """Whether ended executions are forgotten while the run goes on: tombstones in the state topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the faults may break."""

    setting: Setting
    kafka: Kafka
    agents: Agents
    prefix: str
    group: str
    record: Record

    def topic(self, role: str) -> str:
        """A topic's name."""
        return f"{self.prefix}.{role}"

    def transactional_id(self, partition: int) -> str:
        """Of the owner of that partition."""
        return f"{self.prefix}-{self.group}-{partition}"


async def blocking(call: Callable[[], T], within: float = _PATIENCE) -> T:
    """The call in a thread, which is waited for so long; the thread itself goes on."""
    async with asyncio.timeout(within):
        return await asyncio.to_thread(call)
