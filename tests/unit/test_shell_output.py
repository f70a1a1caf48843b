"""What a command prints, cut to what memory and readers can bear, and read as the step says."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.adapters.shell.output import CUT_MARK, Kept, Lines
from consumer.adapters.shell.parsing import parse_output


def chunks_of(raw: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[start:end] for start, end in itertools.pairwise(places)]


@settings(max_examples=100, deadline=None)
@given(
    raw=st.lists(st.sampled_from([b"a", b"\n", b"\r", "ü".encode(), b"\xff"])).map(b"".join),
    cuts=st.lists(st.integers(0)),
)
def test_lines_are_the_same_however_the_stream_is_cut_into_chunks(raw: bytes, cuts: list[int]) -> None:
    lines = Lines()
    found = [line for chunk in chunks_of(raw, cuts) for line in lines.feed(chunk)] + list(lines.close())
    pieces = raw.split(b"\n")
    if pieces[-1] == b"":
        pieces.pop()
    assert found == [piece.removesuffix(b"\r").decode("utf-8", "replace") for piece in pieces]


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(0, 12), max_size=8), cuts=st.lists(st.integers(0)))
def test_a_line_over_the_limit_is_given_cut_and_marked_and_its_rest_counted(sizes: list[int], cuts: list[int]) -> None:
    raw = b"".join(b"x" * size + b"\n" for size in sizes)
    lines = Lines(limit=5)
    found = [line for chunk in chunks_of(raw, cuts) for line in lines.feed(chunk)] + list(lines.close())
    assert found == ["x" * size if size <= 5 else "xxxxx" + CUT_MARK for size in sizes]
    assert lines.cut == sum(size > 5 for size in sizes)
    assert lines.lost == sum(size - 5 for size in sizes if size > 5)


def test_a_line_cut_inside_a_character_has_no_half_of_it() -> None:
    assert list(Lines(limit=3).feed("aüü\n".encode())) == ["aü" + CUT_MARK]
    assert list(Lines(limit=2).feed("aüü\n".encode())) == ["a" + CUT_MARK]


def test_a_carriage_return_at_the_limit_cuts_nothing() -> None:
    lines = Lines(limit=3)
    assert [*lines.feed(b"abc\r"), *lines.feed(b"\nd\n")] == ["abc", "d"]
    assert lines.cut == 0


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=60), cuts=st.lists(st.integers(0)))
def test_what_fits_is_kept_whole_and_of_more_its_beginning_and_end(raw: bytes, cuts: list[int]) -> None:
    kept = Kept(head=16, tail=16)
    for chunk in chunks_of(raw, cuts):
        kept.feed(chunk)
    assert kept.total == len(raw)
    assert kept.whole == (raw if len(raw) <= 32 else None)
    if len(raw) <= 32:
        assert kept.text(64) == raw.decode("utf-8", "replace")


def test_the_mark_between_beginning_and_end_says_how_much_is_gone() -> None:
    kept = Kept(head=4, tail=4)
    for char in b"abcdefghijklmnop":
        kept.feed(bytes([char]))
    assert kept.text(8) == "abcd\n… [8 bytes left out; the step's log has them] …\nmnop"


def test_what_was_kept_for_parsing_is_cut_when_it_is_shown() -> None:
    kept = Kept(head=100, tail=4)
    kept.feed(b"a" * 50 + b"z" * 50)
    assert kept.whole == b"a" * 50 + b"z" * 50
    assert kept.text(8) == "aaaa\n… [92 bytes left out; the step's log has them] …\nzzzz"


def test_many_tiny_chunks_do_not_pile_up() -> None:
    kept = Kept(head=0, tail=100_000)
    for _ in range(5000):
        kept.feed(b"x")
    assert kept.whole == b"x" * 5000
    assert len(kept._tail) <= 1025


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"a": [1, 2.5, null, true]}\n', {"a": [1, 2.5, None, True]}),
        (b"9007199254740991", 9007199254740991),
        (b"-9007199254740992", "-9007199254740992"),
        (b'{"id": 123456789012345678901234567890}', {"id": "123456789012345678901234567890"}),
        (b'"\\ud800"', "\ufffd"),
        (b'"\\ud83d\\ude42"', "🙂"),
        (b'"\xff"', "\ufffd"),
        (b'{"\\udfff": 1}', {"\ufffd": 1}),
    ],
)
def test_json_is_read_so_that_every_later_reader_can_read_it(raw: bytes, expected: object) -> None:
    parsed = parse_output(raw, "json")
    assert parsed == expected
    json.dumps(parsed).encode()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{} {}", "no JSON"),
        (b"Warning\n{}", "line 1 column 1"),
        (b"NaN", "NaN"),
        (b"[1e999]", "out of range"),
        (b"[-1e999]", "out of range"),
        (b"[" * 100 + b"]" * 100, "nested"),
        (b"[" * 100_000 + b"]" * 100_000, "nested"),
    ],
)
def test_what_is_no_json_is_refused_with_the_reason(raw: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_output(raw, "json")


def test_lines_have_no_ends_and_the_last_newline_makes_no_line() -> None:
    assert parse_output(b"a\r\n\nb\n", "lines") == ["a", "", "b"]
    assert parse_output(b"a\nb", "lines") == ["a", "b"]
    assert parse_output(b"", "lines") == []
