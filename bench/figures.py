"""What the measurements give: figures beside their floors, of the same run, with their spread."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """The process and all that descend from it and run."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(one for file in children for child in file.read_text().split() for one in family(int(child)))]


def cpu_seconds(pid: int) -> float:
    """Seconds of a core that the process has used, with all of its threads, and of its children, ended or not."""
    total = 0
    for one in family(pid):
        with contextlib.suppress(
            FileNotFoundError, ProcessLookupError
        ):  # it ended just now: its parent's figure has it
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15])
    return total / _TICK


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest value that so many are not above (0.5: the median; 0.99)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured quantity; with `floor`, what the least conceivable work gave in the same rounds."""

    name: str
    unit: str
    higher_is_better: bool
    ours: list[float]
    """By round."""
    floor: list[float] | None = None
    """By round, each right after ours, so that both met the same machine."""

    @property
    def value(self) -> float:
        """The median of ours."""
        return statistics.median(self.ours)

    @property
    def ratios(self) -> list[float]:
        """By round, ours as a share of the floor: 1 is as good as it, less is worse, whatever the unit is."""
        assert self.floor is not None, f"{self.name} has no floor"
        pairs = zip(self.ours, self.floor, strict=True)
        return [a / b if self.higher_is_better else b / a for a, b in pairs]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(self.ratios)

    @property
    def over(self) -> float:
        """The median by which ours is above the floor, in its unit."""
        assert self.floor is not None, f"{self.name} has no floor"
        return statistics.median(a - b for a, b in zip(self.ours, self.floor, strict=True))

    def row(self) -> dict[str, object]:
        """As results.json has it."""
        return asdict(self)


def figure(row: dict[str, object]) -> Figure:
    """What `row` gave."""
    return Figure(**row)  # type: ignore[arg-type]


def number(value: float) -> str:
    """With three digits that matter, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def line(one: Figure) -> list[str]:
    """A row of the table: name, ours, spread, floor, ratio, its spread."""
    spread = f"{number(min(one.ours))} to {number(max(one.ours))}"
    if one.floor is None:
        return [one.name, f"{number(one.value)} {one.unit}", spread, "", "", ""]
    ratios = f"{min(one.ratios):.2f} to {max(one.ratios):.2f}"
    floor = number(statistics.median(one.floor))
    return [one.name, f"{number(one.value)} {one.unit}", spread, floor, f"{one.ratio:.2f}", ratios]


HEAD = ["figure", "ours", "spread", "floor", "of the floor", "spread"]


def table(figures: Sequence[Figure]) -> str:
    """All of them as a Markdown table."""
    rows = [HEAD, ["---"] * len(HEAD), *(line(one) for one in figures)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
