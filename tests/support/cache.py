"""Where the tests keep what takes long to fetch or to build: once for a user of a machine, outside of the tree."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


class Unavailable(Exception):
    """This machine can't have what a test needs; the message says why and what would help."""


def directory() -> Path:
    """The user's cache, or a directory beside the temporary files where there is no home to write to.

    Raises Unavailable.
    """
    named = os.environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if (home := os.environ.get("HOME")) else "")
    temporary = Path(tempfile.gettempdir()) / f"wpk-agent-cache-{os.getuid()}"
    for candidate in (Path(named) / "wpk-agent" if named else temporary, temporary):
        with contextlib.suppress(OSError):
            candidate.mkdir(parents=True, exist_ok=True, mode=0o700)
            if os.access(candidate, os.W_OK) and candidate.stat().st_uid == os.getuid():
                return candidate
    raise Unavailable("there is no directory to keep it in: set XDG_CACHE_HOME to one")
