"""Follows the policy's file while the agent runs.

The file is read every few seconds, as what changes it is not told everywhere: a mounted ConfigMap is exchanged by a
link, and a container gets no signal. A new content counts when two looks in a row found it the same, so that no half of
a file that is being written ever rules. One that can't be used changes nothing: the policy before stays in force.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from consumer.errors import SettingsError
from consumer.policy import load
from consumer.policy.judge import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the file says now."""

    policy: Policy | None
    """The policy; None: it can't be used."""
    trouble: str = ""
    """Why not."""


class PolicyFile:
    """A policy's file, and what was last known of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = self._seen = self._read()

    def look(self) -> Found | None:
        """What is new since the last time; None: nothing, or nothing that has come to rest. Blocking."""
        now = self._read()
        rests, self._seen = now == self._seen, now
        if not rests or now == self._told:
            return None
        self._told = now
        if isinstance(now, str):
            return Found(policy=None, trouble=f"the policy {self._path} can't be read: {now}")
        try:
            return Found(policy=load.usable(now, str(self._path)))
        except SettingsError as error:
            return Found(policy=None, trouble=str(error))

    def _read(self) -> bytes | str:
        """The content, or why there is none."""
        try:
            with self._path.open("rb") as stream:
                return stream.read(load.MAX_BYTES + 1)
        except OSError as error:
            return error.strerror or str(error)
