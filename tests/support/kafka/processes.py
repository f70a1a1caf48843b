"""Brokers as processes of this machine: started, killed, paused and brought back by a test, gone when the tests are."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import confluent_kafka

from consumer.dev import broker as embedded
from tests.support.kafka import jars
from tests.support.kafka.handle import KafkaBroker, Kind, server_settings

START_TIMEOUT = 90.0
_STOP_TIMEOUT = 20.0

# A process that is tied to its owner dies with the *thread* that started it, and a test may restart a broker from a
# thread that soon ends: this thread starts all of them, and ends with the interpreter.
starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="broker-starter")


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
        self._arguments = embedded.tied_to_owner(arguments)
        self._directory = directory
        self._ready = ready
        self._environment = environment
        self._log = directory / "output.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def _exit_code(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    @property
    def pid(self) -> int:
        """The broker's own process."""
        assert self._process is not None, "the broker was never started"
        return self._process.pid

    @property
    def output(self) -> str:
        """The end of what the broker wrote."""
        return self._log.read_text(errors="replace")[-3_000:] if self._log.exists() else ""

    def start(self) -> None:
        """Starts it and returns when it serves. Raises RuntimeError with its last words where it doesn't."""
        self.launch()
        self.await_service()

    def launch(self) -> None:
        """Starts it and returns at once. Raises RuntimeError where it runs."""
        if self.alive:
            raise RuntimeError(f"the {self.kind} broker on port {self.port} runs already")
        self._process = starter.submit(self._spawn).result()

    def await_service(self) -> None:
        """Returns when it serves. Kills it and raises RuntimeError with its last words where it doesn't."""
        deadline = time.monotonic() + START_TIMEOUT
        while self.alive and time.monotonic() < deadline:
            if self._ready(self.port) and self.alive:
                return
            time.sleep(0.02)
        ended = f"ended with {self._exit_code}" if not self.alive else f"did not serve within {START_TIMEOUT:g} s"
        self.kill()
        raise RuntimeError(f"the {self.kind} broker on port {self.port} {ended}; its last words:\n{self.output}")

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # macOS has none before Python 3.13
            # A thread that runs on another core stops only when it enters the kernel; this returns when all have.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        """Ends it in order, as an operator would."""
        self._end(signal.SIGTERM)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,
            )

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the broker was never started"
        if not self.alive:  # its id may be another process's by now
            raise RuntimeError(f"the {self.kind} broker on port {self.port} does not run")
        self._process.send_signal(number)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


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
