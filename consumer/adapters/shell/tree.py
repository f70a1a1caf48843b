"""Finding and signalling the processes of one command, through /proc.

In a sandbox they are the descendants of its init. Without one nothing ties them together but descent, the session and
a token in their environment, so a process that leaves all three escapes: that is why the sandbox is the default.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
#: Programs that die of SIGTERM at once, though what they started may still want to clean up.
_SHELLS = frozenset({"sh", "dash", "bash", "ash", "ksh", "mksh", "zsh", "busybox"})


@dataclass(frozen=True, slots=True)
class _Stat:
    name: str
    state: str
    parent: int
    session: int


def _stat(pid: int) -> _Stat | None:
    """What the kernel says of the process; None if it is gone."""
    try:
        raw = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name stands in parentheses and may itself hold any character, parentheses too.
    start, end = raw.index(b"("), raw.rindex(b")")
    fields = raw[end + 2 :].split()
    return _Stat(
        name=raw[start + 1 : end].decode("utf-8", "replace"),
        state=fields[0].decode("ascii"),
        parent=int(fields[1]),
        session=int(fields[3]),
    )


def is_shell(pid: int) -> bool:
    """Whether the process is a shell, as far as its name tells."""
    stat = _stat(pid)
    return stat is not None and stat.name in _SHELLS


def sleeps(pid: int) -> bool:
    """Whether the process waits for something."""
    stat = _stat(pid)
    return stat is not None and stat.state == "S"


def stopped(pid: int) -> bool:
    """Whether the process stands still (SIGSTOP), or is gone."""
    stat = _stat(pid)
    return stat is None or stat.state in "TZX"


def command_line(pid: int) -> list[str]:
    """What the process was started as; nothing if it is gone."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def children(pid: int) -> list[int]:
    """The process's children, oldest first."""
    try:
        return [int(child) for child in (_PROC / str(pid) / "task" / str(pid) / "children").read_bytes().split()]
    except OSError:
        return []


def descendants(root: int, *, session: int | None = None, token: bytes | None = None) -> list[int]:
    """The live processes below `root`, those of the session, and those with the token in their environment.

    `root` itself is not among them.
    """
    pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    found: set[int] = set()
    below: defaultdict[int, list[int]] = defaultdict(list)
    alive: set[int] = set()
    for pid in pids:
        if (stat := _stat(pid)) is None:
            continue
        below[stat.parent].append(pid)
        if stat.state not in "ZX":
            alive.add(pid)
            if stat.session == session or (token is not None and _holds(pid, token)):
                found.add(pid)
    queue = [root, *found]
    seen: set[int] = set()
    while queue:
        pid = queue.pop()
        if pid not in seen:
            seen.add(pid)
            queue.extend(below[pid])
    return sorted((seen & alive) - {root})


def _holds(pid: int, token: bytes) -> bool:
    try:
        return token in (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False


def send(pid: int, number: signal.Signals) -> None:
    """Signals the process, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
