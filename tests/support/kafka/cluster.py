"""Three nodes of Apache Kafka, of which any may fail, and a network of which any way may fail.

Each node has a listener of its own for each set of clients, whose advertised address is a proxy's (`proxy.py`), and
one that is direct: the nodes talk to each other on it, and so do observers, which no fault of the network may blind.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from consumer.dev.broker import HOST, free_port
from tests.support.kafka import jars, wire
from tests.support.kafka.node import Node, make_node
from tests.support.kafka.processes import begins_transactions, install
from tests.support.kafka.proxy import ClientSet, Proxy, ProxyProcess

T = TypeVar("T")

NODES = (1, 2, 3)
#: For everything that the cluster does by itself: elections, catching up, moving leaders.
PATIENCE = 90.0
_LOOK_EVERY = 0.05


class KafkaCluster:
    """The nodes, what they know, and the ways to them. Calls block: from a coroutine, by `asyncio.to_thread`."""

    def __init__(self, nodes: Mapping[int, Node], clients: Mapping[str, ClientSet], *, proxies_log: Path) -> None:
        self.nodes = nodes
        self.clients = clients
        self._proxies_log = proxies_log
        self.direct = ",".join(f"{HOST}:{node.port}" for node in nodes.values())
        """The bootstrap servers for observers: no proxy is on their way."""

    def __repr__(self) -> str:
        return f"<cluster of {list(self.nodes.values())}>"

    @property
    def running(self) -> list[Node]:
        """The nodes that can answer."""
        return [node for node in self.nodes.values() if node.alive and not node.frozen]

    def view(self) -> wire.View:
        """The cluster as most of the nodes see it that answer, for one that was cut off may see the past."""
        views = self._views()
        if not views:
            raise RuntimeError(f"no node answers\n{self.describe()}")
        return max(views, key=lambda one: sum(one.brokers == other.brokers for other in views))

    def leader(self, topic: str, partition: int = 0) -> Node:
        """The leader of that partition, once it has one that runs. Raises RuntimeError where it gets none."""

        def led() -> Node | None:
            found = self.view().partitions.get((topic, partition))
            return self._in_service(found.leader) if found is not None else None

        return self._until(led, f"{topic}-{partition} has a leader")

    def controller(self) -> Node:
        """The active controller, once there is one that runs. Raises RuntimeError."""

        def active() -> Node | None:
            for node in self.running:
                with contextlib.suppress(wire.NoAnswer, wire.Refusal):
                    return self._in_service(wire.controller(node.port))
            return None

        return self._until(active, "there is an active controller")

    def group_coordinator(self, group: str) -> Node:
        """The coordinator of that group, once there is one. Raises RuntimeError."""
        return self._coordinator(wire.GROUP, group)

    def transaction_coordinator(self, transactional_id: str) -> Node:
        """The coordinator of that transactional id, once there is one. Raises RuntimeError."""
        return self._coordinator(wire.TRANSACTION, transactional_id)

    def move_partition(self, topic: str, partition: int, leader: Node | int) -> None:
        """Makes that node the partition's leader, and its preferred one. Raises RuntimeError where it fails."""
        wanted = leader if isinstance(leader, int) else leader.id

        def moved() -> bool:
            found = self.view().partitions.get((topic, partition))
            if found is None:  # a topic that was just made is not at once known everywhere
                return False
            if found.leader == wanted and found.replicas[0] == wanted:
                return True
            with contextlib.suppress(wire.Refusal, wire.NoAnswer):  # a node that catches up is refused as a leader
                order = [wanted, *(replica for replica in found.replicas if replica != wanted)]
                wire.reassign(self.running[0].port, topic, partition, order)
                wire.elect_preferred(self.running[0].port, [(topic, partition)])
            return False

        self._until(moved, f"node {wanted} leads {topic}-{partition}")

    def prefer_leaders(self) -> None:
        """Spreads the leaders over the nodes again, as they were before there were faults. For a healthy cluster."""

        def spread() -> bool:
            partitions = self.view().partitions
            astray = [key for key, partition in partitions.items() if partition.leader != partition.replicas[0]]
            if astray:
                with contextlib.suppress(wire.Refusal, wire.NoAnswer):
                    wire.elect_preferred(self.running[0].port, astray)
            return not astray

        self._until(spread, "every partition's preferred replica leads it")

    def roll(self) -> None:
        """A rolling restart, as an operator would do it: one node after another, each only once all is in sync."""
        for node in self.nodes.values():
            self.await_healthy()
            node.stop()
            node.restart()
        self.await_healthy()

    def heal(self) -> None:
        """Ends every fault, of the network and of the nodes; returns when all is healthy. Raises RuntimeError."""
        for clients in self.clients.values():
            clients.heal()
        dead = [node for node in self.nodes.values() if not node.alive]
        for node in self.nodes.values():
            node.revive()
        _launch(dead)
        self.await_healthy()
        self.prefer_leaders()

    def await_healthy(self, timeout: float = PATIENCE) -> None:
        """Returns when every node sees all nodes, all replicas in sync. Raises RuntimeError with their last words."""

        def healthy() -> bool:
            views = self._views()
            return len(views) == len(self.nodes) and all(self._is_whole(view) for view in views)

        self._until(healthy, "all nodes are in and all replicas in sync", timeout=timeout)

    def describe(self) -> str:
        """Who is there, who leads what, what is out of sync, and the last words of all nodes."""
        lines = []
        for node in self.nodes.values():
            lines.append(repr(node))
            try:
                lines += _lines(node.view()) if node in self.running else []
            except wire.NoAnswer as error:
                lines.append(f"  does not answer: {error}")
        for clients in self.clients.values():
            lines += [f"{proxy!r}: {_sight(proxy)}" for proxy in clients.proxies.values()]
        lines += [f"node {node.id} wrote:\n{node.output}" for node in self.nodes.values()]
        return "\n".join(lines)

    def keep_logs(self) -> Path:
        """Copies what the nodes and the proxies wrote to a directory that stays."""
        kept = Path(tempfile.mkdtemp(prefix="wpk-cluster-logs-"))
        for node in self.nodes.values():
            if node.log.exists():
                shutil.copyfile(node.log, kept / f"node-{node.id}.log")
        shutil.copyfile(self._proxies_log, kept / "proxies.log")
        (kept / "describe.txt").write_text(self.describe())
        return kept

    def _views(self) -> list[wire.View]:
        views = []
        for node in self.running:
            with contextlib.suppress(wire.NoAnswer):
                views.append(node.view())
        return views

    def _is_whole(self, view: wire.View) -> bool:
        return view.brokers == self.nodes.keys() and all(
            partition.leader is not None and partition.in_sync == set(partition.replicas)
            for partition in view.partitions.values()
        )

    def _in_service(self, number: int | None) -> Node | None:
        node = self.nodes.get(number) if number is not None else None
        return node if node in self.running else None

    def _coordinator(self, kind: int, name: str) -> Node:
        def found() -> Node | None:
            for node in self.running:
                with contextlib.suppress(wire.NoAnswer, wire.Refusal):
                    return self._in_service(wire.coordinator(node.port, kind, name))
            return None

        return self._until(found, f"{name} has a coordinator")

    def _until(self, check: Callable[[], T | None], wish: str, *, timeout: float = PATIENCE) -> T:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if result := check():
                return result
            time.sleep(_LOOK_EVERY)
        raise RuntimeError(f"not within {timeout:g} s: {wish}\n{self.describe()}")


