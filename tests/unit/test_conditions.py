"""Conditions in CEL: what they see, what they say when they can't be told, and that none runs for long."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from consumer.workflow import conditions, cost, reading
from consumer.workflow.conditions import ConditionError, compile_condition

PODS: list[JsonValue] = [
    {"name": "web-1", "phase": "Running", "containers": [{"ready": True}, {"ready": True}]},
    {"name": "web-2", "phase": "Pending", "containers": [{"ready": True}, {"ready": False}]},
]
VARIABLES: dict[str, JsonValue] = {
    "parameters": {"namespace": "shop", "limit": 3, "ratio": 0.5, "none": None},
    "steps": {
        "check": {"status": "succeeded", "output": {"replicas": 2, "pods": PODS}},
        "scale-up.1": {"status": "skipped"},
    },
    "execution": {"id": "run-1"},
}


def holds(text: str, variables: dict[str, JsonValue] | None = None) -> bool:
    return compile_condition(text).evaluate(VARIABLES if variables is None else variables)


@pytest.mark.parametrize(
    "text",
    [
        "steps.check.output.replicas < 3",
        'steps["check"].output.replicas == 2.0',
        'parameters.namespace == "shop" && parameters.limit >= 3',
        "parameters.namespace in ['shop', 'bank']",
        "parameters.none == null",
        'steps["scale-up.1"].status == "skipped"',
        'has(steps.check.output) && !has(steps["scale-up.1"].output)',
        'has(steps["scale-up.1"].output) ? steps["scale-up.1"].output.x > 1 : true',
        'steps.check.output.pods.exists(p, p.phase == "Pending")',
        "steps.check.output.pods.exists(p, p.containers.exists(c, !c.ready))",
        "!steps.check.output.pods.all(p, p.containers.all(c, c.ready))",
        'steps.check.output.pods.exists_one(p, p.name == "web-1")',
        'size(steps.check.output.pods.filter(p, p.phase == "Running")) == 1',
        'steps.exists(name, steps[name].status == "skipped")',
        'steps.check.output.pods[1].name.matches("^web-[0-9]+$")',
        'parameters.namespace.startsWith("sh") && parameters.namespace.contains("ho")',
        "size(parameters.namespace) == 4",
        "double(parameters.limit) * parameters.ratio == 1.5",
        'timestamp("2026-01-01T00:00:00Z").getFullYear() == 2026',
        "true // with a comment",
        r'"a\"b" == r"""a"b"""',
    ],
)
def test_a_condition_sees_parameters_steps_and_the_execution(text: str) -> None:
    assert holds(text)
    assert not holds(f"!(\n{text}\n)")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("1 +", "column 4: mismatched input the end"),
        ("true &&\n&& true", "line 2, column"),
        ('"abc', "column 1: a text without its closing quote"),
        ("a ; b", 'column 3: ";" can\'t stand here'),
        pytest.param("true" + " || true" * 600, "at most 4096 are allowed", id="too long"),
        pytest.param("||".join(["true"] * 300), "more than 512 names", id="too many tokens"),
        pytest.param("(" * 120 + "true" + ")" * 120, "nested too deeply", id="too deep"),
        ("siz(parameters) > 1", 'there is no function "siz"; did you mean "size"?'),
        ("parameters.map(x, x) == []", "map(…) is not allowed in a condition; ask with exists(…)"),
        ("a.all(x, x.all(y, y.all(z, z)))", "macros nest at most 2 deep"),
        ("a.filter(x, x.all(y, y)) == []", "a filter can neither hold another macro nor stand in one"),
        ("a.all(x, x.filter(y, y) == [])", "a filter can neither hold another macro nor stand in one"),
        ("a.matches(b)", "write matches with a literal pattern"),
        ('matches(a, "x")', "write matches with a literal pattern"),
        ('a.matches("(x{99}){99}")', "the pattern of matches is too large"),
    ],
)
def test_what_is_no_condition_is_refused_before_anything_runs(text: str, part: str) -> None:
    with pytest.raises(ConditionError) as caught:
        compile_condition(text)
    assert part in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("steps.check.output.replicas", "it gives a number, not true or false; compare it with something"),
        ("parameters.none", "it gives null"),
        ("[true]", "it gives a list"),
        ('"true"', "it gives a text"),
        ("steps.chek.output.replicas < 3", 'there is no key "chek"; guard it with has(…)'),
        ("parameter.limit > 1", 'there is no "parameter" here; did you mean "parameters"?'),
        ("false && limit > 1", 'there is no "limit" here'),
        ("parameters.limit / 0 == 1", "it divides by zero"),
        ("parameters.namespace > 1", "no such overload"),
        ("steps.check.output.pods[7].name == ''", "index out of bounds: 7"),
        ("size(parameters.limit) > 1", '"size" is not defined for values of these types'),
        ("parameters.limit + 9223372036854775807 > 0", "overflow"),
        ('parameters.namespace.matches("[")', "not a valid regex"),
    ],
)
def test_a_condition_that_can_not_be_told_says_why(text: str, part: str) -> None:
    with pytest.raises(ConditionError) as caught:
        holds(text)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_condition_tells_the_steps_that_it_mentions() -> None:
    text = 'steps.check.output.a == 1 && (steps["scale-up.1"].status == "x" || has(steps.third.output))'
    condition = compile_condition(text)
    assert condition.steps == {"check", "scale-up.1", "third"}
    assert condition.roots == {"steps"}
    assert condition.depends_on_steps
    assert conditions.names(text) == condition.steps


