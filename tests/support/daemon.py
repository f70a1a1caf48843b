"""A server process of a test: started, killed, paused and brought back, and gone when the tests are."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from consumer.dev.broker import tied_to_owner

_STOP_TIMEOUT = 20.0
_POLL = 0.02

# A process that is tied to its owner dies with the *thread* that started it, and a test may restart a server from a
# thread that soon ends: this thread starts all of them, and ends with the interpreter.
starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="daemon-starter")


class Daemon:
    """One server process. Its output lies in a file, so that it never waits for a reader."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        directory: Path,
        environment: dict[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.name = name
        self._arguments = tied_to_owner(arguments)
        self._directory = directory
        self._environment = environment
        self._log = log or directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs (also while paused)."""
        return self._process is not None and self._process.poll() is None

    @property
    def failed(self) -> bool:
        """Whether it ended though nobody ended it."""
        code = None if self._process is None else self._process.poll()
        return code not in (None, -signal.SIGKILL, -signal.SIGTERM)

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def output(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text(errors="replace")[-3_000:] if self._log.exists() else ""

    def start(self) -> None:
        """Starts it; whether it serves is for `await_service` to say. Raises RuntimeError where it runs."""
        if self.alive:
            raise RuntimeError(f"{self.name} runs already")
        self._process = starter.submit(self._spawn).result()

    def await_service(self, ready: Callable[[], bool], timeout: float) -> None:
        """Returns when `ready` says so. Raises RuntimeError with the process's last words where it doesn't."""
        deadline = time.monotonic() + timeout
        while self.alive and time.monotonic() < deadline:
            if ready() and self.alive:
                return
            time.sleep(_POLL)
        ended = "did not serve in time" if self.alive else f"ended with {self._process and self._process.poll()}"
        raise RuntimeError(f"{self.name} {ended} ({timeout:g} s); its last words:\n{self.output}")

    def kill(self) -> None:
        """Ends it as a power cut would, if it runs."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it in order, as an operator would."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Lets it hang: its connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # macOS has none before Python 3.13
            # A thread that runs on another core stops only when it enters the kernel; this returns when all have.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Lets a paused one go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.name} was never started"
        if not self.alive:  # its id may be another process's by now
            raise RuntimeError(f"{self.name} does not run")
        self._process.send_signal(number)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,
            )

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
