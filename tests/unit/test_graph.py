"""The order of steps: sequences, graphs, what may start and what can't any more, and what is wrong with an order."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.workflow import graph
from consumer.workflow.graph import Next, Outcome, Skip
from schemas.wpk import Handler

quick = settings(deadline=None, max_examples=100)


def step(name: str, *needs: str, go_on: bool = False) -> Handler:
    return Handler(name=name, type="delay", config={}, needs=needs, on_failure="continue" if go_on else "stop")


@st.composite
def acyclic(draw: st.DrawFn) -> list[Handler]:
    """Steps whose needs point to lower ranks, in an order of the list that says nothing about them."""
    count = draw(st.integers(2, 9))
    steps = [
        step(f"s{rank}", *draw(st.lists(st.sampled_from([f"s{i}" for i in range(rank)]), unique=True)))
        for rank in range(1, count)
    ]
    return draw(st.permutations([step("s0"), *steps]))


@st.composite
def any_graph(draw: st.DrawFn) -> list[Handler]:
    names = [f"s{i}" for i in range(draw(st.integers(2, 7)))]
    return [
        step(name, *draw(st.lists(st.sampled_from([n for n in names if n != name]), unique=True, max_size=3)))
        for name in names
    ]


def has_cycle(steps: list[Handler]) -> bool:
    """By brute force: take away what needs nothing until nothing changes."""
    left = {handler.name: set(handler.needs) for handler in steps}
    while True:
        free = {name for name, needs in left.items() if not needs & left.keys()}
        if not free:
            return bool(left)
        left = {name: needs for name, needs in left.items() if name not in free}


# --- sequences ---


def test_a_list_without_needs_runs_one_after_the_other() -> None:
    built = graph.build([step("a"), step("b"), step("c")])
    assert built.sequence
    assert not built.problems
    assert built.ready({}) == Next(start=("a",))
    assert built.ready({"a": "running"}) == Next()
    assert built.ready({"a": "succeeded"}) == Next(start=("b",))
    assert built.ready({"a": "succeeded", "b": "skipped"}) == Next(start=("c",))
    assert built.ready({"a": "succeeded", "b": "skipped", "c": "succeeded"}) == Next()
    assert [built.ancestors(name) for name in "abc"] == [frozenset(), {"a"}, {"a", "b"}]


def test_a_sequence_goes_on_after_a_failure_only_where_the_step_allows_it() -> None:
    built = graph.build([step("a", go_on=True), step("b"), step("c")])
    assert built.ready({"a": "failed"}) == Next(start=("b",))
    assert built.ready({"a": "failed", "b": "failed"}) == Next()
    assert built.ready({"a": "cancelled"}) == Next()


# --- graphs ---


def test_independent_steps_start_together_in_the_order_of_the_list() -> None:
    built = graph.build([step("end", "x", "y"), step("y"), step("x"), step("alone")])
    assert not built.sequence
    assert built.ready({}) == Next(start=("y", "x", "alone"))
    assert built.ready({"x": "running", "y": "succeeded"}) == Next(start=("alone",))
    assert built.ready({"x": "succeeded", "y": "succeeded", "alone": "failed"}) == Next(start=("end",))
    assert built.ancestors("end") == {"x", "y"}
    assert built.topological == ("y", "x", "end", "alone")


@pytest.mark.parametrize("outcome", ["failed", "skipped", "cancelled"])
def test_what_needs_a_step_without_success_is_skipped_with_all_behind_it(outcome: Outcome) -> None:
    built = graph.build([step("c", "b"), step("b", "a"), step("a", go_on=True), step("d", "e"), step("e")])
    assert built.ready({"a": outcome, "e": "running"}) == Next(skip=(Skip("c", "b"), Skip("b", "a")))


def test_a_step_is_skipped_while_another_need_still_runs() -> None:
    built = graph.build([step("a"), step("b"), step("c", "a", "b")])
    assert built.ready({"a": "running", "b": "skipped"}) == Next(skip=(Skip("c", "b"),))


@quick
@given(acyclic())
def test_an_acyclic_list_has_no_problem_and_its_order_puts_needs_first(steps: list[Handler]) -> None:
    built = graph.build(steps)
    assert not built.problems
    order = {name: index for index, name in enumerate(built.topological)}
    assert sorted(order) == sorted(handler.name for handler in steps)
    for handler in steps:
        assert all(order[need] < order[handler.name] for need in handler.needs)
        assert set(handler.needs) <= built.ancestors(handler.name) or built.sequence


@quick
@given(acyclic(), st.data())
def test_every_run_ends_with_each_step_settled_once_and_never_before_its_needs(
    steps: list[Handler], data: st.DataObject
) -> None:
    built = graph.build(steps)
    outcomes: dict[str, Outcome] = {}
    while True:
        following = built.ready(outcomes)
        assert not {*following.start, *(skip.name for skip in following.skip)} & outcomes.keys()
        running = [name for name, outcome in outcomes.items() if outcome == "running"]
        if not following.start and not following.skip and not running:
            break
        for skip in following.skip:
            outcomes[skip.name] = "skipped"
        for name in following.start:
            assert all(outcomes[need] == "succeeded" for need in built.needs[name]) or built.sequence
            assert all(outcomes[before] != "running" for before in built.ancestors(name))
            outcomes[name] = "running"
        running = [name for name, outcome in outcomes.items() if outcome == "running"]
        if running:
            outcomes[data.draw(st.sampled_from(running))] = data.draw(st.sampled_from(["succeeded", "skipped"]))
    assert outcomes.keys() == {handler.name for handler in steps}


# --- problems ---


def problems(*steps: Handler) -> list[str]:
    return [str(problem) for problem in graph.build(steps).problems]


def test_duplicates_unknown_names_and_needs_of_oneself_are_told_at_once() -> None:
    assert problems(step("collect-logs"), step("b", "collect-log", "b"), step("b", "zzz")) == [
        '[2].name: "b" is already the name of step [1]; each step needs its own',
        '[1].needs[0]: "collect-log" is no step; did you mean "collect-logs"?',
        '[1].needs[1]: "b" can\'t need itself',
        '[2].needs[0]: "zzz" is no step',
    ]


def test_a_cycle_is_named_from_its_first_step_in_the_list() -> None:
    assert problems(step("free"), step("behind", "b"), step("a", "free", "c"), step("b", "a"), step("c", "b")) == [
        "[2].needs[1]: the steps wait for each other: a → c → b → a; remove one of these needs"
    ]


def test_two_cycles_are_two_problems() -> None:
    found = problems(step("a", "b"), step("b", "a"), step("c", "d"), step("d", "c"), step("e", "a", "c"))
    assert len(found) == 2
    assert "a → b → a" in found[0]
    assert "c → d → c" in found[1]


@quick
@given(any_graph())
def test_a_cycle_is_found_exactly_where_there_is_one(steps: list[Handler]) -> None:
    built = graph.build(steps)
    assert bool(built.problems) == has_cycle(steps)
    needs = {handler.name: handler.needs for handler in steps}
    for problem in built.problems:
        chain = problem.message.split(": ")[1].split(";")[0].split(" → ")
        assert chain[0] == chain[-1]
        assert all(after in needs[name] for name, after in pairwise(chain))


def test_thousands_of_steps_need_no_recursion() -> None:
    chain = [step("s0"), *(step(f"s{i}", f"s{i - 1}") for i in range(1, 3000))]
    built = graph.build(chain)
    assert not built.problems
    assert len(built.ancestors("s2999")) == 2999
    assert graph.build([step("s0", "s2999"), *chain[1:]]).problems
