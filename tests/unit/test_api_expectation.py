"""Placeholders in `expect` are data, wherever they stand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from consumer.adapters.api.expectation import compile_expectation
from tests.support.api_steps import FixedScope

SCALARS = st.one_of(
    st.text(max_size=30),
    st.integers(-(2**53), 2**53),
    st.booleans(),
    st.none(),
    st.sampled_from(['"', "'", "\\", "}", "\n"]),
)


def holds(text: str, body: JsonValue, values: dict[str, JsonValue] | None = None) -> bool:
    expectation, problems = compile_expectation(text, FixedScope(values or {}))
    assert expectation is not None, problems
    return expectation.holds(status=200, headers={}, body=body)


def problems(text: str, scope: FixedScope | None = None) -> list[str]:
    return [str(problem) for problem in compile_expectation(text, scope or FixedScope())[1]]


@given(SCALARS)
@settings(max_examples=100, deadline=None)
def test_a_placeholder_in_the_open_keeps_its_type(value: JsonValue) -> None:
    assert holds("body.x == ${v}", {"x": value}, {"v": value})


@given(st.text(max_size=30) | st.sampled_from(["' || true || '", '" || true || "', "\\", "${v}", "'''"]))
@settings(max_examples=100, deadline=None)
def test_a_placeholder_inside_a_string_is_text_that_cannot_end_the_string(value: str) -> None:
    for quote in ("'", '"', "'''", '"""'):
        assert holds(f"body.x == {quote}<${{v}}>{quote}", {"x": f"<{value}>"}, {"v": value})
        assert not holds(f"body.x == {quote}<${{v}}>{quote}", {"x": "other"}, {"v": value})


def test_a_value_that_looks_like_an_expression_is_only_compared() -> None:
    assert not holds("body.x == ${v}", {"x": 1}, {"v": "1 || true"})
    assert not holds("body.x == '${v}'", {"x": 1}, {"v": "' || true || '"})


def test_lists_and_objects_can_be_compared_too() -> None:
    assert holds("body.x in ${v}", {"x": 2}, {"v": [1, 2]})
    assert holds("body == ${v}", {"x": 2}, {"v": {"x": 2}})


def test_an_escaped_placeholder_is_literal() -> None:
    assert holds("body.x == '$${v}'", {"x": "${v}"})


def test_quotes_of_the_other_kind_and_escapes_do_not_confuse_where_a_string_ends() -> None:
    assert holds(r"""body.x == "it's \"${v}\"" && ${v} == 'a'""", {"x": 'it\'s "a"'}, {"v": "a"})


def test_a_placeholder_in_a_raw_string_is_refused_with_the_remedy() -> None:
    (message,) = problems("body.x.matches(r'^${v}$')", FixedScope({"v": "a"}))
    assert message.startswith("expect: ${v} stands in a raw string")


@pytest.mark.parametrize("text", ["body.x == ${v}", "body.x == '${v}'"])
def test_a_value_that_is_known_later_is_no_problem_now(text: str) -> None:
    assert problems(text, FixedScope({}, frozenset({"v"}))) == []


def test_all_missing_values_are_told_at_once() -> None:
    assert len(problems("body.x == ${a} && body.y == '${b}'")) == 2


@pytest.mark.parametrize(
    ("text", "hint"), [("stauts == 200", 'did you mean "status"?'), ("steps.a.output.b", "${name}")]
)
def test_a_variable_that_an_answer_does_not_have_is_found_before_anything_runs(text: str, hint: str) -> None:
    (message,) = problems(text)
    assert hint in message


@pytest.mark.parametrize("text", ["body.x ==", "body.x == ${v", "status = 200", "'open"])
def test_what_is_no_expression_is_found_before_anything_runs(text: str) -> None:
    (message,) = problems(text)
    assert message.startswith("expect: ")
