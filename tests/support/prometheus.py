"""A real Prometheus and its promtool: the machine's own, or Debian's package unpacked into the tests' cache.

Nothing is installed, and no service begins: of the package only its two programs are taken, which need nothing but the
C library. `python -m tests.support.prometheus` fetches it ahead of the tests.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import cache
from tests.support.cache import Unavailable
from tests.support.daemon import Daemon

_PACKAGE = "prometheus"
_PROGRAMS = ("prometheus", "promtool")
_FETCH_TIMEOUT = 300.0
_START_TIMEOUT = 60.0


def programs() -> Path:
    """The directory that has both programs; fetched where it must be. Raises Unavailable."""
    found = [shutil.which(name) for name in _PROGRAMS]
    if found[0] and found[1] and Path(found[0]).parent == Path(found[1]).parent:
        return Path(found[0]).parent
    home = cache.directory() / "prometheus-debian"
    if not home.is_dir():
        with (cache.directory() / "prometheus.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # who waited for it finds it done
            if not home.is_dir():
                _fetch(home)
    return home


def _fetch(home: Path) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Unavailable("there are no prometheus and promtool on the PATH, and no apt-get to fetch Debian's")
    with tempfile.TemporaryDirectory(dir=home.parent) as directory:
        work = Path(directory)
        if not _download(work) and os.getuid() == 0:  # a new machine has no lists of packages yet
            _run(["apt-get", "update"], work)
            _download(work)
        archives = list(work.glob("*.deb"))
        if not archives:
            raise Unavailable("apt-get gives no package prometheus: put prometheus and promtool on the PATH")
        _run(["dpkg-deb", "-x", str(archives[0]), str(work / "all")], work)
        made = work / "made"
        made.mkdir()
        for name in _PROGRAMS:
            (work / "all/usr/bin" / name).rename(made / name)
        made.rename(home)


def _download(work: Path) -> bool:
    return _run(["apt-get", "download", _PACKAGE], work) == 0


def _run(command: list[str], work: Path) -> int:
    try:
        return subprocess.run(command, cwd=work, capture_output=True, timeout=_FETCH_TIMEOUT, check=False).returncode
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(command)} took longer than {_FETCH_TIMEOUT:g} s") from error


def promtool(*arguments: str) -> tuple[int, str]:
    """Its exit code, and all that it said."""
    command = [str(programs() / "promtool"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server that scrapes."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """What its API answers, without the envelope."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=20) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query; a scalar is one without labels. Raises HTTPError where it is none."""
        data = self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        return list(data["result"])


@contextlib.contextmanager
def serve(config: dict[str, Any]) -> Iterator[Prometheus]:
    """A Prometheus of that configuration while the block lasts. Raises Unavailable."""
    program = programs() / "prometheus"
    with tempfile.TemporaryDirectory(prefix="wpk-prometheus-") as directory:
        home, port = Path(directory), _free_port()
        (home / "prometheus.yml").write_text(json.dumps(config))  # YAML is a superset
        arguments = [
            str(program),
            f"--config.file={home}/prometheus.yml",
            f"--storage.tsdb.path={home}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]
        daemon = Daemon("prometheus", arguments, directory=home)
        daemon.start()
        try:
            url = f"http://127.0.0.1:{port}"
            daemon.await_service(lambda: _ready(url), _START_TIMEOUT)
            yield Prometheus(url)
        finally:
            daemon.stop()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    try:
        programs()
    except Unavailable as reason:
        sys.stderr.write(f"no Prometheus for the tests: {reason}\n")
