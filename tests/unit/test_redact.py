"""Masking: whatever form a secret comes out in, it does not come out."""

from __future__ import annotations

import base64
import html
import json
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize("kept", range(4, 16))
def test_the_beginning_of_a_value_before_a_cut_is_masked(kept: int) -> None:
    secret = "0123456789abcdef"
    assert Redactor([secret]).mask(f"said {secret[:kept]}… (cut)") == f"said {MASK}… (cut)"
    assert Redactor([secret]).mask(f"said {secret[:kept]} … [line cut]") == f"said {MASK} … [line cut]"


@pytest.mark.parametrize("kept", range(4, 16))
def test_the_end_of_a_value_behind_a_cut_is_masked(kept: int) -> None:
    secret = "0123456789abcdef"
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
