"""The launch in bubblewrap: namespaces of its own, a root of its own, and a filter of system calls."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from consumer.adapters.shell import launching, seccomp, spawn
from consumer.adapters.shell.launching import Spec

WORKSPACE = "/workspace"

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes that the command may fill in its directories in memory."""

    workspace: int = 256 * _MIB
    tmp: int = 64 * _MIB


def launch(spec: Spec, sizes: Sizes) -> spawn.Launch:
    """How to start the command. Raises PermanentError where the launcher's programs are missing."""
    program = seccomp.program(isolated=True, network=spec.network)
    argv = (
        *launching.drop_root(),
        launching.installed("bwrap", "bubblewrap"),
        "--json-status-fd",
        "{status}",
        *(() if program is None else ("--seccomp", "{filter}")),
        "--args",
        "{args}",
        "--",
        *launching.gated(spec, launching.DEFAULT_PROCESSES if _counts_processes_inside() else None),
    )
    return spawn.Launch(
        argv=argv,
        env=launching.LAUNCHER_ENV,
        cwd="/",
        arguments="".join(f"{item}\0" for item in _options(spec, sizes)).encode(),
        filter=program,
        stdin=spec.stdin,
        owner=launching.owner(),
    )


def _counts_processes_inside() -> bool:
    """Whether a sandbox's processes are counted by themselves (Linux 5.14); before, all of the uid's count."""
    major, minor = re.match(r"(\d+)\.(\d+)", os.uname().release).groups()  # type: ignore[union-attr]
    return (int(major), int(minor)) >= (5, 14)


def _options(spec: Spec, sizes: Sizes) -> list[str]:
    """The sandbox as bwrap's options, in the order in which it mounts."""
    options = ["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    options += ["--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"]
    if spec.network:
        options.append("--share-net")
    for name in launching.SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    options += ["--perms", "0755", "--dir", "/etc"]
    for name in launching.ETC + (launching.ETC_NETWORK if spec.network else ()):
        options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    options += ["--proc", "/proc", "--dev", "/dev"]
    for path_in, size in (("/dev/shm", sizes.tmp), ("/tmp", sizes.tmp), (WORKSPACE, sizes.workspace)):  # noqa: S108
        options += ["--perms", "1777", "--size", str(size), "--tmpfs", path_in]
    options += ["--perms", "0755", "--dir", "/var", "--symlink", "/tmp", "/var/tmp"]  # noqa: S108
    options += ["--remount-ro", "/dev", "--remount-ro", "/"]
    options += ["--chdir", str(Path(WORKSPACE, spec.cwd)), "--clearenv"]
    for name, value in spec.env.items():
        options += ["--setenv", name, value]
    return options
