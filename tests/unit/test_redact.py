"""Masking: whatever form a secret comes out in, it does not come out."""

from __future__ import annotations

import base64
import html
import json
import re
import string
import time
from random import Random
from unittest.mock import patch
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from consumer.policy import anchors
from consumer.policy.forms import forms_of
from consumer.policy.redact import MASK, Redactor

SECRET = 'pa55 "w/rd+ü'

texts = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=40)
secrets = st.text(alphabet=st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=8, max_size=30)


def test_a_value_is_masked_wherever_it_stands() -> None:
    redactor = Redactor(["hunter2"])
    assert redactor.mask("hunter2") == MASK
    assert redactor.mask("a hunter2, b hunter2hunter2!") == "a ***, b ******!"
    assert redactor.mask("nothing to hide") == "nothing to hide"


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(SECRET, id="plain"),
        pytest.param(quote(SECRET, safe=""), id="in a URL"),
        pytest.param(quote_plus(SECRET), id="in a form"),
        pytest.param(json.dumps(SECRET), id="in JSON"),
        pytest.param(json.dumps(SECRET, ensure_ascii=False), id="in JSON with umlauts"),
        pytest.param(base64.b64encode(SECRET.encode()).decode(), id="base64"),
        pytest.param(base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("="), id="base64url"),
    ],
)
def test_an_encoded_value_is_masked(form: str) -> None:
    masked = Redactor([SECRET]).mask(f"before {form} after")
    assert masked in (f"before {MASK} after", f'before "{MASK}" after')


@pytest.mark.parametrize("user", ["", "a", "ab", "abc", "abcd"])
def test_a_value_inside_of_a_basic_header_is_masked_at_any_alignment(user: str) -> None:
    header = base64.b64encode(f"{user}:hunter2hunter2".encode()).decode()
    masked = Redactor(["hunter2hunter2"]).mask(f"Authorization: Basic {header}")
    assert MASK in masked
    rest = masked.removeprefix("Authorization: Basic ").split(MASK)
    assert len("".join(rest)) <= len(user) * 2 + 6


def test_values_that_overlap_leave_nothing_of_either() -> None:
    assert Redactor(["abcdef", "defghi"]).mask("-abcdefghi-") == "-***-"
    assert Redactor(["abcd", "abcdefgh"]).mask("-abcdefgh-abcd-") == "-***-***-"


def test_each_line_of_a_value_of_several_lines_is_masked() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0B\nend\n-----END KEY-----\n"
    redactor = Redactor([key])
    assert redactor.mask("MIIEvQIBADANBgkq") == MASK
    assert redactor.mask("  hkiG9w0B") == "  ***"
    assert redactor.mask(f"key: {key}") == "key: ***"
    assert redactor.mask(json.dumps({"key": key})) == '{"key": "***"}'
    assert redactor.mask("the end") == "the end", "a short line is found by chance"


def test_a_value_is_masked_without_its_last_line_break_too() -> None:
    assert Redactor(["hunter2\n"]).mask("password=hunter2;") == "password=***;"


def test_a_value_that_is_too_short_is_left() -> None:
    redactor = Redactor(["no", "", "1"])
    assert redactor.mask("no 1") == "no 1"


def test_json_is_masked_with_its_names_and_numbers() -> None:
    redactor = Redactor(["hunter2", "12345678"])
    value = {"a": ["hunter2", 12345678, 5, True, None, 1.5], "hunter2": {"x": "y"}, "b": "1234567890"}
    assert redactor.mask_json(value) == {
        "a": [MASK, MASK, 5, True, None, 1.5],
        MASK: {"x": "y"},
        "b": "***90",
    }
    assert value["a"] == ["hunter2", 12345678, 5, True, None, 1.5], "the value itself stays"


@pytest.mark.parametrize("value", [[1234, 1234.0], [1234.0, 1234]])
def test_a_number_is_masked_though_an_equal_one_that_is_written_otherwise_stands_beside_it(value: JsonValue) -> None:
    assert Redactor(["1234"]).mask_json(value) == [MASK, MASK]


def test_names_that_become_the_same_stay_apart() -> None:
    assert Redactor(["first", "second"]).mask_json({"first": 1, "second": 2}) == {MASK: 1, f"{MASK}(2)": 2}


def test_without_secrets_everything_stays() -> None:
    redactor = Redactor([])
    assert redactor.mask("text") == "text"
    assert redactor.mask_json({"a": [1]}) == {"a": [1]}


