"""The marks that steps leave outside of the agents: what really happened, whatever the topics say."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

PLUGIN = Path(__file__).parent / "plugin"
"""To be on the agents' PYTHONPATH: the adapter `mark`."""

#: One line by one `printf`, which a shell writes at once; appended, so that it never lands in another's line.
SHELL_MARK = (
    "read -r up rest < /proc/uptime; "
    'printf "%s %s %s %s %s\\n" "$WPK_IDEMPOTENCY_KEY" "$WPK_ATTEMPT" "$WPK_EPOCH" "$up" "$$" >> {file}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A step's attempt had begun to change the world."""

    execution: str
    phase: str
    step: str
    attempt: int
    epoch: int
    """The owner's for whom it was made."""
    time: float
    """Seconds since 1970; a shell step's only to 10 ms."""
    process: int
    """Of the agent, for a `mark` step; of the command itself, for a `shell` step."""
    line: int
    """Its place in the file, that is the order of all marks."""

    @property
    def attempt_key(self) -> tuple[str, str, str, int]:
        """What it was an attempt of."""
        return self.execution, self.phase, self.step, self.attempt


def prepare(directory: Path) -> Path:
    """An empty file for marks; who runs the steps may be another user than who runs the agent.

    Raises ValueError where that user could not reach the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for parent in directory.resolve().parents:
        if not parent.stat().st_mode & 0o001:
            raise ValueError(f"marks can't be left in {directory}: other users may not enter {parent}")
    directory.chmod(0o777)
    file = directory / "marks"
    file.touch()
    file.chmod(0o666)
    return file


def read(file: Path) -> list[Mark]:
    """All marks so far, in order. Raises ValueError for a line that is none."""
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    marks = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        fields = line.split(" ")
        if len(fields) != 5 or fields[0].count("/") != 2:
            raise ValueError(f"line {number} of {file} is no mark: {line!r}")
        execution, phase, step = fields[0].split("/")
        marks.append(
            Mark(
                execution=execution,
                phase=phase,
                step=step,
                attempt=int(fields[1]),
                epoch=int(fields[2]),
                time=started + float(fields[3]),
                process=int(fields[4]),
                line=number,
            )
        )
    return marks
