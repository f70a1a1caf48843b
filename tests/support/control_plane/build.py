"""Kubernetes' control plane from Go modules, built once for a machine and kept outside of the tree.

The build takes many minutes of two cores, so it is never a part of a test: `python -m tests.support.control_plane`
makes it ahead. It is made beside its place and renamed into it, and a lock keeps two runs from building at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support import cache

_SOURCE = Path(__file__).parent / "server"
_VERSION_PACKAGE = "k8s.io/component-base/version"
_BUILD_TIMEOUT = 3_600.0
_DOWNLOAD_TIMEOUT = 900.0
_DOWNLOAD_TRIES = 3
#: No debugging information: it would be a third of the build, and nobody debugs Kubernetes here.
_FLAGS = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")


#: This machine has no control plane.
Unavailable = cache.Unavailable


def kubernetes_version() -> str:
    """The Kubernetes that the tests run against, such as "1.30.0": go.mod says it, and only go.mod."""
    found = re.search(r"^\s*(?:require )?k8s\.io/kubernetes v(\S+)$", (_SOURCE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None, "go.mod names no k8s.io/kubernetes"
    return found[1]


def is_built() -> bool:
    """Whether `build` has nothing left to do. Raises Unavailable."""
    return _binary().exists()


def binary() -> Path:
    """The control plane of this machine's cache. Raises Unavailable where it was not built."""
    if not is_built():
        raise Unavailable("it is not built yet: run `python -m tests.support.control_plane` (or make test)")
    return _binary()


def build() -> Path:
    """Builds the control plane unless it is there, and waits where another run is building it. Raises Unavailable."""
    if is_built():
        return _binary()
    go = shutil.which("go")
    if go is None:
        raise Unavailable("there is no Go to build it with: install Go, or name a cluster by KUBECONFIG_TEST")
    with _alone():
        if not is_built():
            _make(go, _binary())
    return _binary()


def _make(go: str, wanted: Path) -> None:
    for _ in range(_DOWNLOAD_TRIES - 1):
        with contextlib.suppress(Unavailable):  # a network that was shaky for a moment must not cost the whole run
            _run([go, "mod", "download"], "fetching Kubernetes' modules", timeout=_DOWNLOAD_TIMEOUT)
            break
    with tempfile.TemporaryDirectory(prefix=".control-plane-", dir=wanted.parent) as scratch:
        made = Path(scratch) / "control-plane"
        _run([go, "build", *_FLAGS, f"-ldflags={_linking()}", "-o", str(made), "."], "building Kubernetes")
        made.rename(wanted)


def _linking() -> str:
    major, minor, _ = kubernetes_version().split(".", 2)
    said = {"gitVersion": f"v{kubernetes_version()}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(["-s -w", *(f"-X {_VERSION_PACKAGE}.{name}={value}" for name, value in said.items())])


def _run(arguments: list[str], doing: str, timeout: float = _BUILD_TIMEOUT) -> None:
    # Without cgo it needs no C compiler. At the lowest priority: what else runs here may look at the clock.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": os.environ.get("GOFLAGS", "")}
    nice = [found, "-n", "19"] if (found := shutil.which("nice")) else []
    try:
        done = subprocess.run(
            [*nice, *arguments],
            cwd=_SOURCE,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{doing} took longer than {timeout:g} s") from None
    if done.returncode != 0:
        raise Unavailable(f"{doing} failed: {(done.stdout + done.stderr)[-1_000:].strip()}")


def _binary() -> Path:
    """Where it is: the name changes with whatever goes into it."""
    taken = hashlib.sha256("\0".join([*_FLAGS, sys.platform]).encode())
    for name in ("go.mod", "go.sum", "main.go"):
        taken.update((_SOURCE / name).read_bytes())
    return cache.directory() / f"control-plane-{kubernetes_version()}-{taken.hexdigest()[:8]}"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    with (cache.directory() / "control-plane.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
