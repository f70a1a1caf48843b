"""Apache Kafka in a container, where a Docker daemon answers."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from consumer.dev.broker import HOST, free_port
from tests.support.kafka.handle import KafkaBroker, server_settings
from tests.support.kafka.jars import KAFKA_VERSION
from tests.support.kafka.processes import START_TIMEOUT, begins_transactions

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

IMAGE = f"apache/kafka:{KAFKA_VERSION}"
_PORT = 9092


class ContainerBroker(KafkaBroker):
    """A broker in a container of its own; Docker has the same verbs as processes do."""

    def __init__(self, container: DockerContainer, port: int) -> None:
        super().__init__("apache", f"{HOST}:{port}")
        self._container = container.get_wrapped_container()

    @property
    def alive(self) -> bool:
        self._container.reload()
        return self._container.status in {"running", "paused"}

    def kill(self) -> None:
        if self.alive:
            self._container.kill()
            self._container.wait()

    def pause(self) -> None:
        self._container.pause()

    def resume(self) -> None:
        self._container.unpause()

    def restart(self) -> None:
        self.kill()
        self._container.start()
        self.await_service()

    def await_service(self) -> None:
        """Returns when it serves. Raises RuntimeError with its last words where it doesn't."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self.alive:
            if begins_transactions(self.bootstrap):
                return
        raise RuntimeError(f"{IMAGE} does not serve:\n{self._container.logs(tail=30).decode(errors='replace')}")


def docker_answers() -> bool:
    """Whether there is a Docker daemon; where nothing hints at one, without importing its client."""
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").exists():
        return False
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415 - only where it is likely to be of use
    import docker.errors  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        client = docker.from_env(timeout=5)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False
    finally:
        client.close()


@contextlib.contextmanager
def apache_container() -> Iterator[ContainerBroker]:
    """An Apache Kafka of its own. Its port must be known before it starts, for it advertises it to its clients."""
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - needs a daemon at import

    port = free_port()
    container = DockerContainer(IMAGE)
    container.ports[str(_PORT)] = (HOST, port)  # type: ignore[assignment] # docker's own form, for loopback only
    for name, value in _environment(port).items():
        container = container.with_env(name, value)
    with container:
        broker = ContainerBroker(container, port)
        broker.await_service()
        yield broker


def _environment(port: int) -> dict[str, str]:
    settings = server_settings(port=port, controller=9093, data="/tmp/kraft-logs")
    settings["listeners"] = f"PLAINTEXT://0.0.0.0:{_PORT},CONTROLLER://127.0.0.1:9093"
    return {f"KAFKA_{name.replace('.', '_').upper()}": value for name, value in settings.items()}
