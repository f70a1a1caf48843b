"""Brokers as processes of this machine: started, killed, paused and brought back by a test, gone when the tests are."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import confluent_kafka

from consumer.dev import broker as embedded
from tests.support.daemon import Daemon
from tests.support.kafka import jars
from tests.support.kafka.handle import KafkaBroker, Kind, server_settings

START_TIMEOUT = 90.0


class ProcessBroker(KafkaBroker):
    """A broker that is one process."""

    def __init__(
        self,
        kind: Kind,
        port: int,
        arguments: Sequence[str],
        *,
        directory: Path,
        ready: Callable[[int], bool],
        environment: dict[str, str] | None = None,
    ) -> None:
        super().__init__(kind, f"{embedded.HOST}:{port}")
        self.port = port
        self._ready = ready
        self._daemon = Daemon(
            f"the {kind} broker on port {port}",
            arguments,
            directory=directory,
            environment=environment,
            log=directory / "output.log",
        )

    @property
    def alive(self) -> bool:
        return self._daemon.alive

    @property
    def pid(self) -> int:
        """The broker's own process."""
        return self._daemon.pid

    @property
    def output(self) -> str:
        """The end of what the broker wrote."""
        return self._daemon.output

    def start(self) -> None:
        """Starts it and returns when it serves. Raises RuntimeError with its last words where it doesn't."""
        self.launch()
        self.await_service()

    def launch(self) -> None:
        """Starts it and returns at once. Raises RuntimeError where it runs."""
        self._daemon.start()

    def await_service(self) -> None:
        """Returns when it serves. Kills it and raises RuntimeError with its last words where it doesn't."""
        try:
            self._daemon.await_service(lambda: self._ready(self.port), START_TIMEOUT)
        except RuntimeError:
            self.kill()
            raise

    def kill(self) -> None:
        self._daemon.kill()

    def pause(self) -> None:
        self._daemon.pause()

    def resume(self) -> None:
        self._daemon.resume()

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        """Ends it in order, as an operator would."""
        self._daemon.stop()


@contextlib.contextmanager
def embedded_broker() -> Iterator[ProcessBroker]:
    """A Tansu of its own, empty after each restart. Raises SettingsError where the extra is not installed."""
    with _directory() as directory:
        port = embedded.free_port()
        broker = ProcessBroker(
            "embedded",
            port,
            embedded.command(port),
            directory=directory,
            ready=_answers,
            environment=embedded.ENVIRONMENT,
        )
        with _started(broker):
            yield broker


def install() -> jars.Distribution:
    """Apache Kafka, made ready to start; at once where it is. Raises jars.Unavailable."""
    kafka = jars.distribution()
    if not kafka.archive.exists():
        _archive_classes(kafka)
    return kafka


@contextlib.contextmanager
def apache_broker() -> Iterator[ProcessBroker]:
    """An Apache Kafka of its own, from jars; it keeps its data over a restart. Raises jars.Unavailable."""
    kafka = install()
    with _directory() as directory, _started(_apache(kafka, directory)) as broker:
        yield broker


def _apache(kafka: jars.Distribution, directory: Path, *, archive_to: Path | None = None) -> ProcessBroker:
    port, controller = embedded.free_port(), embedded.free_port()
    data = directory / "data"
    kafka.format(data)
    properties = directory / "server.properties"
    settings = server_settings(port=port, controller=controller, data=str(data))
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    arguments = kafka.broker(properties, archive_to=archive_to)
    return ProcessBroker("apache", port, arguments, directory=directory, ready=_begins_transactions)


def _archive_classes(kafka: jars.Distribution) -> None:
    """Runs a broker once to learn which classes it loads. Without the archive all works too, only slower."""
    with _directory() as directory, contextlib.suppress(OSError, RuntimeError):
        made = directory / kafka.archive.name
        broker = _apache(kafka, directory, archive_to=made)
        try:
            broker.start()
            broker.stop()
        finally:
            broker.kill()
        beside = kafka.archive.with_suffix(f".{os.getpid()}")
        shutil.copyfile(made, beside)
        beside.replace(kafka.archive)


@contextlib.contextmanager
def _started(broker: ProcessBroker) -> Iterator[ProcessBroker]:
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wpk-broker-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _listens(port: int) -> bool:
    try:
        socket.create_connection((embedded.HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((embedded.HOST, port), timeout=1) as connection:
            connection.sendall(embedded.api_versions_request())
            return len(connection.recv(10)) == 10
    except OSError:
        return False


def _begins_transactions(port: int) -> bool:
    """Whether it gives out a producer id: only then do metadata, the log and the transaction coordinator all work."""
    return _listens(port) and begins_transactions(f"{embedded.HOST}:{port}")


def begins_transactions(bootstrap: str) -> bool:
    """Whether the broker there gives out a producer id for a transactional producer; asks for a few seconds."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": bootstrap, "transactional.id": "wpk-readiness", "retry.backoff.ms": 20},
        logger=logging.getLogger("tests.kafka.readiness"),
    )
    try:
        producer.init_transactions(10)
    except confluent_kafka.KafkaException:
        return False
    return True