@given(texts, secrets, texts)
def test_no_form_of_a_secret_survives_in_any_text(before: str, secret: str, after: str) -> None:
    redactor = Redactor([secret])
    encoded = base64.b64encode(secret.encode()).decode()
    for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], encoded):
        masked = redactor.mask(before + form + after)
        assert MASK in masked
        assert secret not in masked.replace(MASK, " ")


@given(st.lists(secrets, min_size=1, max_size=5), texts)
def test_a_masked_text_is_masked_for_good(values: list[str], text: str) -> None:
    redactor = Redactor(values)
    once = redactor.mask(text + "".join(values))
    assert not any(value in once for value in values if "*" not in value)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(quote(SECRET, safe="").lower(), id="in a URL, small letters"),
        pytest.param(json.dumps(json.dumps(SECRET))[3:-3], id="in a JSON text inside of a JSON text"),
        pytest.param(SECRET.replace('"', '\\"').replace("/", "\\/"), id="in JSON with escaped slashes"),
        pytest.param(html.escape(SECRET), id="in HTML"),
        pytest.param(SECRET.replace('"', "&#34;"), id="in HTML as Go writes it"),
        pytest.param(SECRET.encode().hex(), id="in hex"),
    ],
)
def test_a_value_written_for_another_reader_is_masked(form: str) -> None:
    assert Redactor([SECRET]).mask(f"before {form} after") == f"before {MASK} after"


def test_what_gos_json_escapes_is_masked() -> None:
    assert Redactor(["a<b>&cdef"]).mask(r"x a\u003cb\u003e\u0026cdef y") == f"x {MASK} y"


def test_a_shells_trace_of_a_value_with_quotes_is_masked() -> None:
    redactor = Redactor(["it's hidden"])
    assert redactor.mask("+ : 'it'\"'\"'s hidden'") == f"+ : '{MASK}'"
    assert redactor.mask("+ : 'it'\\''s hidden'") == f"+ : '{MASK}'"


@pytest.mark.parametrize("width", [64, 76])
def test_each_line_of_a_long_values_base64_is_masked(width: int) -> None:
    secret = "".join(f"{number}x" for number in range(80))
    encoded = base64.b64encode(secret.encode()).decode()
    for start in range(0, len(encoded) - 8, width):
        assert Redactor([secret]).mask(encoded[start : start + width]) == MASK


@pytest.mark.parametrize("kept", range(4, 40))
def test_the_beginning_of_a_value_before_a_cut_is_masked(kept: int) -> None:
    secret = "0123456789abcdefghijklmnopqrstuvwxyzABCD"
    assert Redactor([secret]).mask(f"said {secret[:kept]}… (cut)") == f"said {MASK}… (cut)"
    assert Redactor([secret]).mask(f"said {secret[:kept]} … [line cut]") == f"said {MASK} … [line cut]"


@pytest.mark.parametrize("kept", range(4, 40))
def test_the_end_of_a_value_behind_a_cut_is_masked(kept: int) -> None:
    secret = "0123456789abcdefghijklmnopqrstuvwxyzABCD"
    text = f"a\n… [9 bytes left out] …\n{secret[-kept:]} b"
    assert Redactor([secret]).mask(text) == f"a\n… [9 bytes left out] …\n{MASK} b"


def test_the_end_of_a_long_text_counts_as_a_cut() -> None:
    assert Redactor(["hunter2hunter2"]).mask("x" * 2000 + "hunter2h") == "x" * 2000 + MASK
    assert Redactor(["hunter2hunter2"]).mask("the hunter2h") == "the hunter2h", "a short text was not cut"


def test_half_a_value_is_masked_in_an_error_and_left_in_what_others_go_on_with() -> None:
    redactor = Redactor(["production-password"])
    assert redactor.mask_error('"production-pas" is no name') == f'"{MASK}" is no name'
    assert redactor.mask_error('"product" is no name') == '"product" is no name'
    assert redactor.mask_json("production-pas") == "production-pas"


def test_a_text_full_of_cuts_costs_little() -> None:
    secret = "abcd" * 200
    began = time.process_time()
    Redactor([secret]).mask("abcd…" * 20_000)
    assert time.process_time() - began < 5, "the work must not grow with cuts, forms and lengths all at once"


# What a search for each form one by one finds: slow, but plain.


