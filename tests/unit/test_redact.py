"""Masking: whatever form a secret comes out in, it does not come out."""

from __future__ import annotations

import base64
import json
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
