"""What happened in a run, as it happens: JSON Lines for who has to find out why, a line on the screen for who waits."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path


class Record:
    """The diary of a run. Each entry has the wall clock (seconds), which is also that of the agents' events."""

    def __init__(self, path: Path, *, quiet: bool = False) -> None:
        self._file = path.open("a", buffering=1)
        self._quiet = quiet
        self._began = time.monotonic()

    def note(self, what: str, **facts: object) -> None:
        """One thing that happened."""
        entry = {"time": time.time(), "at": datetime.now(UTC).isoformat(), "what": what, **facts}
        self._file.write(json.dumps(entry, default=str) + "\n")

    def say(self, text: str) -> None:
        """A line for the screen, which also goes into the diary."""
        self.note("said", text=text)
        if not self._quiet:
            sys.stdout.write(f"[{time.monotonic() - self._began:7.1f} s] {text}\n")
            sys.stdout.flush()

    def close(self) -> None:
        """Ends the file."""
        self._file.close()
