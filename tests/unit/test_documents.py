"""Package texts: what they mean, what is refused and where, and that no text ends the process."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from consumer.workflow import documents
from consumer.workflow.documents import DocumentError
from schemas.failure import Problem

quick = settings(deadline=None, max_examples=100)
texts = (
    st.text(max_size=12)
    | st.from_regex(r"[-+0-9.eExobnyYNTf_:~]{1,6}", fullmatch=True)
    | st.sampled_from(
        [
            "yes",
            "no",
            "on",
            "Off",
            "null",
            "true",
            "~",
            "010",
            "1:30",
            "1e5",
            "<<",
            "=",
            "2024-01-15",
            ".inf",
            "NaN",
            "",
        ]
    )
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars, lambda below: st.lists(below, max_size=4) | st.dictionaries(texts, below, max_size=4), max_leaves=15
)


def refused(text: str | bytes) -> list[tuple[int | None, int | None, str]]:
    with pytest.raises(DocumentError) as caught:
        documents.parse(text)
    return [(problem.line, problem.column, str(problem)) for problem in caught.value.problems]


def same(left: JsonValue, right: JsonValue) -> bool:
    """Equal in value and in type: 1, 1.0 and true are three things."""
    return json.dumps(left) == json.dumps(right)


# --- meaning ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("12", 12),
        ("-0", 0),
        ("+7", 7),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("-1.", -1.0),
        (".5", 0.5),
        ("1.0e+5", 100000.0),
        ("9007199254740991", 9007199254740991),
        ("2024-01-15", "2024-01-15"),
        ("2024-01-15T10:00:00Z", "2024-01-15T10:00:00Z"),
        ("10.0.0.1", "10.0.0.1"),
        ("1.28+", "1.28+"),
        ("5s", "5s"),
        ("y", "y"),
        ("=", "="),
        ("'yes'", "yes"),
        ('"010"', "010"),
        ("|\n  yes\n", "yes\n"),
        ("{b: [1, {c: d}]}", {"b": [1, {"c": "d"}]}),
    ],
)
def test_a_scalar_means_what_every_reader_takes_it_for(text: str, value: JsonValue) -> None:
    found = documents.parse(f"a: {text}").value
    assert same(found, {"a": value})


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "No",
        "ON",
        "off",
        "010",
        "-07",
        "0o7",
        "0b11",
        "1_000",
        "0x1_F",
        "1:30",
        "190:20:30.15",
        "1e5",
        "1.5e3",
        "+.5",
    ],
)
def test_what_readers_take_for_different_things_is_refused_with_the_remedy(text: str) -> None:
    [(line, column, message)] = refused(f"x: 1\na:\n  - {text}\n")
    assert (line, column) == (3, 5)
    assert message.startswith(f"a[0]: {text} is ")
    assert f'"{text}"' in message
    assert documents.parse(f"a: '{text}'").value == {"a": text}


@pytest.mark.parametrize("text", [".nan", ".inf", "-.Inf", "NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(text: str) -> None:
    assert "is no number that JSON has" in refused(f"a: {text}")[0][2]
    assert "is no number that JSON has" in refused(f'{{"a": {text}}}')[0][2]


@pytest.mark.parametrize("text", ["9007199254740992", "-9007199254740992", "0x20000000000000", "9" * 5000])
def test_whole_numbers_that_json_readers_round_are_refused(text: str) -> None:
    assert "beyond 2^53" in refused(f"a: {text}")[0][2]
    assert "put it in quotes" in refused(f"[{text}]")[0][2]


def test_names_like_on_and_yes_are_texts() -> None:
    assert documents.parse("on: 1\nyes: 2\ny: 3\n").value == {"on": 1, "yes": 2, "y": 3}


@quick
@given(values)
def test_every_json_text_comes_back_as_it_was(value: JsonValue) -> None:
    for text in (json.dumps([value]), json.dumps([value], ensure_ascii=False, indent=2)):
        assert same(documents.parse(text).value, [value])
        assert same(documents.parse(text.encode()).value, [value])


@quick
@given(values, st.booleans())
def test_a_dumped_value_comes_back_as_it_was_or_is_refused_but_never_as_another(value: JsonValue, flow: bool) -> None:
    # The name keeps the text from being JSON by chance, where 0E0 is a number without doubt.
    text = yaml.safe_dump({"it": value}, default_flow_style=flow, allow_unicode=True, sort_keys=False)
    try:
        found = documents.parse(text).value
    except DocumentError as error:
        # The dumper leaves texts bare that only its own YAML 1.1 takes for texts: 1e5, 0o7, NaN; and U+2028, U+FEFF.
        said = ("differently", "no number that JSON has", "name in quotes", "beyond 2^53", "no YAML", "ends a line")
        assert all(any(part in problem.message for part in said) for problem in error.problems)
    else:
        assert same(found, {"it": value})


@quick
@given(st.text(st.sampled_from("[]{}:,-?&*!|>'\"%@`# \n\tab1~<=.\\"), max_size=40))
def test_any_text_is_read_or_refused_with_a_problem(text: str) -> None:
    try:
        found = documents.parse(text)
    except DocumentError as error:
        assert error.problems
        assert all(problem.message for problem in error.problems)
    else:
        json.dumps(found.value, allow_nan=False)


# --- refusals ---


@pytest.mark.parametrize(
    ("text", "place", "part"),
    [
        ("a: 1\nb: 2\na: 3\n", (3, 1), 'a: "a" is here for the second time (the first is in line 1)'),
        ('{"a": {"b": 1,\n "b": 2}}', (2, 2), 'a.b: "b" is here for the second time'),
        ("a:\n  1: x\n", (2, 3), 'a.1: 1 is no text; write the name in quotes: "1"'),
        ("null: x", (1, 1), "null is no text"),
        ("010: x", (1, 1), "010 is no text"),
        ("? [a]\n: 1\n", (1, 3), "the name of a field must be a text"),
        ("a: !!python/object:os.system x", (1, 4), "a: !!python/object:os.system is a tag"),
        ("a: !!str 1", (1, 4), "a: !!str is a tag"),
        ("a: !custom {b: 1}", (1, 4), "a: !custom is a tag"),
        ("a: &x 1\n", (1, 4), "a: &x is an anchor"),
        ("a: [1, *x]\n", (1, 8), "a[1]: *x is an alias"),
        ("a:\n  <<: {b: 1}\n", (2, 3), "<< merges another mapping"),
        ("a: 1\n---\nb: 2\n", (2, 1), "a second document begins here"),
        ("a: b: c\n", (1, 5), "put a text with a colon in quotes"),
        ("a:\n\tb: 1\n", (2, 1), "indent with spaces, not tabs"),
        ("", (1, 1), "it is empty"),
        ("# only a comment\n", (1, 1), "it is empty"),
        ('{"a": 1', None, "it is no YAML"),
        ("a: 1\n# b\u2028c: 1\n", (2, 4), "U+2028 ends a line for some YAML readers"),
        ("a: 'b\x85c'", (1, 6), 'write it as "\\u0085" in double quotes'),
    ],
)
def test_a_text_that_is_no_package_is_refused_with_the_place(
    text: str, place: tuple[int, int] | None, part: str
) -> None:
    found = refused(text)
    assert len(found) == 1
    line, column, message = found[0]
    assert part in message
    assert place is None or (line, column) == place


def test_all_problems_of_a_text_are_told_at_once() -> None:
    found = refused("a: yes\nb:\n  c: 010\n  c: !x 1\nd: *e\n")
    assert [(line, column) for line, column, _ in found] == [(1, 4), (3, 6), (4, 3), (4, 6), (5, 4)]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "- " * 100_000, "[" * 65 + "]" * 65])
def test_deep_nesting_is_refused_before_it_is_followed(text: str) -> None:
    assert "nested more than 64 levels deep" in refused(text)[0][2]


def test_nesting_up_to_the_limit_is_read() -> None:
    for inside in ("", "1"):
        text = "[" * 64 + inside + "]" * 64
        assert documents.parse(text).value == json.loads(text)
        assert documents.parse("# no JSON\n" + text).value == json.loads(text)


def test_a_text_that_is_too_large_is_refused_unread() -> None:
    assert documents.parse("a" * 100, max_bytes=100).value == "a" * 100
    with pytest.raises(DocumentError, match="it has 101 bytes; at most 100 are allowed"):
        documents.parse("a" * 101, max_bytes=100)
    with pytest.raises(DocumentError, match="102 bytes"):
        documents.parse("é" * 51, max_bytes=100)


def test_too_many_values_are_refused() -> None:
    text = "[" + "1," * documents.MAX_VALUES + "1]"
    assert "values" in refused(text)[0][2]


@pytest.mark.parametrize("text", [b"a: \xff", "a: \ud800", b"\xfe\xff\x00a"])
def test_what_is_no_utf_8_is_refused(text: str | bytes) -> None:
    assert "UTF-8" in refused(text)[0][2]


def test_bytes_with_a_byte_order_mark_are_read() -> None:
    assert documents.parse(b"\xef\xbb\xbfa: \xc3\xa9").value == {"a": "é"}


def test_json_escapes_of_characters_beyond_the_basic_plane_are_read() -> None:
    assert documents.parse('{"a": "\\ud83d\\ude00"}').value == {"a": "\U0001f600"}
    assert refused('{"a": "\\ud83d"}')


def test_what_ends_a_line_only_in_yaml_may_stand_in_a_json_text() -> None:
    assert documents.parse('{"a": "b\u2028\x85c"}').value == {"a": "b\u2028\x85c"}
    assert documents.parse('a: "\\u2028"').value == {"a": "\u2028"}


def test_the_message_of_the_error_holds_the_places() -> None:
    with pytest.raises(DocumentError, match=r"line 2, column 4: b: no is false"):
        documents.parse("a: 1\nb: no")


# --- positions ---

PACKAGE = """\
metadata:
  name: restart