def _plainly(values: list[str], text: str, *, error: bool = False) -> str:
    forms = {form for value in values for form in forms_of(value)}
    spans = [(at, at + len(form)) for form in forms for at in range(len(text)) if text.startswith(form, at)]
    for form in forms:
        spans += _at_cuts(form, text)
        spans += _halves(form, text) if error else []
    hidden = {at for span in spans for at in range(*span)}
    return "".join("\0" if at in hidden else character for at, character in enumerate(text))


def _at_cuts(form: str, text: str) -> list[tuple[int, int]]:
    befores = [match.start() for match in re.finditer(r"\s{0,8}…", text)] + [len(text)] * (len(text) >= 1024)
    afters = [match.end() for match in re.finditer(r"…\s{0,8}", text)]
    sizes = range(4, len(form) + 1)
    return [(end - n, end) for end in befores for n in sizes if end >= n and text[end - n : end] == form[:n]] + [
        (begin, begin + n) for begin in afters for n in sizes if text[begin : begin + n] == form[-n:]
    ]


def _halves(form: str, text: str) -> list[tuple[int, int]]:
    least = max(8, (len(form) + 1) // 2)
    sizes = range(least, len(form))
    return [(at, at + n) for at in range(len(text)) for n in sizes if text[at : at + n] == form[:n]]


def _blotted(masked: str, text: str) -> bool:
    """Whether the masked text is this one with each run of hidden characters as one mask or several."""
    pattern = "".join("(?:\\*\\*\\*)+" if run[0] == "\0" else re.escape(run) for run in re.findall("\0+|[^\0]+", text))
    return re.fullmatch(pattern, masked) is not None


#: Few characters, so that pieces repeat, overlap and are found by chance.
_similar = st.text(alphabet="ab+\n", min_size=4, max_size=50)


@st.composite
def _showing(draw: st.DrawFn) -> tuple[list[str], str]:
    values = draw(st.lists(_similar, min_size=1, max_size=3))
    forms = sorted({form for value in values for form in forms_of(value)})
    pieces = []
    for _ in range(draw(st.integers(1, 6))):
        form = draw(st.sampled_from(forms or values))
        piece = st.sampled_from([form, form[: len(form) // 2 + 1], form[len(form) // 2 :], form[:4], "…", " … ", "a"])
        pieces.append(draw(piece))
    return values, draw(st.sampled_from(["", "x" * 1024])) + "".join(pieces)


@pytest.mark.parametrize("few", [0, 1000], ids=["looked at in steps", "looked for one by one"])
@settings(max_examples=25)
@given(_showing())
def test_all_that_a_search_for_each_form_finds_is_masked_and_nothing_else(
    few: int, shown: tuple[list[str], str]
) -> None:
    values, text = shown
    redactor = Redactor(values)
    with patch.object(anchors, "_FEW", few):
        _same(redactor, values, text)


def _same(redactor: Redactor, values: list[str], text: str) -> None:
    assert _blotted(redactor.mask(text), _plainly(values, text))
    assert _blotted(redactor.mask_error(text), _plainly(values, text, error=True))


@settings(max_examples=25)
@given(st.lists(_showing(), min_size=1, max_size=4))
def test_json_is_masked_as_its_texts_are(shown: list[tuple[list[str], str]]) -> None:
    redactor = Redactor([value for values, _ in shown for value in values])
    texts = [text for _, text in shown]
    assert redactor.mask_json([texts, {"a": texts}]) == [
        [redactor.mask(text) for text in texts],
        {"a": [redactor.mask(text) for text in texts]},
    ]


def test_a_private_keys_thousand_forms_cost_a_megabyte_little_time() -> None:
    draw = Random(1)
    lines = ["".join(draw.choices(string.ascii_letters + string.digits, k=64)) for _ in range(50)]
    redactor = Redactor(["\n".join(["-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----"])])
    words = ["".join(draw.choices(string.ascii_letters, k=6)) for _ in range(500)]
    value: JsonValue = [
        " ".join(draw.choices(words, k=50_000)),
        [f"{first} {second}" for first in words[:300] for second in words[:300]],
        [f"{draw.choice(words)} {lines[7]}"],
    ]
    began = time.process_time()
    masked = redactor.mask_json(value)
    assert time.process_time() - began < 2, "to look for each form by itself takes ten times as long"
    assert lines[7] not in json.dumps(masked)
