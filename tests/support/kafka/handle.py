"""What a test may do to a broker, wherever it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

Kind = Literal["embedded", "apache"]

_HERE = Path(__file__).parent


def server_settings(*, cluster: bool = False, **places: object) -> dict[str, str]:
    """The settings of the tests' Apache Kafka, the same in a container and as a process of its own.

    With `cluster`, those of a node among several.
    """
    files = ["server.properties", "cluster.properties"] if cluster else ["server.properties"]
    lines = [line for file in files for line in (_HERE / file).read_text().splitlines()]
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: value.format(**places) for name, value in values.items()}


class KafkaBroker:
    """A broker and the faults that a test may give it. The calls block: from a coroutine, by `asyncio.to_thread`."""

    def __init__(self, kind: Kind, bootstrap: str) -> None:
        self.kind: Kind = kind
        self.bootstrap = bootstrap

    def __repr__(self) -> str:
        return f"<{self.kind} broker at {self.bootstrap}>"

    @property
    def alive(self) -> bool:
        """Whether it runs (also while paused)."""
        raise NotImplementedError

    def kill(self) -> None:
        """Ends it as a power cut would."""
        raise NotImplementedError

    def pause(self) -> None:
        """Lets it hang: its connections stay open, nothing answers."""
        raise NotImplementedError

    def resume(self) -> None:
        """Lets a paused broker go on."""
        raise NotImplementedError

    def restart(self) -> None:
        """Kills it if it runs, starts it on the same port with the data it had (the embedded one: none)."""
        raise NotImplementedError


class ExternalBroker(KafkaBroker):
    """The broker that KAFKA_BOOTSTRAP names: ours to use, not to break."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__("apache", bootstrap)

    @property
    def alive(self) -> bool:
        return True

    def kill(self) -> None:
        self._refuse()

    def pause(self) -> None:
        self._refuse()

    def resume(self) -> None:
        self._refuse()

    def restart(self) -> None:
        self._refuse()

    def _refuse(self) -> None:
        pytest.skip(f"the broker at {self.bootstrap} comes from KAFKA_BOOTSTRAP; it is not the test's to break")