spec:
  handlers:
    - name: first
      needs: [a, b]
    -
      name: second
      config: {"x.y": 1}
  monitorng:
    alerts: []
"""


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("metadata.name", (2, 9)),
        ("spec.handlers[0].needs[1]", (6, 18)),
        ("spec.handlers[1].name", (8, 13)),
        ('spec.handlers[1].config["x.y"]', (9, 23)),
        ("spec.monitorng", (10, 3)),
        ("spec.handlers[1].timeout.deeper", (8, 7)),
        ("spec.handlers[9]", (4, 3)),
        ("nothing", (1, 1)),
        ("", (1, 1)),
    ],
)
def test_a_problem_is_located_at_its_value_or_at_what_holds_it(path: str, place: tuple[int, int]) -> None:
    document = documents.parse(PACKAGE)
    found = documents.locate(Problem(path=path, message="m"), document.positions)
    assert (found.line, found.column) == place
    assert (found.path, found.message) == (path, "m")


def test_places_in_a_json_text_are_known_too() -> None:
    document = documents.parse('{"a": [1,\n  {"b": 1e5,\n "c": "\\u00e9"}]}')
    assert document.positions.find(("a", 1, "b")) == (2, 9)
    assert document.positions.find(("a", 1, "c")) == (3, 7)
