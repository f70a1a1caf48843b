"""Problems of models, told to a human: path, value, remedy; and the text form of paths."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from schemas.failure import Problem
from schemas.problems import parse_path, path_text, problems_of
from schemas.scalars import Duration
from schemas.wpk import WorkflowPackage

parts = st.lists(st.integers(0, 9999) | st.text(min_size=1, max_size=8) | st.sampled_from(["", "a.b", "[0]", '"']))


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(ge=1)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    name: str = Field(min_length=2, max_length=5, alias="resource_name")
    wait: Duration = 1.0
    inner: Inner | None = None
    table: dict[str, Inner] = Field(default_factory=dict)
    items: tuple[Inner, ...] = ()
    api_token: int = 0
    choice: int | list[int] = 0
    on: bool = False


def told(document: JsonValue) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(document)
    return {problem.path: problem.message for problem in problems_of(caught.value, Outer)}


@settings(deadline=None, max_examples=100)
@given(parts)
def test_a_path_comes_back_from_its_text(path: list[str | int]) -> None:
    assert parse_path(path_text(path)) == tuple(path)


def test_a_path_reads_as_one_writes_it() -> None:
    assert (
        path_text(["spec", "handlers", 2, "config", "headers", "X-Id", 0]) == "spec.handlers[2].config.headers.X-Id[0]"
    )
    assert path_text([1, "a.b"]) == '[1]["a.b"]'
    assert Problem(path=path_text([1]), message="m").under("spec.handlers").path == "spec.handlers[1]"


def test_every_problem_is_told_at_once_with_its_remedy() -> None:
    found = told(
        {
            "resource_name": "x",
            "wait": "5 parsecs",
            "inner": {"sise": 3},
            "table": {"a.b": {"size": 0}},
            "items": [{"size": 1}, {"size": "q"}, 7],
            "choice": "many",
            "on": "maybe",
        }
    )
    assert found == {
        "resource_name": '"x" is too short; at least 2 characters',
        "wait": '"5 parsecs" is no duration; write 500ms, 30s, 5m or 1h30m',
        "inner.size": "required, but missing",
        "inner.sise": 'unknown field; did you mean "size"?',
        'table["a.b"].size': "0 is too small; the least is 1",
        "items[1].size": '"q" is no whole number',
        "items[2]": "7 is no mapping of names to values",
        "choice": '"many" is no whole number, and no list',
        "on": '"maybe" is neither true nor false',
    }


def test_an_unknown_field_with_no_near_name_lists_the_known_ones() -> None:
    assert told({"name": "abc", "inner": {"size": 1, "zzz": 1}}) == {"inner.zzz": "unknown field; known: size"}


def test_a_field_that_is_named_like_a_secret_is_not_shown() -> None:
    assert told({"name": "abc", "api_token": "hunter2"}) == {"api_token": "this value is no whole number"}


def test_a_long_value_is_cut() -> None:
    found = told({"name": "abc", "choice": "x" * 500})
    assert len(found["choice"]) < 150
    assert "…" in found["choice"]


def test_of_a_great_many_problems_the_first_are_told_and_the_rest_counted() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"name": "abc", "items": [{"size": 0}] * 1000})
    found = problems_of(caught.value, Outer)
    assert len(found) == 201
    assert str(found[-1]) == "and 800 more problems"


def test_hidden_paths_are_not_shown() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"name": "abc", "choice": "hunter2", "wait": "hunter3", "on": "hunter4"})
    found = problems_of(caught.value, Outer, hidden=[("choice",), ("wait",), ("on",)])
    assert len(found) == 3
    assert "hunter" not in str(found)


def test_a_package_is_told_of_in_the_names_it_is_written_in() -> None:
    with pytest.raises(ValidationError) as caught:
        WorkflowPackage.model_validate({"apiVersion": "v2", "spec": {"handlers": [{"name": "a b", "type": "k8s"}]}})
    found = {problem.path: problem.message for problem in problems_of(caught.value, WorkflowPackage)}
    assert set(found) == {"apiVersion", "metadata", "spec.handlers[0].name", "spec.handlers[0].config"}
    assert found["apiVersion"] == '"v2" is none of: v1'
    assert found["spec.handlers[0].name"].startswith('"a b" is no step name; use letters')


def test_without_the_model_paths_are_still_paths() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"name": "abc", "choice": "many"})
    assert [problem.path for problem in problems_of(caught.value)] == ["choice"]
