"""How fast it has to be: ratios and differences within one run, since the machine is never the same twice.

python -m bench.budgets [FILE]      exit code 1 where a budget is missed by more than its noise
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bench.figures import Figure, figure, number

RESULTS: Final = Path(__file__).with_name("results.json")
#: Written by `make bench-peers`, which is run more rarely.
PEERS: Final = Path(__file__).parent / "peers" / "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one figure must reach."""

    figure: str
    kind: Literal["share of the floor", "times the floor", "above the floor", "at most", "at least", "within"]
    """`above the floor`: at most so much, in the figure's unit. `within`: the ratio to the floor differs from 1 by at
    most so much."""
    bound: float
    noise: float
    """How far under its budget a figure may lie before that counts, as a share of the bound: what two runs of the same
    commit differ by on a machine with other work."""

    def found(self, of: Figure) -> float:
        """The number that the budget is about."""
        match self.kind:
            case "share of the floor" | "times the floor":
                return of.ratio
            case "above the floor":
                return of.over
            case "within":
                return abs(1 - of.ratio)
            case "at most" | "at least":
                return of.value

    @property
    def _more_is_better(self) -> bool:
        return self.kind in ("share of the floor", "times the floor", "at least")

    def met(self, of: Figure) -> bool:
        """Whether it is reached, to the letter."""
        found = self.found(of)
        return found >= self.bound if self._more_is_better else found <= self.bound

    def missed(self, of: Figure) -> bool:
        """Whether it is missed by more than the noise."""
        found = self.found(of)
        slack = self.bound * self.noise
        return found < self.bound - slack if self._more_is_better else found > self.bound + slack

    def told(self, unit: str) -> str:
        """The budget in words."""
        match self.kind:
            case "share of the floor":
                return f"≥ {self.bound:g} of the floor"
            case "times the floor":
                return f"≥ {self.bound:g} times the best peer"
            case "above the floor":
                return f"≤ the floor + {self.bound:g} {unit}"
            case "within":
                return f"within {self.bound:.0%} of the floor"
            case "at most":
                return f"≤ {self.bound:,g} {unit}"
            case "at least":
                return f"≥ {self.bound:,g} {unit}"


def _share(name: str, bound: float, noise: float = 0.15) -> Budget:
    return Budget(figure=name, kind="share of the floor", bound=bound, noise=noise)


BUDGETS: Final[Sequence[Budget]] = (
    _share("W3 throughput (apache, at_least_once)", 0.45),
    _share("W3 throughput (exactly_once beside at_least_once)", 0.6),
    _share("S1 throughput (apache, at_least_once)", 0.7),
    Budget(figure="W3 throughput: agent, at_least_once", kind="times the floor", bound=2, noise=0.15),
    Budget(figure="W3 latency p50 at 20/s (apache, at_least_once)", kind="above the floor", bound=6, noise=0.25),
    Budget(figure="W3 latency p99 at 20/s (apache, exactly_once)", kind="at most", bound=80, noise=0.25),
    Budget(figure="restore of 100,000 executions", kind="at most", bound=10, noise=0.2),
    Budget(figure="from a kill to results again (session timeout 6 s)", kind="at most", bound=9, noise=0.1),
    Budget(figure="memory per waiting execution", kind="at most", bound=6, noise=0.1),
    Budget(figure="memory of an idle agent (at_least_once)", kind="at most", bound=90, noise=0.05),
    Budget(figure="memory of an idle agent (exactly_once)", kind="at most", bound=90, noise=0.05),
    Budget(figure="replay of the trail", kind="at least", bound=50_000, noise=0.2),
    Budget(figure="CPU per W3 after 10,000 finished runs", kind="within", bound=0.1, noise=0.5),
)


def read(file: Path = RESULTS) -> dict[str, Figure]:
    """The figures of a results file and of the last comparison with peers, by name."""
    measured = [json.loads(PEERS.read_text()), *json.loads(file.read_text())["scenarios"].values()]
    return {row["name"]: figure(row) for one in measured for row in one["figures"]}


def judged(found: Mapping[str, Figure], budgets: Sequence[Budget] = BUDGETS) -> tuple[str, list[str]]:
    """A Markdown table of all budgets, and what is wrong: missed by more than the noise, or not measured."""
    head = ["budget of", "is to be", "is", "verdict"]
    rows, wrong = [head, ["---"] * len(head)], []
    for budget in budgets:
        one = found.get(budget.figure)
        if one is None:
            verdict, value, told = "not measured", "", budget.told("")
        else:
            within = "missed within the noise"
            verdict = "met" if budget.met(one) else "**missed**" if budget.missed(one) else within
            value, told = number(budget.found(one)), budget.told(one.unit)
        if one is None or budget.missed(one):
            wrong.append(f"{budget.figure}: {value or 'not measured'}, but is to be {told}")
        rows.append([budget.figure, told, value, verdict])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows), wrong


def main() -> int:
    """Prints the table; the exit code."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    told, wrong = judged(read(file))
    print(told)
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
