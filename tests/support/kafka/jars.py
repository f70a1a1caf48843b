"""Apache Kafka from Maven Central, made ready once for a machine and kept outside of the tree.

Ready means: the jars, and a formatted log directory, so that no start needs a second JVM to format one. They are made
in a directory of their own and renamed into place, so any number of test runs may begin at once; the first to end
wins. An archive of the loaded classes (JEP 350) comes beside them once a broker has run: it halves the time to start.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.support import cache

#: The Apache Kafka that the tests run against, in a container and as jars.
KAFKA_VERSION = "4.3.0"
JAVA_NEEDED = 17

_HERE = Path(__file__).parent
_POM = _HERE / "pom.xml"
_CLUSTER = "MkU3OEVBNTcwNTJENDM2Qk"
_DOWNLOAD_TIMEOUT = 300.0
_DOWNLOAD_TRIES = 3


#: This machine can't run a broker from jars.
Unavailable = cache.Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A Kafka that is ready to start."""

    home: Path

    @property
    def formatted(self) -> Path:
        """A log directory of a broker that has not begun yet, to be copied."""
        return self.home / "formatted"

    @property
    def archive(self) -> Path:
        """The archive of loaded classes; there may be none. It holds for these very jars and this very Java."""
        return self.home / "classes.jsa"

    def format(self, data: Path, node: int = 1) -> None:
        """Makes the log directory of a node that has not begun yet.

        As `StorageTool` would: what it writes differs from node to node in two ids alone, of the node and of the
        directory (a random one, in Kafka's way to write a UUID).
        """
        shutil.copytree(self.formatted, data)
        identity = data / "meta.properties"
        directory = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        identity.write_text(
            re.sub(
                r"^directory\.id=.*$",
                f"directory.id={directory}",
                re.sub(r"^node\.id=.*$", f"node.id={node}", identity.read_text(), flags=re.MULTILINE),
                flags=re.MULTILINE,
            )
        )

    def java(self, *options: str, heap: str = "384m") -> list[str]:
        """A JVM with the broker's class path: small, and quick to start rather than quick in the long run."""
        jars = ":".join(str(jar) for jar in sorted((self.home / "jars").glob("*.jar")))
        return [
            _java(),
            *(f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xlog:disable", "-Xlog:all=error:stderr"),
            f"-Dlog4j2.configurationFile={_HERE / 'log4j2.properties'}",
            *options,
            *("-cp", jars),
        ]

    def broker(self, properties: Path, *more: str, archive_to: Path | None = None, heap: str = "384m") -> list[str]:
        """The command line of a broker; with `archive_to`, one that writes the class archive when it ends in order.

        `more` are options of its JVM.
        """
        options = [f"-XX:SharedArchiveFile={self.archive}"] if self.archive.exists() else []
        if archive_to is not None:
            options = [f"-XX:ArchiveClassesAtExit={archive_to}"]
        return [*self.java(*options, *more, heap=heap), "kafka.Kafka", str(properties)]


def is_installed() -> bool:
    """Whether `distribution` has nothing left to fetch. Raises Unavailable."""
    return (_home() / "formatted").is_dir()


def distribution() -> Distribution:
    """The Kafka of this machine's cache, put there first if it must be. Raises Unavailable."""
    if not is_installed():
        _install(_home())
    return Distribution(home=_home())


def _home() -> Path:
    return cache.directory() / f"kafka-{KAFKA_VERSION}-java{_java_version()}"


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not os.access(java, os.X_OK):
        raise Unavailable(f"there is no Java (a broker needs {JAVA_NEEDED}): install a JRE, or Docker")
    return java


@functools.cache
def _java_version() -> str:
    said = subprocess.run([_java(), "-version"], capture_output=True, text=True, check=False, timeout=60).stderr
    found = re.search(r'version "(\d+)([^"]*)"', said)
    if found is None or int(found[1]) < JAVA_NEEDED:
        raise Unavailable(f"Java {found[1] if found else 'of an unknown version'} is too old: {JAVA_NEEDED} is needed")
    return re.sub(r"[^0-9.]", "", found[1] + found[2])


def _install(wanted: Path) -> None:
    if shutil.which("mvn") is None:
        raise Unavailable("there is no Maven (mvn) to fetch Kafka's jars with: install it, or Docker")
    with tempfile.TemporaryDirectory(prefix=".kafka-", dir=wanted.parent) as scratch:
        made = Path(scratch) / "made"
        _download(made / "jars", Path(scratch))
        _format(Distribution(home=made), Path(scratch))
        # Another run may have been quicker: then its directory is as good as ours.
        with contextlib.suppress(OSError):
            made.rename(wanted)
    if not (wanted / "formatted").is_dir():
        raise Unavailable(f"{wanted} can't be written")


def _download(jars: Path, scratch: Path) -> None:
    pom = scratch / "pom.xml"
    shutil.copyfile(_POM, pom)
    goal = [f"-Dkafka.version={KAFKA_VERSION}", "dependency:copy-dependencies", "-DincludeScope=runtime"]
    fetch = ["mvn", "-q", "-B", "-f", str(pom), *goal, f"-DoutputDirectory={jars}"]
    for _ in range(_DOWNLOAD_TRIES - 1):
        with contextlib.suppress(Unavailable):  # a network that was shaky for a moment must not cost the whole run
            return _run(fetch, "fetching Kafka's jars")
    return _run(fetch, "fetching Kafka's jars")


def _format(kafka: Distribution, scratch: Path) -> None:
    properties = scratch / "format.properties"
    properties.write_text(
        "process.roles=broker,controller\n"
        "node.id=1\n"
        "controller.listener.names=CONTROLLER\n"
        "listeners=PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2\n"
        "controller.quorum.voters=1@127.0.0.1:2\n"
        f"log.dirs={kafka.formatted}\n"
    )
    tool = [*kafka.java(), "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(properties)]
    _run(tool, "formatting Kafka's log directory")


def _run(arguments: list[str], doing: str) -> None:
    try:
        done = subprocess.run(
            arguments, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_TIMEOUT, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{doing} took longer than {_DOWNLOAD_TIMEOUT:g} s") from None
    if done.returncode != 0:
        raise Unavailable(f"{doing} failed: {(done.stdout + done.stderr)[-600:].strip()}")
