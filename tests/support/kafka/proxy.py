"""Faults of the network between clients and the nodes of a cluster. The proxies run in `proxy_process.py`."""

from __future__ import annotations

import contextlib
import enum
import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from consumer.dev.broker import tied_to_owner
from tests.support.daemon import starter

Direction = Literal["to_node", "to_client"]
_PROGRAM = Path(__file__).parent / "proxy_process.py"
_PARTING = 10.0


class Api(enum.IntEnum):
    """Requests after which a fault may come, by their keys in Kafka's protocol."""

    PRODUCE = 0
    FETCH = 1
    METADATA = 3
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    SYNC_GROUP = 14
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a proxy does and has done."""

    connections: int
    carried: Mapping[Direction, int]
    """Bytes that came, in each direction."""
    lost: Mapping[Direction, int]
    """Bytes of those that a half cut threw away."""
    armed: bool
    """Whether a fault still waits for the request that it comes after."""
    listens: bool


class ProxyProcess:
    """The process of all proxies of a cluster. Calls take milliseconds, and may come from any thread."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._lock = threading.Lock()
        self._process = starter.submit(self._spawn, log).result()

    def ask(self, proxy: str, verb: str, **options: object) -> dict[str, object]:
        """What the process answers. Raises RuntimeError where it can't do it, or is no more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        command = json.dumps({"proxy": proxy, "verb": verb, "options": options})
        with self._lock:
            line = b""
            with contextlib.suppress(OSError):  # a broken pipe says no more than no answer does
                self._process.stdin.write(command.encode() + b"\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the proxies are gone; their last words:\n{self.log.read_text()[-2_000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return dict(answer.get("said") or {})

    def close(self) -> None:
        """Ends it, and all connections through it."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_PARTING)
            except subprocess.TimeoutExpired:
                process.kill()

    @staticmethod
    def _spawn(log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as errors:
            return subprocess.Popen(
                tied_to_owner([sys.executable, "-I", str(_PROGRAM)]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )


class Proxy:
    """What clients of one set reach one node by, and the faults of that way. Faults add up; `heal` ends all of them.

    It takes connections also where its node is dead, and resets them at once, as a load balancer does.
    """

    def __init__(self, process: ProxyProcess, name: str, *, port: int, node_port: int) -> None:
        self.port = port
        self._process = process
        self._name = name
        process.ask(name, "open", port=port, node_port=node_port)

    def __repr__(self) -> str:
        return f"<proxy {self._name} on port {self.port}>"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        """Each way takes that long more, and up to `jitter` seconds beyond, at random; the order stays."""
        self._process.ask(self._name, "delay", seconds=seconds, jitter=jitter)

    def cut(self) -> None:
        """Resets all connections and refuses new ones."""
        self._process.ask(self._name, "cut")

    def drop_connections(self, *, after: Api | None = None) -> None:
        """Resets all connections; new ones are welcome.

        With `after`, one connection, once: that of the next such request, as soon as the request is on its way. The
        node gets it and does what it asks; the client does not hear of it.
        """
        self._process.ask(self._name, "drop_connections", after=after)

    def half_cut(self, direction: Direction, *, after: Api | None = None) -> None:
        """Throws away the bytes of one direction, while all connections stay open. `heal` resets those that lost some.

        With `after`, not before the next such request, which still passes: with "to_client" its answer is the first
        to be lost.
        """
        self._process.ask(self._name, "half_cut", direction=direction, after=after)

    def stall(self, *directions: Direction) -> None:
        """Carries nothing of these directions, or of both if none is named; loses nothing: it goes on with `heal`."""
        self._process.ask(self._name, "stall", directions=directions or ("to_node", "to_client"))

    def heal(self) -> None:
        """Ends every fault."""
        self._process.ask(self._name, "heal")

    def look(self) -> Sight:
        """What it does and has done."""
        return Sight(**self._process.ask(self._name, "look"))  # type: ignore[arg-type] # our own process's words


class ClientSet:
    """Clients whose network is one: an agent, say. The faults of all its ways at once; `proxies` has each, by node."""

    def __init__(self, name: str, proxies: Mapping[int, Proxy]) -> None:
        self.name = name
        self.proxies = proxies

    def __repr__(self) -> str:
        return f"<clients {self.name} by {self.bootstrap}>"

    @property
    def bootstrap(self) -> str:
        """The addresses to configure such a client with; those it learns from the nodes are these too."""
        return ",".join(proxy.address for proxy in self._all)

    @property
    def _all(self) -> Iterable[Proxy]:
        return self.proxies.values()

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        """As `Proxy.delay`, to every node."""
        for proxy in self._all:
            proxy.delay(seconds, jitter)

    def cut(self) -> None:
        """As `Proxy.cut`, to every node."""
        for proxy in self._all:
            proxy.cut()

    def drop_connections(self) -> None:
        """As `Proxy.drop_connections`, to every node."""
        for proxy in self._all:
            proxy.drop_connections()

    def half_cut(self, direction: Direction) -> None:
        """As `Proxy.half_cut`, to every node."""
        for proxy in self._all:
            proxy.half_cut(direction)

    def stall(self, *directions: Direction) -> None:
        """As `Proxy.stall`, to every node."""
        for proxy in self._all:
            proxy.stall(*directions)

    def heal(self) -> None:
        """Ends every fault, to every node."""
        for proxy in self._all:
            proxy.heal()