def test_steps_whose_names_are_computed_are_not_mentioned_but_depended_on() -> None:
    condition = compile_condition("parameters.list.all(steps, steps > 1) && size(execution.id) > 1")
    assert condition.roots == {"parameters", "execution"}
    assert not condition.depends_on_steps
    condition = compile_condition("steps.all(s, steps[s].status == parameters.steps)")
    assert condition.steps == frozenset()
    assert condition.depends_on_steps
    assert compile_condition('"steps.hidden" == "x" // steps.other').steps == frozenset()


def test_an_answer_of_a_server_can_be_asked_about() -> None:
    answer: dict[str, JsonValue] = {"status": 200, "headers": {"content-type": "text/plain"}, "body": {"ok": True}}
    assert holds('status == 200 && headers["content-type"].startsWith("text/") && body.ok', answer)
    assert not holds("has(body.items)", answer)


# --- bounds ---

MANY: dict[str, JsonValue] = {
    "list": list(range(1000)),
    "table": {f"k{i}": "v" * 50 for i in range(5000)},
    "text": "x" * 200_000,
    "pods": [{"name": f"p{i}", "labels": {f"l{j}": "v" * 20 for j in range(20)}} for i in range(2000)],
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("size(pods.filter(p, p.name != '')) > 0", "filter over"),
        ("list.all(x, list.all(y, table == {}))", "all over"),
        ("list.all(x, pods == table && table == pods)", "all over"),
        ('pods.all(p, p.name.matches("^[a-z0-9]{1,60}$"))', "all over"),
        ('text.matches("(x{1,10}){1,10}y")', "matches over 200000 characters"),
        pytest.param(f"size({'+'.join(['pods'] * 100)}) > 0", "adds", id="sum"),
    ],
)
def test_a_condition_that_would_run_long_on_these_values_is_refused_at_once(text: str, part: str) -> None:
    with pytest.raises(ConditionError) as caught:
        holds(text, MANY)
    assert "it could take" in str(caught.value)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'pods.all(p, p.name != "q")',
        "pods.exists(p, p.labels.exists(k, k == 'l19'))",
        "size(list.filter(x, x > 10)) == 989",
        'text.matches("^x+$")',
        "size(table) == 5000 && size(text) == 200000",
    ],
)
def test_a_plain_condition_over_thousands_of_values_is_told(text: str) -> None:
    assert holds(text, MANY)


def test_only_the_data_that_is_used_counts() -> None:
    output: JsonValue = {"few": [1, 2], "many": MANY["pods"]}
    variables: dict[str, JsonValue] = {"steps": {"a": {"output": output}, "b": {"output": MANY}}}
    assert holds("size(steps.a.output.few.filter(x, x > 1)) == 1", variables)
    with pytest.raises(ConditionError, match="it could take"):
        holds("size(steps.a.output.many.filter(x, x.name != '')) == 1", variables)


def test_values_nested_too_deeply_are_refused() -> None:
    deep: JsonValue = 1
    for _ in range(1000):
        deep = [deep]
    with pytest.raises(ConditionError, match="nested more than"):
        holds("size(deep) == 1", {"deep": deep})
    assert holds("other == 1", {"deep": deep, "other": 1})


def test_measuring_counts_values_texts_and_widths() -> None:
    size = cost.measure({"a": {"bc": ["defg", 1, None]}, "h": "ij"})
    assert size == cost.Size(nodes=6, text=8, widest=3, longest=4, depth=2)


names = st.sampled_from(["a", "b", "c"])
data = st.recursive(
    st.integers(0, 3) | st.text("xy", max_size=3),
    lambda below: st.dictionaries(names, below, max_size=3) | st.lists(below, max_size=3),
    max_leaves=10,
)
chains = st.lists(st.lists(names, min_size=1, max_size=4).map(tuple), min_size=1, max_size=5)


def follow(value: JsonValue, chain: tuple[str, ...]) -> JsonValue:
    for name in chain:
        if not isinstance(value, dict) or name not in value:
            return "nothing"
        value = value[name]
    return value


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(names, data), chains)
def test_pruning_keeps_all_that_is_named(variables: dict[str, JsonValue], used: list[tuple[str, ...]]) -> None:
    kept = reading.prune(variables, used)
    for chain in used:
        assert follow(dict(kept), chain) == follow(dict(variables), chain)


@settings(deadline=None, max_examples=100)
@given(st.text(st.sampled_from("abx.\"'()[]{},:?!&|=<>+-*/% 12\\rn\n$"), max_size=30))
def test_any_text_is_compiled_or_refused(text: str) -> None:
    try:
        compile_condition(text)
    except ConditionError as error:
        assert str(error)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=12))
def test_a_text_literal_is_read_as_the_library_reads_it(text: str) -> None:
    literal = '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in text) + '"'
    assert holds(f"{literal} == value", {"value": text})
