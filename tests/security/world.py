"""What a shell step must not get at: files, sockets and a process of its own user, made for one test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from consumer.adapters.shell import launching
from tests.support.shell_steps import processes_with

_VICTIM = """
import ctypes, os, signal, sys
memory = ctypes.create_string_buffer(os.environ["CANARY"].encode())
print(ctypes.addressof(memory), flush=True)
signal.pause()
"""


@dataclass
class World:
    """The surroundings of one step."""

    python: str
    """A Python that commands see too."""
    canary: str = field(default_factory=lambda: uuid.uuid4().hex * 2)
    mark: str = field(default_factory=lambda: f"86400.{uuid.uuid4().int % 10**12:012d}")
    outside: Path = field(init=False)
    other: Path = field(init=False)
    victim: subprocess.Popen[str] | None = None
    address: int = 0
    tcp: socket.socket = field(init=False)
    udp: socket.socket = field(init=False)

    def environment(self) -> dict[str, str]:
        """How the step is told where all of it is. The canary goes in halves: the step's own variables hold it not."""
        return {
            "OUTSIDE": str(self.outside),
            "OTHER": str(self.other),
            "VICTIM": str(self.victim.pid if self.victim else 0),
            "PORT": str(self.tcp.getsockname()[1]),
            "ADDRESS": str(self.address),
            "CANARY_HALF": self.canary[: len(self.canary) // 2],
            "MARK": self.mark,
            "KEY": str(self._key),
        }

    def alive(self) -> bool:
        """Whether the process of the same user is still there, or none was needed."""
        return self.victim is None or self.victim.poll() is None

    def slowed(self) -> bool:
        """Whether that process has a lower priority than the one that started it."""
        assert self.victim is not None
        return os.getpriority(os.PRIO_PROCESS, self.victim.pid) > os.getpriority(os.PRIO_PROCESS, 0)

    def untouched(self) -> bool:
        """Whether all files are as they were."""
        files = {path.relative_to(self.outside).as_posix() for path in self.outside.rglob("*")}
        return (
            files == {"token", "file", "home", "home/.kube", "home/.kube/config", "socket", "datagrams"}
            and (self.outside / "file").read_text() == "ours"
            and (self.other / "x").read_text() == self.canary
        )

    def heard_datagram(self) -> bool:
        """Whether a datagram came."""
        with contextlib.suppress(BlockingIOError):
            return bool(self.udp.recv(100))
        return False

    def has_survivors(self) -> bool:
        """Whether a process of the step is still there."""
        return bool(processes_with(self.mark))

    def took_shared_memory(self) -> bool:
        """Whether there is a System V segment of the step's; removes it."""
        rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
        found = [row[1] for row in rows if int(row[0]) == self._key]
        for each in found:
            subprocess.run(["ipcrm", "-m", each], check=True)
        return bool(found)

    @property
    def _key(self) -> int:
        """A number that no other world has."""
        return int(self.canary[:7], 16) | 1

    def _fill(self) -> None:
        token, config = self.outside / "token", self.outside / "home" / ".kube" / "config"
        config.parent.mkdir(parents=True)
        for path, text in ((token, self.canary), (config, self.canary), (self.outside / "file", "ours")):
            path.write_text(text)
        (self.other / "x").write_text(self.canary)
        for root in (self.outside, self.other):
            for path in (root, *root.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)

    def _own(self) -> None:
        """Gives all of it to the command's user."""
        if (owner := launching.owner()) is not None:
            for root in (self.outside, self.other):
                for path in (root, *root.rglob("*")):
                    os.chown(path, owner, owner)


@contextlib.contextmanager
def world(python: str, *, peopled: bool) -> Iterator[World]:
    """A world for one test, with another process of the user or without; nothing of it is left."""
    made = World(python)
    with contextlib.ExitStack() as stack:
        made.outside = Path(tempfile.mkdtemp(prefix="wpk-outside-"))
        made.other = Path(tempfile.mkdtemp(prefix="wpk-step-"))
        for each in (made.outside, made.other):
            stack.callback(shutil.rmtree, each, ignore_errors=True)
        made._fill()
        for kind, address in (
            (socket.SOCK_STREAM, str(made.outside / "socket")),
            (socket.SOCK_STREAM, "\0" + made.canary[:16]),
            (socket.SOCK_DGRAM, str(made.outside / "datagrams")),
        ):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            listener.bind(address)
            if kind is socket.SOCK_STREAM:
                listener.listen()
        made._own()
        made.tcp = stack.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
        made.udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.udp.bind(("127.0.0.1", made.tcp.getsockname()[1]))
        made.udp.setblocking(False)
        if peopled:
            stack.enter_context(_victim(made))
        yield made
        for pid in processes_with(made.mark):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _victim(made: World) -> Iterator[None]:
    owner = launching.owner()
    with subprocess.Popen(
        [made.python, "-I", "-S", "-c", _VICTIM, made.canary],
        env={"CANARY": made.canary},
        stdout=subprocess.PIPE,
        text=True,
        user=owner,
        group=owner,
        extra_groups=None if owner is None else [],
    ) as victim:
        try:
            assert victim.stdout is not None
            made.victim, made.address = victim, int(victim.stdout.readline())
            yield
        finally:
            victim.kill()
