"""What can be said of a package before anything of it runs: everything at once, each with its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from consumer.ports import JsonObject, Scope
from consumer.workflow import answers, values
from consumer.workflow.checks import MAX_STEPS, Checked, check_package
from schemas.failure import Problem


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = ""
    number: int = 0


class Strict:
    def check(self, config: JsonObject, scope: Scope) -> Sequence[Problem]:
        return values.check_config(Config, config, scope)


ADAPTERS = {"strict": Strict(), "shell": Strict()}


def step(name: str, config: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "strict", "config": config or {}, **more}


def package(*handlers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "w", "version": "1.0.0"}, "spec": {"handlers": list(handlers), **spec}}


def checked(document: Any, parameters: JsonObject | None = None, **more: Any) -> Checked:
    return check_package(document, parameters, ADAPTERS, **more)


def errors(document: Any, parameters: JsonObject | None = None) -> dict[str, str]:
    return {problem.path: problem.message for problem in checked(document, parameters).errors}


@pytest.mark.parametrize("document", [None, [], "text", 7])
def test_what_is_no_object_is_no_package(document: Any) -> None:
    assert checked(document).package is None
    assert "a package is an object" in errors(document)[""]


def test_all_kinds_of_problems_are_told_together() -> None:
    found = errors(
        package(
            step("a", {"nubmer": 1, "text": "${missing}"}),
            step("a", {"number": "many"}),
            {"name": "c", "type": "strct", "config": {}},
            step("d", when="1 +"),
            step("e", when="steps.zz.status == 'succeeded'", timeout=0),
            step("f", {"text": "${steps.later.output.x}"}),
            rollback={"enabled": True, "handlers": [step("g", {"text": "${nothing}"}, needs=["h"])]},
            outputs={"o": "${steps.nobody.output}"},
        ),
        {},
    )
    assert set(found) == {
        "spec.handlers[1].name",
        "spec.handlers[0].config.nubmer",
        "spec.handlers[0].config.text",
        "spec.handlers[1].config.number",
        "spec.handlers[2].type",
        "spec.handlers[3].when",
        "spec.handlers[4].when",
        "spec.handlers[4].timeout",
        "spec.handlers[5].config.text",
        "spec.rollback.handlers[0].needs[0]",
        "spec.rollback.handlers[0].config.text",
        "spec.outputs.o",
    }
    assert 'did you mean "strict"' in found["spec.handlers[2].type"]


def test_a_step_may_name_only_what_is_certainly_over_when_it_begins() -> None:
    uses = {"text": "${steps.a.output.x}"}
    assert not errors(package(step("a"), step("b", uses)), {})
    assert errors(package(step("b", uses), step("a")), {}).keys() == {"spec.handlers[0].config.text"}
    assert not errors(package(step("a"), step("b"), step("c", uses, needs=["a"])), {})
    assert errors(package(step("a"), step("b"), step("c", uses, needs=["b"])), {}).keys() == {
        "spec.handlers[2].config.text"
    }
    assert not errors(package(step("a"), rollback={"enabled": True, "handlers": [step("u", uses)]}), {})


def test_parameters_get_their_defaults_and_are_held_to_the_packages_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "default": 3}, "s": {"type": "string"}},
        "required": ["s"],
        "additionalProperties": False,
    }
    document = package(step("a", {"number": "${n}", "text": "${s}"}), parameters=schema)
    good = checked(document, {"s": "x"})
    assert (good.errors, good.parameters) == ((), {"n": 3, "s": "x"})
    bad = [str(problem) for problem in checked(document, {"n": "many", "other": 1}).errors]
    assert any(text.startswith("parameters.n: ") for text in bad)
    assert any("'s' is a required property" in text for text in bad)
    assert any("'other'" in text for text in bad)
    assert not errors(document), "the package alone is fine: its parameters come with a command"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"$schema": ["x"], "type": "object"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "#/nowhere"},
        {"$ref": "#"},
        {"properties": {"a": {"pattern": "("}}},
    ],
    ids=["unknown type", "odd dialect", "another's schema", "nowhere", "itself", "no pattern"],
)
def test_a_schema_that_cannot_be_applied_is_a_problem_and_fetches_nothing(schema: dict[str, Any]) -> None:
    found = errors(package(step("a"), parameters=schema), {"a": "x"})
    assert [path for path in found if path.startswith("spec.parameters")], found


def test_what_the_agent_does_not_do_is_said_as_a_warning() -> None:
    document = package(step("a"), safety={"dry_run_required": True}, monitoring={"alerts": [{"type": "slack"}]})
    document["metadata"]["signature"] = "c2ln"
    document["x-extra"] = 1
    found = checked(document, {}, workflow_id="other-1.0.0")
    assert not found.errors
    assert {problem.path for problem in found.warnings} == {
        "x-extra",
        "metadata.signature",
        "spec.safety.dry_run_required",
        "spec.monitoring.alerts",
        "metadata",
    }


def test_more_steps_than_their_state_can_be_kept_of_are_refused_at_once() -> None:
    too_many = errors(package(*(step(f"s{number}") for number in range(MAX_STEPS + 1))), {})
    assert too_many.keys() == {"spec.handlers"}
    assert str(MAX_STEPS) in too_many["spec.handlers"]

    needs = [f"{'n' * 100}{number}" for number in range(100)]
    names = [step(name) for name in needs]
    wide = errors(package(*names, *(step(f"w{number}", needs=needs) for number in range(50))), {})
    assert "shorter names or fewer needs" in wide["spec.handlers"]
    assert not errors(package(*(step(f"s{number}") for number in range(500))), {})


def test_what_is_told_of_problems_is_bounded_and_says_how_much_more_there_is() -> None:
    problems = [Problem(path="p" * 1000, message="m" * 3000) for _ in range(500)]
    told = answers.bounded(problems)
    assert sum(len(problem.path) + len(problem.message) for problem in told) <= answers.MAX_PROBLEM_TEXT + 100
    assert told[-1].message == f"and {500 - len(told) + 1} more"
    assert told[-1].severity == "error"
    few = [Problem(path="a", message="b", severity="warning")]
    assert answers.bounded(few) == tuple(few)
