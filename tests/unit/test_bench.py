"""What `make bench` makes of what it measured: ratios, verdicts, and the tables of the documentation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import budgets, figures, scale
from bench.__main__ import PAGE, render
from bench.budgets import BUDGETS, Budget
from bench.figures import Figure
from tests.support.processes import ROOT


def a_figure(ours: list[float], floor: list[float] | None = None, *, higher: bool = True) -> Figure:
    return Figure(name="speed", unit="/s", higher_is_better=higher, ours=ours, floor=floor)


def a_budget(kind: str, bound: float, noise: float = 0.1) -> Budget:
    return Budget(figure="speed", kind=kind, bound=bound, noise=noise)  # type: ignore[arg-type]


def test_a_ratio_is_of_the_rounds_beside_each_other_so_that_a_machine_that_slows_down_changes_nothing() -> None:
    """The machine is four times slower in the last two rounds; ours is half of the floor in each."""
    slowing = a_figure([50, 12.5, 12.5], [100, 25, 25])
    assert slowing.ratio == 0.5
    assert slowing.value == 12.5


def test_less_than_the_floor_is_worse_whatever_the_unit() -> None:
    assert a_figure([50], [100], higher=True).ratio == 0.5
    assert a_figure([10], [5], higher=False).ratio == 0.5
    assert a_figure([10], [4], higher=False).over == 6


def test_a_99th_percentile_of_a_hundred_is_the_longest_but_none() -> None:
    assert figures.quantile([float(n) for n in range(100)], 0.99) == 99
    assert figures.quantile([3.0, 1.0, 2.0], 0.5) == 2.0


@pytest.mark.parametrize(
    ("kind", "bound", "good", "noisy", "bad"),
    [
        ("share of the floor", 0.5, ([50], [100]), ([46], [100]), ([44], [100])),
        ("at least", 100, ([100], None), ([91], None), ([89], None)),
        ("at most", 100, ([100], None), ([109], None), ([111], None)),
        ("above the floor", 10, ([20], [10]), ([20.9], [10]), ([21.1], [10])),
        ("within", 0.1, ([10.5], [10]), ([11.05], [10]), ([12], [10])),
    ],
)
def test_a_budget_is_missed_only_by_more_than_its_noise(
    kind: str,
    bound: float,
    good: tuple[list[float], list[float] | None],
    noisy: tuple[list[float], list[float] | None],
    bad: tuple[list[float], list[float] | None],
) -> None:
    budget = a_budget(kind, bound)
    assert budget.met(a_figure(*good))
    assert not budget.missed(a_figure(*good))
    assert not budget.met(a_figure(*noisy))
    assert not budget.missed(a_figure(*noisy))
    assert budget.missed(a_figure(*bad))


def test_the_best_peer_must_be_left_behind_by_a_factor() -> None:
    budget = a_budget("times the floor", 2)
    assert budget.met(a_figure([210], [100]))
    assert budget.missed(a_figure([150], [100]))
    assert budget.told("/s") == "≥ 2 times the best peer"


def test_the_check_fails_where_a_budget_is_missed_or_was_not_measured(tmp_path: Path) -> None:
    def run(rows: list[dict[str, object]]) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "results.json"
        file.write_text(json.dumps({"scenarios": {"all": {"figures": rows}}}))
        command = [sys.executable, "-m", "bench.budgets", str(file)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def rows(**changed: list[float]) -> list[dict[str, object]]:
        found = []
        for budget in BUDGETS:
            good = {"share of the floor": 1.0, "above the floor": 1.0, "within": 1.0}.get(budget.kind, budget.bound)
            ours = changed.get(budget.figure, [good])
            one = Figure(name=budget.figure, unit="x", higher_is_better=True, ours=ours, floor=[1.0])
            found.append(one.row())
        return found

    assert run(rows()).returncode == 0
    slow = run(rows(**{BUDGETS[0].figure: [0.1]}))
    assert slow.returncode == 1
    assert f"{BUDGETS[0].figure}: 0.1, but is to be ≥ 0.45 of the floor" in slow.stderr
    absent = run(rows()[1:])
    assert absent.returncode == 1
    assert f"{BUDGETS[0].figure}: not measured" in absent.stderr


def test_the_tables_of_the_pages_are_those_of_the_results() -> None:
    """`make bench` writes both; after a merge by hand: python -m bench --table."""
    pages = PAGE.read_text(), scale.PAGE.read_text()
    assert render(*pages) == pages


def test_a_range_is_divided_as_kafka_does_it_the_first_members_get_one_more() -> None:
    assert list(scale.ranges(7, [0.3, 0.1, 0.2]).values()) == [0.1, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


def test_one_more_member_moves_far_more_by_range_than_it_must() -> None:
    by_range, fewest = scale.moved(1_000, 100)
    assert fewest == 0.009
    assert by_range > 0.3


def test_twice_the_work_takes_twice_the_agents_and_never_fewer_than_two() -> None:
    measured = scale.Measured.of(budgets.read())
    rate = measured.agent_rate("at_least_once")

    def agents(per_second: float) -> int:
        return scale.agents_for(scale.Load(name="some", mean=1, peak=per_second), measured, "at_least_once")

    assert (agents(rate * 10), agents(rate * 20), agents(1e-6)) == (20, 40, 2)


def test_cpu_time_counts_what_this_process_uses() -> None:
    before, total = figures.cpu_seconds(os.getpid()), 0
    while figures.cpu_seconds(os.getpid()) < before + 0.05:  # for ever, where it is another process's
        total += sum(range(1000))
