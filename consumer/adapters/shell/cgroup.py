"""Control groups (version 2) for commands, where the agent may make them: as root, or in a delegated subtree.

A command and all that descends from it are in one, whatever they do: so all can be killed at once (cgroup.kill), what
they use together is known, and, where the controllers are there, bounded. In an ordinary pod none can be made.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

#: The controllers that bound what a step uses; without one of them rlimits do, for each process.
CONTROLLERS = frozenset({"memory", "pids"})
_PREFIX = "wpk-step-"
#: systemd marks by it what it leaves to somebody (systemd's CGROUP_DELEGATION).
_DELEGATED = ("user.delegate", "trusted.delegate")
#: Seconds that the kernel may take to be done with what was killed.
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What the processes of a command used: all of them in a control group, else those that were waited for."""

    cpu_seconds: float
    peak_memory_bytes: int | None
    """The most that they had in memory, in a control group that counts it; else that one of them had."""


@dataclass(slots=True)
class Group:
    """The group of one step. Every method may raise OSError."""

    directory: Path

    def add(self, pid: int) -> None:
        """Puts the process into it; what it starts from now on is in it too."""
        self._write("cgroup.procs", str(pid))

    def bound(self, *, memory: int | None, processes: int | None) -> None:
        """Bounds all of it together, in bytes (without swap) and in processes and threads."""
        if memory is not None:
            self._write("memory.max", str(memory))
            with contextlib.suppress(FileNotFoundError):  # a kernel that does not count swap
                self._write("memory.swap.max", "0")
            self._write("memory.oom.group", "1")
        if processes is not None:
            self._write("pids.max", str(processes))

    def kill(self) -> None:
        """SIGKILL to all that is in it."""
        self._write("cgroup.kill", "1")

    def used(self) -> Used:
        """What all that ever was in it used; None for a peak where memory is not counted."""
        fields = dict(line.split() for line in (self.directory / "cpu.stat").read_text().splitlines())
        peak = None
        with contextlib.suppress(FileNotFoundError):
            peak = int((self.directory / "memory.peak").read_text())
        return Used(cpu_seconds=int(fields["usage_usec"]) / 1e6, peak_memory_bytes=peak)

    async def close(self) -> None:
        """Kills what is in it and removes it, as soon as the kernel lets it be removed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        while True:
            try:
                self.directory.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                if loop.time() > deadline:
                    raise
            else:
                return
            self.kill()
            await asyncio.sleep(0.005)

    def _write(self, name: str, value: str) -> None:
        # Without O_CREAT: in a directory that is none of the kernel's nothing is to come of it.
        number = os.open(self.directory / name, os.O_WRONLY)
        try:
            os.write(number, value.encode())
        finally:
            os.close(number)


@dataclass(frozen=True, slots=True)
class Groups:
    """Where groups can be made, and what they bound."""

    directory: Path
    controllers: frozenset[str] = frozenset()

    def make(self) -> Group:
        """A new group. Raises OSError."""
        group = Group(self.directory / f"{_prefix()}{os.getpid()}-{uuid.uuid4().hex}")
        group.directory.mkdir()
        return group


def find() -> Groups | None:
    """Where groups can be made, tried by killing a process in one; None: nowhere. Blocks for a moment.

    Ends what agents that were killed have left in theirs.
    """
    for directory in _candidates():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            found = _tried(directory)
            clear(directory)
            return found
    return None


def _prefix() -> str:
    """How the groups' names begin: with the namespace of the agent's pids, so that no agent takes another for dead
    whose processes it can't see."""
    return f"{_PREFIX}{Path('/proc/self/ns/pid').stat().st_ino}-"


def clear(directory: Path) -> None:
    """Ends what agents that are dead have left in their groups."""
    for path in directory.glob(f"{_prefix()}*"):
        agent = path.name.removeprefix(_prefix()).partition("-")[0]
        if agent.isdigit() and not Path("/proc", agent).exists():
            with contextlib.suppress(OSError):  # in use until all in it are gone: the next start's matter
                Group(path).kill()
                path.rmdir()


def _candidates() -> list[Path]:
    """The agent's own group, and the one around it where systemd gave that away (DelegateSubgroup=)."""
    try:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except (OSError, StopIteration):
        return []
    for fields in mounts:
        # … root, mount point, options, optional fields, "-", file system …: proc(5)
        if fields[fields.index("-") + 1] == "cgroup2" and Path(own).is_relative_to(fields[3]):
            mount = Path(fields[4])
            mine = mount / own.removeprefix(fields[3]).lstrip("/")
            return [mine, *([mine.parent] if mine != mount and _delegated(mine.parent) else [])]
    return []


def _delegated(directory: Path) -> bool:
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


def _tried(directory: Path) -> Groups:
    """Groups in that directory. Raises OSError or SubprocessError where they can't be made and used."""
    # Refused where processes are in it beside the groups, and where it is not the agent's to decide.
    with contextlib.suppress(OSError):
        (directory / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(CONTROLLERS)))
    group = Groups(directory).make()
    try:
        with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            try:
                group.add(process.pid)
                group.kill()
                process.wait(timeout=_PATIENCE)
            finally:
                process.kill()
        found = (group.directory / "cgroup.controllers").read_text().split()
    finally:
        group.directory.rmdir()
    return Groups(directory, CONTROLLERS.intersection(found))