@contextlib.contextmanager
def apache_cluster(clients: Sequence[str] = ("a",)) -> Iterator[KafkaCluster]:
    """A cluster of its own, healthy, with proxies for each of those sets of clients. Raises jars.Unavailable.

    What the nodes wrote stays, where the block or the start ends with an error; the error names the directory.
    """
    kafka = install()
    with tempfile.TemporaryDirectory(prefix="wpk-cluster-", ignore_cleanup_errors=True) as name:
        with contextlib.ExitStack() as stack:
            cluster = _prepare(kafka, Path(name), clients, stack)
            try:
                _start(cluster)
                yield cluster
            except Exception as error:
                error.add_note(f"the logs of the cluster: {cluster.keep_logs()}")
                raise
            finally:
                for node in cluster.nodes.values():
                    node.kill()


def _launch(nodes: Sequence[Node]) -> None:
    for node in nodes:  # together: one alone would wait for a quorum
        node.launch()
    for node in nodes:
        node.await_service()


def _start(cluster: KafkaCluster) -> None:
    _launch(list(cluster.nodes.values()))
    cluster.await_healthy()
    # The brokers make their own topics when the first client needs them.
    cluster.group_coordinator("wpk-readiness")
    if not begins_transactions(cluster.direct):
        raise RuntimeError(f"the cluster begins no transaction\n{cluster.describe()}")
    cluster.await_healthy()


def _prepare(
    kafka: jars.Distribution, directory: Path, clients: Sequence[str], stack: contextlib.ExitStack
) -> KafkaCluster:
    names = ["CONTROLLER", "DIRECT", *(f"CLIENT_{name.upper()}" for name in clients)]
    ports = _free_ports(len(NODES) * (len(names) + len(clients)))
    listening = {node: {name: next(ports) for name in names} for node in NODES}
    proxies = ProxyProcess(directory / "proxies.log")
    stack.callback(proxies.close)
    sets = {
        name: ClientSet(
            name,
            {
                node: Proxy(
                    proxies, f"{name}-{node}", port=next(ports), node_port=listening[node][f"CLIENT_{name.upper()}"]
                )
                for node in NODES
            },
        )
        for name in clients
    }
    nodes = {}
    for node in NODES:
        advertised = {"DIRECT": listening[node]["DIRECT"]}
        advertised |= {f"CLIENT_{name.upper()}": of.proxies[node].port for name, of in sets.items()}
        nodes[node] = make_node(kafka, directory / f"node-{node}", node, listening, advertised)
    return KafkaCluster(nodes, sets, proxies_log=proxies.log)


def _free_ports(count: int) -> Iterator[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return iter(found)


def _lines(view: wire.View) -> list[str]:
    lines = [f"  sees nodes {sorted(view.brokers)}"]
    for (topic, number), partition in sorted(view.partitions.items()):
        if partition.leader is None or partition.in_sync != set(partition.replicas):
            behind = f"in sync {sorted(partition.in_sync)} of {list(partition.replicas)}"
            lines.append(f"  {topic}-{number}: leader {partition.leader}, {behind}")
    return lines


def _sight(proxy: Proxy) -> str:
    try:
        return repr(proxy.look())
    except RuntimeError as error:
        return str(error)
