"""One of several nodes of Apache Kafka, as a process."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from consumer.dev.broker import HOST
from tests.support.kafka import jars, wire
from tests.support.kafka.handle import server_settings
from tests.support.kafka.processes import ProcessBroker

_HEAP = "256m"


class Node:
    """One node: broker and controller. Its verbs block: from a coroutine, by `asyncio.to_thread`."""

    def __init__(self, number: int, process: ProcessBroker, log: Path) -> None:
        self.id = number
        self.log = log
        self.frozen = False
        self._process = process

    def __repr__(self) -> str:
        state = "frozen" if self.frozen else "alive" if self.alive else "dead"
        return f"<node {self.id}, {state}, direct port {self.port}>"

    @property
    def port(self) -> int:
        """Its direct port."""
        return self._process.port

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs (also while frozen)."""
        return self._process.alive

    @property
    def output(self) -> str:
        """The end of what it wrote."""
        return self._process.output

    def kill(self) -> None:
        """Ends it as a power cut would; frozen or not."""
        self._process.kill()
        self.frozen = False

    def stop(self) -> None:
        """Ends it in order: it gives its leaders away first. Killed where that takes longer than 20 s."""
        self.revive()
        self._process.stop()

    def freeze(self) -> None:
        """Lets it hang: its connections stay open, nothing answers; the others soon do without it.

        Raises RuntimeError where it doesn't run.
        """
        self._process.pause()
        self.frozen = True

    def revive(self) -> None:
        """Lets a frozen node go on; it finds out only then what it has missed."""
        if self.frozen and self.alive:
            self._process.resume()
        self.frozen = False

    def launch(self) -> None:
        """Starts it and returns at once: for those that must start together. Raises RuntimeError where it runs."""
        self._process.launch()

    def await_service(self) -> None:
        """Returns when the cluster has taken it in. Raises RuntimeError with its last words where it ends before."""
        self._process.await_service()

    def restart(self) -> None:
        """Kills it if it runs, starts it with the data it had, returns when it serves; it may still have to catch up.

        Raises RuntimeError with its last words where it doesn't serve.
        """
        self.kill()
        self._process.start()

    def view(self) -> wire.View:
        """The cluster as this node sees it. Raises wire.NoAnswer."""
        return wire.look(self.port)


def make_node(
    kafka: jars.Distribution,
    directory: Path,
    number: int,
    listening: Mapping[int, Mapping[str, int]],
    advertised: Mapping[str, int],
) -> Node:
    """A node that has not begun yet, in that directory, with the addresses of all nodes' listeners."""
    ports = listening[number]
    directory.mkdir()
    kafka.format(directory / "data", number)
    settings = server_settings(
        cluster=True,
        node=number,
        port=ports["DIRECT"],
        controller=ports["CONTROLLER"],
        data=directory / "data",
        voters=",".join(f"{node}@{HOST}:{of['CONTROLLER']}" for node, of in listening.items()),
        listeners=_addresses(ports),
        advertised=_addresses(advertised),
        protocols=",".join(f"{name}:PLAINTEXT" for name in ports),
    )
    properties = directory / "server.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    process = ProcessBroker(
        "apache",
        ports["DIRECT"],
        kafka.broker(properties, heap=_HEAP),
        directory=directory,
        ready=lambda port: _is_in(port, number),
    )
    return Node(number, process, directory / "output.log")


def _is_in(port: int, number: int) -> bool:
    """Whether the node sees itself in the cluster: not before the controller has taken it in (again)."""
    with contextlib.suppress(wire.NoAnswer):
        return number in wire.look(port).brokers
    return False


def _addresses(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items())
