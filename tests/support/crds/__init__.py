"""The definitions (CRDs) of other projects' custom resources, for the tests' API server.

controller-gen makes them of the Go types, as those projects do, once for a machine: `python -m tests.support.crds`.
Strimzi's types are Java, and what makes definitions of them is not published.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support import cache

_TYPES = Path(__file__).parent / "types"
_PACKAGES = (
    "github.com/kedacore/keda/v2/apis/keda/v1alpha1",
    "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1",
)
#: Of each package's kinds, those that deploy/ has.
_WANTED = (
    "keda.sh_scaledobjects",
    "keda.sh_triggerauthentications",
    "monitoring.coreos.com_prometheusrules",
    "monitoring.coreos.com_servicemonitors",
)
_TIMEOUT = 600.0


def is_made() -> bool:
    """Whether `files` has nothing left to do. Raises cache.Unavailable."""
    return _home().is_dir()


def files() -> list[Path]:
    """The definitions, made first if they must be: half a minute, once. Raises cache.Unavailable."""
    if not is_made():
        with (cache.directory() / "crds.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_made():
                _make(_home())
    return sorted(_home().glob("*.yaml"))


def _make(wanted: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise cache.Unavailable("there is no Go to make the definitions with")
    with tempfile.TemporaryDirectory(prefix=".crds-", dir=wanted.parent) as scratch:
        every, chosen = Path(scratch) / "every", Path(scratch) / "chosen"
        paths = [f"paths={package}" for package in _PACKAGES]
        try:
            done = subprocess.run(
                [go, "tool", "controller-gen", "crd", *paths, f"output:dir={every}"],
                cwd=_TYPES,
                env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise cache.Unavailable(f"making the definitions took longer than {_TIMEOUT:g} s") from None
        if done.returncode != 0:
            raise cache.Unavailable(f"making the definitions failed: {(done.stdout + done.stderr)[-1_000:].strip()}")
        chosen.mkdir()
        for name in _WANTED:
            (every / f"{name}.yaml").rename(chosen / f"{name}.yaml")
        chosen.rename(wanted)


def _home() -> Path:
    """Where they are: the name changes with whatever goes into them."""
    taken = hashlib.sha256("\0".join([*_PACKAGES, *_WANTED]).encode())
    for name in ("go.mod", "go.sum", "main.go"):
        taken.update((_TYPES / name).read_bytes())
    return cache.directory() / f"crds-{taken.hexdigest()[:8]}"
