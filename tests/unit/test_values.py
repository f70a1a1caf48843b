"""Placeholders: which value each name means, how values come into a configuration, and what is said of mistakes."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from consumer.errors import ConfigError
from consumer.workflow import values
from consumer.workflow.scope import UNKNOWN, ExecutionScope, Unknown, step_of

quick = settings(deadline=None, max_examples=100)
texts = st.text(st.sampled_from("a${}$ \n.é\"'\\"), max_size=12) | st.text(max_size=12)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(exclude_characters="$"), max_size=8)
documents = st.recursive(
    scalars | texts,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(names, below, max_size=4),
    max_leaves=12,
)


def scope(
    parameters: dict[str, JsonValue | Unknown] | None = None,
    outputs: dict[str, JsonValue | Unknown] | None = None,
    secrets: dict[str, str] | Unknown | None = None,
    environment: dict[str, str] | None = None,
) -> ExecutionScope:
    return ExecutionScope(
        parameters=parameters or {},
        execution_id="run-1",
        workflow="restart",
        attempt=2,
        outputs=outputs or {},
        secrets=secrets if isinstance(secrets, Unknown) else (secrets or {}).get,
        environment=environment or {},
    )


def message_of(found: ExecutionScope, expression: str) -> str:
    with pytest.raises(KeyError) as caught:
        found.lookup(expression)
    return str(caught.value.args[0])


def leaves(value: JsonValue) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in leaves(item)]
    if isinstance(value, list):
        return [text for item in value for text in leaves(item)]
    return [value] if isinstance(value, str) else []


def escaped(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return values.escape(value) if isinstance(value, str) else value


# --- names ---


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("namespace", "shop"),
        ("  namespace ", "shop"),
        ("parameters.namespace", "shop"),
        ("parameters.target.labels", {"app.kubernetes.io/name": "web"}),
        ('parameters.target.labels["app.kubernetes.io/name"]', "web"),
        ("target.labels['app.kubernetes.io/name']", "web"),
        ("parameters.pods[1].name", "b"),
        ("steps.check.output.replicas", 3),
        ("steps.check.output", {"replicas": 3, "zones": ["x", "y"]}),
        ("steps.check.output.zones[1]", "y"),
        ('steps["check"].output.replicas', 3),
        ("steps.check.it-2.output.body", None),
        ("execution.id", "run-1"),
        ("execution.workflow", "restart"),
        ("step.attempt", 2),
        ("secrets.db/password", "hunter2"),
    ],
)
def test_every_name_of_the_format_has_its_value(expression: str, value: JsonValue) -> None:
    found = scope(
        {
            "namespace": "shop",
            "pods": [{"name": "a"}, {"name": "b"}],
            "target": {"labels": {"app.kubernetes.io/name": "web"}},
        },
        {"check": {"replicas": 3, "zones": ["x", "y"]}, "check.it-2": {"body": None}},
        {"db/password": "hunter2"},
    )
    assert found.lookup(expression) == value


def test_an_upper_case_name_is_a_parameter_before_a_secret_before_a_variable() -> None:
    secrets, environment = {"A": "secret a", "B": "secret b"}, {"A": "env a", "B": "env b", "C": "env c"}
    found = scope({"A": "parameter a"}, None, secrets, environment)
    assert [found.lookup(name) for name in "ABC"] == ["parameter a", "secret b", "env c"]


def test_only_secrets_that_were_given_out_are_to_be_masked() -> None:
    found = scope({"A": "parameter"}, None, {"A": "unused", "B": "one", "C": "two", "D": "never"})
    found.lookup("A")
    found.lookup("B")
    found.lookup("secrets.C")
    assert found.revealed == {"B": "one", "C": "two"}
    assert "one" not in repr(found)


def test_a_step_name_with_dots_is_taken_at_its_longest() -> None:
    outputs: dict[str, JsonValue | Unknown] = {"a": {"x": 1}, "a.output": {"x": 2}, "a.b-c": {"x": 3}}
    found = scope(None, outputs)
    assert found.lookup("steps.a.output.x") == 1
    assert found.lookup("steps.a.output.output.x") == 2
    assert found.lookup("steps.a.b-c.output.x") == 3
    assert step_of("steps.a.b-c.output.x", outputs) == "a.b-c"
    assert step_of('steps["a"].output', outputs) == "a"
    assert step_of("steps.zzz.output", outputs) is None
    assert step_of("namespace", outputs) is None


def test_what_a_later_moment_tells_is_unknown_and_its_path_is_still_checked() -> None:
    found = scope({"later": UNKNOWN}, {"check": UNKNOWN}, UNKNOWN)
    for expression in ("later", "later.a[0]", "steps.check.output.a.b", "secrets.x", "UPPER"):
        assert found.lookup(expression) is UNKNOWN
    assert "is no path" in message_of(found, "steps.check.output..a")


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("namespce", 'did you mean "namespace"?; declared: check, namespace, pods'),
        ("parameters.namespce", 'no such parameter; did you mean "namespace"?'),
        ("steps.chek.output.a", 'no such step before this one; did you mean "check"?'),
        ("steps.check", "only the output can be named: ${steps.check.output}"),
        ("steps.check.status", "only the output can be named: ${steps.check.output}"),
        ("steps.skipped.output.a", 'the step "skipped" has no output'),
        ("steps.check.output.replica", 'did you mean "replicas"?'),
        ("pods[7]", "parameters.pods has 1 entries, so there is no [7]"),
        ("pods.0", "write [0] for an entry of a list"),
        ("namespace.a", "parameters.namespace is a text"),
        ("pods[0].a.b", "parameters.pods[0] is null"),
        ("secrets.nope", 'the agent has no secret "nope"'),
        ("NOPE", "no environment variable that is allowed"),
        ("execution.idd", 'did you mean "execution.id"?'),
        ("", "write $${ for the text ${ itself"),
    ],
)
def test_a_name_without_a_value_says_why_and_what_there_is(expression: str, part: str) -> None:
    found = scope({"namespace": "a", "pods": [None], "check": 1}, {"check": {"replicas": 1}, "skipped": None})
    message = message_of(found, expression)
    assert message.startswith(f"${{{expression}}} has no value: ")
    assert part in message


# --- substitution ---


def test_a_text_that_is_one_placeholder_keeps_the_type_and_a_longer_one_is_text() -> None:
    found = values.substitute(
        {
            "whole": ["${n}", "${list}", "${none}", "${yes}", "${text}"],
            "inside": ["n=${n}", "${list}!", "<${none}>", "-${yes}", "${text}${text}"],
        },
        scope({"n": 3, "list": [1, {"a": "é"}], "none": None, "yes": True, "text": "it's"}),
    )
    assert found.value == {
        "whole": [3, [1, {"a": "é"}], None, True, "it's"],
        "inside": ["n=3", '[1,{"a":"é"}]!', "<null>", "-true", "it'sit's"],
    }
    assert not found.problems
    assert not found.unknown


def test_a_value_that_looks_like_a_placeholder_is_not_looked_up_again() -> None:
    found = values.substitute(["${a}", "x${a}"], scope({"a": "${secrets.b}"}, None, {"b": "hunter2"}))
    assert found.value == ["${secrets.b}", "x${secrets.b}"]


def test_a_doubled_dollar_is_the_text_itself() -> None:
    found = values.substitute("a $${HOME} $$${x} $ {y} $$", scope())
    assert found.value == "a ${HOME} $${x} $ {y} $$"
    assert not found.problems


def test_every_missing_value_is_reported_at_once_with_its_path() -> None:
    config: JsonValue = {"url": "http://${hots}/${port}", "headers": {"X.Y": ["${nope}"]}, "ok": "${host}"}
    found = values.substitute(config, scope({"host": "h"}))
    assert [problem.path for problem in found.problems] == ["url", "url", 'headers["X.Y"][0]']
    assert 'did you mean "host"?; declared: host' in found.problems[0].message
    assert found.value == {"url": "http://${hots}/${port}", "headers": {"X.Y": ["${nope}"]}, "ok": "h"}
    assert not found.unknown


@pytest.mark.parametrize(
    ("text", "part"),
    [("echo ${a", "has no closing }"), ("${HOME:-/root}", "write $${ for the shell's own ${"), ("${}", "is empty")],
)
def test_a_malformed_placeholder_is_a_problem_with_the_remedy(text: str, part: str) -> None:
    found = values.substitute({"command": text}, scope())
    assert [problem.path for problem in found.problems] == ["command"]
    assert part in found.problems[0].message
    assert found.value == {"command": text}


def test_a_configuration_that_is_nested_without_end_is_a_problem() -> None:
    deep: JsonValue = "${a}"
    for _ in range(5000):
        deep = [deep]
    found = values.substitute({"deep": deep}, scope({"a": 1}))
    assert len(found.problems) == 1
    assert "nested more than" in found.problems[0].message
    assert len(list(values.expressions(deep))) == 1


def test_a_placeholder_in_the_name_of_a_field_is_refused() -> None:
    found = values.substitute({"labels": {"${app}": 1, "$${app}": 2}}, scope({"app": "a"}))
    assert [problem.path for problem in found.problems] == ["labels.${app}"]
    assert found.value == {"labels": {"${app}": 2}}


def test_unknown_and_sensitive_leaves_are_told_by_their_paths() -> None:
    config: JsonValue = {
        "a": ["${steps.s.output.x}", "-${steps.s.output.x}"],
        "b": "Bearer ${TOKEN}",
        "c": "${secrets.d}",
    }
    found = values.substitute(config, scope(None, {"s": UNKNOWN}, {"TOKEN": "t", "d": "e"}))
    assert found.unknown == {("a", 0), ("a", 1)}
    assert found.sensitive == {("b",), ("c",)}
    assert found.value == {**config, "b": "Bearer t", "c": "e"}


def test_expressions_are_listed_with_the_path_of_their_text() -> None:
    config: JsonValue = [{"url": "${ a }/$${b}"}, "${c.d} ${E}", 3, {"x.y": ["${secrets.f}", "${open"]}]
    assert list(values.expressions(config)) == [
        ("[0].url", "a"),
        ("[1]", "c.d"),
        ("[1]", "E"),
        ('[3]["x.y"][0]', "secrets.f"),
    ]
    assert values.secret_names(config) == {"E", "f"}


@quick
@given(documents)
def test_an_escaped_document_comes_back_as_it_was(document: JsonValue) -> None:
    found = values.substitute(escaped(document), scope())
    assert found.value == document
    assert not found.problems


@quick
@given(documents, st.lists(texts, min_size=1, max_size=4), st.booleans())
def test_text_around_placeholders_stays_and_no_placeholder_is_left(
    value: JsonValue, pieces: list[str], whole: bool
) -> None:
    template = "${v}" if whole else "${v}".join(values.escape(piece.replace("$", "")) for piece in [*pieces, "end"])
    found = values.substitute([template], scope({"v": value}))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    expected = value if whole else text.join(piece.replace("$", "") for piece in [*pieces, "end"])
    assert found.value == [expected]
    assert not found.problems


@quick
@given(documents)
def test_substitution_never_raises_and_reports_each_placeholder_it_leaves(document: JsonValue) -> None:
    found = values.substitute(document, scope())
    left = [text for text in leaves(document) if "${" in text.replace("$${", "")]
    assert bool(found.problems) == bool(left)


# --- models ---


class Labels(BaseModel):
    model_config = ConfigDict(extra="forbid")
    app: str


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")
    url: str = Field(default="http://a", pattern="^https?://")
    replicas: int | Literal["original"] = 1
    method: Literal["GET", "POST"] = "GET"
    labels: Labels | None = None


def test_binding_gives_the_model_with_values_in_their_types() -> None:
    bound = values.bind(Config, {"replicas": "${n}", "url": "http://${host}"}, scope({"n": 3, "host": "h"}))
    assert bound == Config(replicas=3, url="http://h")


def test_binding_reports_missing_values_before_it_asks_the_model() -> None:
    with pytest.raises(ConfigError) as caught:
        values.bind(Config, {"replicas": "${n}", "url": "${m}"}, scope())
    assert [problem.path for problem in caught.value.problems] == ["replicas", "url"]


def test_binding_reports_all_that_the_model_refuses() -> None:
    with pytest.raises(ConfigError) as caught:
        values.bind(Config, {"replicas": "${n}", "metod": "GET", "labels": {}}, scope({"n": "many"}))
    messages = {problem.path: problem.message for problem in caught.value.problems}
    assert messages == {
        "replicas": '"many" is no whole number, and none of: original',
        "metod": 'unknown field; did you mean "method"?',
        "labels.app": "required, but missing",
    }


def test_a_secret_is_never_shown_by_a_refusal() -> None:
    found = scope(None, None, {"TOKEN": "hunter2", "db": "hunter3"})
    with pytest.raises(ConfigError) as caught:
        values.bind(Config, {"url": "ftp://${TOKEN}", "method": "${secrets.db}"}, found)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter" not in f"{error} {error!r} {error.args}"
        error = error.__cause__
    assert {problem.path for problem in caught.value.problems} == {"url", "method"}


def test_binding_refuses_what_is_not_known_yet() -> None:
    with pytest.raises(ConfigError, match="replicas: the value is not known yet"):
        values.bind(Config, {"replicas": "${steps.s.output.n}"}, scope(None, {"s": UNKNOWN}))


def test_checking_passes_over_what_depends_on_unknown_values_only() -> None:
    config: dict[str, JsonValue] = {
        "replicas": "${steps.s.output.n}",
        "url": "${steps.s.output.url}",
        "method": "PUT",
        "labels": {"ap": "${steps.s.output.app}"},
    }
    found = values.check_config(Config, config, scope(None, {"s": UNKNOWN}))
    assert {problem.path: problem.message for problem in found} == {
        "method": '"PUT" is none of: GET or POST',
        "labels.app": "required, but missing",
        "labels.ap": 'unknown field; did you mean "app"?',
    }


def test_checking_says_of_a_missing_value_only_that_it_is_missing() -> None:
    found = values.check_config(Config, {"replicas": "${n}", "method": "${m}"}, scope())
    assert [problem.path for problem in found] == ["replicas", "method"]
    assert all("has no value" in problem.message for problem in found)


def test_a_parameter_that_is_not_given_yet_counts_as_unknown_in_a_configuration() -> None:
    config: dict[str, JsonValue] = {"replicas": UNKNOWN}  # type: ignore[dict-item]
    assert values.check_config(Config, config, scope()) == []
    assert values.substitute(config, scope()).unknown == {("replicas",)}


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]


class Home(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pet: Cat | Dog = Field(discriminator="kind")


def test_an_unknown_kind_of_a_union_is_not_held_against_the_configuration() -> None:
    found = scope(None, {"s": UNKNOWN})
    assert values.check_config(Home, {"pet": {"kind": "${steps.s.output.kind}"}}, found) == []
    problems = values.check_config(Home, {"pet": {"kind": "cat", "lives": 10}}, found)
    assert [str(problem) for problem in problems] == ["pet.lives: 10 is too large; the most is 9"]
    problems = values.check_config(Home, {"pet": {"kind": "cow"}}, found)
    assert [str(problem) for problem in problems] == ['pet: kind "cow" is none of: cat, dog']
