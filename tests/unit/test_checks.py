"""What can be said of a package before anything of it runs: everything at once, each with its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, JsonValue

from consumer.adapters.delay import DelayAdapter
from consumer.clock import SystemClock
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


EVIL = "^(a+)+$"
LONG = "a" * 40 + "!"


@pytest.mark.timeout(100)  # seconds; what holds an agent holds it for hours
@pytest.mark.parametrize(
    ("schema", "given"),
    [
        ({"properties": {"a": {"pattern": EVIL}}}, {"a": LONG}),
        ({"patternProperties": {EVIL: False}, "additionalProperties": False}, {LONG: 1}),
        ({"additionalProperties": False, "patternProperties": {EVIL: True}}, {LONG: 1}),
        ({"unevaluatedProperties": False, "patternProperties": {EVIL: True}}, {LONG: 1}),
        ({"allOf": [{"patternProperties": {EVIL: True}}], "unevaluatedProperties": False}, {LONG: 1}),
        (
            {
                "properties": {
                    "a": {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": EVIL},
                },
            },
            {"a": LONG},
        ),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"a": {"pattern": EVIL}}}, {"a": LONG}),
        (
            {
                "$schema": "https://json-schema.org/draft/2019-09/schema",
                "patternProperties": {EVIL: True},
                "unevaluatedProperties": False,
            },
            {LONG: 1},
        ),
        (
            {
                "$dynamicAnchor": "meta",
                "allOf": [{"$ref": "https://json-schema.org/draft/2020-12/schema"}],
                "properties": {"properties": {"additionalProperties": {"properties": {"a": {"pattern": EVIL}}}}},
            },
            {"properties": {"x": {"a": LONG}}},
        ),
        ({"properties": {"a": {"pattern": "(a{1000}){100}"}}}, {"a": "a" * 100_000}),
        ({"properties": {"a": {"pattern": "[^^](a{1000}){100}"}}}, {"a": "a" * 100_000}),
        ({"properties": {"a": {"pattern": "a" + "{999999999}" * 30_000}}}, {"a": "a"}),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"n": n} for n in range(20_000)]}),
        ({"allOf": [False] * 50_000}, {"a": "a" * 100_000}),
        ({"anyOf": [False] * 50_000}, {"a": "a" * 100_000}),
        (
            {
                "$ref": "#/$defs/d0",
                "$defs": {
                    **{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)},
                    "d40": {"properties": {"a": {"type": "integer"}}},
                },
            },
            {"a": 1},
        ),
    ],
    ids=[
        "a pattern",
        "names",
        "other names",
        "names that nothing looked at",
        "the same, deeper",
        "a dialect of its own inside",
        "an old dialect",
        "names in an old dialect",
        "by way of the metaschema",
        "a large pattern",
        "a large pattern after a class",
        "a pattern without end",
        "unlike entries",
        "a large value told often",
        "a large value told often, to nobody",
        "references that fan out",
    ],
)
def test_no_schema_holds_the_agent(schema: dict[str, Any], given: dict[str, Any]) -> None:
    found = errors(package(step("a"), parameters=schema), given)
    assert found
    assert all(path.startswith(("spec.parameters", "parameters")) for path in found), found


def test_patterns_are_searched_for_in_the_text_as_json_schema_says() -> None:
    schema = {
        "properties": {"host": {"type": "string", "pattern": r"web-\d+"}, "at": {"format": "date"}},
        "patternProperties": {"^n_": {"type": "integer"}},
        "additionalProperties": False,
    }
    document = package(step("a"), parameters=schema)
    assert not errors(document, {"host": "my-web-12.example", "n_a": 1, "at": "no date"}), "format is not checked"
    assert errors(document, {"host": "db-1", "n_a": "x", "other": 1}) == {
        "parameters.host": r'"db-1" does not match the pattern web-\d+',
        "parameters.n_a": "'x' is not of type 'integer'",
        "parameters": "Additional properties are not allowed: 'other' is unexpected and match none of the patterns ^n_",
    }
    name = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$"
    document = package(
        step("a"), parameters={"properties": {"a": {"items": {"pattern": name}}, "b": {"pattern": r"^\w{1,253}$"}}}
    )
    assert not errors(document, {"a": ["web.example.org"] * 1000, "b": "w" * 200})
    document["spec"]["parameters"]["properties"]["c"] = {"pattern": r"^[a-z-\d\\][-\w.]\\w$"}
    assert not errors(document, {"c": r"-.\w"})
    assert not errors(document, {"c": r"\_\w"})
    assert errors(document, {"a": ["-x"], "b": "ü"}).keys() == {"parameters.a[0]", "parameters.b"}


@pytest.mark.parametrize("pattern", ["^(?!no)", "(?<=a)b", r"(a)\1", "(", "(?x)a", r"[(-\w]"])
@pytest.mark.parametrize("parameters", [None, {}])
def test_a_pattern_that_takes_more_than_linear_time_is_refused_with_the_remedy(
    pattern: str, parameters: JsonObject | None
) -> None:
    schema = {"properties": {"a": {"pattern": pattern}, "b": {"patternProperties": {pattern: True}}}}
    for name, keyword in (("a", "pattern"), ("b", "patternProperties")):
        one = {"properties": {name: schema["properties"][name]}}
        found = errors(package(step("a"), parameters=one), parameters)
        assert found.keys() == {f"spec.parameters.properties.{name}.{keyword}"}
        (message,) = found.values()
        assert pattern in message
        assert "without look-ahead" in message or "leave it out" in message


@pytest.mark.timeout(100)
def test_names_are_suggested_only_as_long_as_that_is_cheap() -> None:
    steps = [step(f"{'ab' * 30}{number}") for number in range(200)]
    bad = [step(f"b{number}", when=f'steps["{"ba" * 30}{number}"].status == "x"') for number in range(200)]
    found = errors(package(*steps, *bad))
    assert sum(path.endswith(".when") for path in found) == 200
    few = errors(package(step("build"), *(step(f"x{n}", when='steps.biuld.status == "x"') for n in range(30))))
    assert sum("did you mean" in message for message in few.values()) == 20


def test_what_the_agent_does_not_do_is_said_as_a_warning() -> None:
    document = package(step("a"), safety={"dry_run_required": True}, monitoring={"alerts": [{"type": "slack"}]})
    document["metadata"]["signature"] = "c2ln"
    document["x-extra"] = 1
    found = checked(document, {}, workflow_id="other-1.0.0")
    assert not found.errors
    assert {problem.path for problem in found.warnings} == {
        "x-extra",
        "spec.safety.dry_run_required",
        "spec.monitoring.alerts[0]",
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


def test_what_is_wrong_in_the_structure_hides_nothing_else() -> None:
    document: dict[str, JsonValue] = {
        "metadata": {"name": "all-at-once", "nmae": "x"},
        "spec": {
            "parameters": {"type": "object", "properties": {"namespace": {"type": "string"}}},
            "handlers": [
                {"name": "one", "type": "delay", "config": {"duration": "1s"}, "timeout": "5 parsecs"},
                {"name": "two", "type": "delay", "config": {"duration": "${namespce}"}, "needs": ["onne"]},
                {"name": "three", "type": "dely", "config": {}, "retry": {"max_attempts": 0}},
            ],
        },
    }
    checked = check_package(document, None, {"delay": DelayAdapter(SystemClock())})
    assert checked.package is None
    told = {problem.path for problem in checked.problems}
    assert told >= {
        "metadata.nmae",
        "spec.handlers[0].timeout",
        "spec.handlers[1].needs[0]",
        "spec.handlers[1].config.duration",
        "spec.handlers[2].retry.max_attempts",
        "spec.handlers[2].type",
    }


@pytest.mark.parametrize(
    "document",
    [
        {"metadata": {"name": "x"}, "spec": {"handlers": "nothing"}},
        {"metadata": {"name": "NOT A LABEL"}, "spec": {"handlers": [{"name": "a", "type": "delay", "config": {}}]}},
        {"metadata": {"name": "x"}, "spec": {"parameters": 7, "handlers": [{"name": "a", "type": "no", "config": {}}]}},
        {"metadata": {"name": "x"}, "spec": {"handlers": [7, {"name": "a"}]}},
        {"metadata": 1, "spec": 2},
        {},
    ],
    ids=["no list", "no name", "no parameters", "no steps", "nothing right", "empty"],
)
def test_a_structure_that_can_not_be_looked_past_tells_its_own_problems(document: dict[str, JsonValue]) -> None:
    checked = check_package(document, {}, {"delay": DelayAdapter(SystemClock())})
    assert checked.package is None
    assert checked.errors
