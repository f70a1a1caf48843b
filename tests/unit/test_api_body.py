"""Bodies of answers: bounded, decoded, cut."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.adapters.api.body import MAX_KEPT, MAX_PIECES, MAX_READ, BadBody, Intake, parse_json, read_body

JSON = "application/json"


def take(data: bytes, encoding: str = "", chunk: int = 65536) -> Intake:
    intake = Intake(encoding)
    for start in range(0, len(data), chunk):
        intake.feed(data[start : start + chunk])
        if intake.full:
            break
    return intake


@given(st.binary(max_size=5000), st.sampled_from(["", "gzip", "deflate", "br"]), st.integers(1, 700))
@settings(max_examples=80, deadline=None)
def test_what_is_sent_is_taken_in_whole_however_it_is_cut_into_chunks(data: bytes, encoding: str, chunk: int) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding, bytes)
    packed = pack(data)
    intake = take(packed, encoding, chunk)
    assert intake.finish() == data
    assert not intake.full
    assert intake.received == len(packed)


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_body_of_just_the_limit_is_whole_and_one_byte_more_is_cut(encoding: str) -> None:
    for size, full in ((MAX_READ, False), (MAX_READ + 1, True)):
        data = b"a" * size
        intake = take(gzip.compress(data) if encoding else data, encoding)
        assert intake.full is full
        assert intake.finish() == data[:MAX_READ]


def test_compressed_blocks_that_give_nothing_do_not_go_on_for_ever() -> None:
    empty_blocks = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    intake = Intake("gzip")
    intake.feed(empty_blocks.flush(zlib.Z_FULL_FLUSH))
    for _ in range(1000):
        intake.feed(b"\x00\x00\x00\xff\xff" * 1000)
        if intake.full:
            break
    assert intake.full
    assert intake.received < 2 * MAX_READ


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_body_in_countless_small_pieces_is_cut(encoding: str) -> None:
    data = b"a" * MAX_PIECES
    packed = gzip.compress(data, compresslevel=0) if encoding else data
    intake = take(packed, encoding, chunk=1)
    assert intake.full
    assert intake.pieces == MAX_PIECES
    assert data.startswith(intake.finish())


@pytest.mark.parametrize("chunk", [1, 65536])
def test_what_follows_a_compressed_body_is_neither_dropped_in_silence_nor_collected(chunk: int) -> None:
    with pytest.raises(BadBody, match="follows"):
        take(gzip.compress(b"one") + gzip.compress(b"two"), "gzip", chunk)


@pytest.mark.parametrize("data", [b"this is not gzip", gzip.compress(b"whole" * 100, mtime=0)[:-9]])
def test_a_broken_or_short_compressed_body_is_an_error_and_not_half_an_answer(data: bytes) -> None:
    with pytest.raises(BadBody):
        take(data, "gzip").finish()


@pytest.mark.parametrize("kind", [JSON, "application/json; charset=utf-8", "application/problem+json", ""])
def test_json_is_decoded_by_its_type_or_where_none_is_given(kind: str) -> None:
    body = read_body('{"grün": [1, 2.5, null]}'.encode(), complete=True, content_type=kind)
    assert body.value == body.kept == {"grün": [1, 2.5, None]}
    assert not body.truncated


def test_text_stays_text_even_where_it_looks_like_json() -> None:
    body = read_body(b'{"a": 1}', complete=True, content_type="text/plain")
    assert body.value == '{"a": 1}'
    assert body.note is None


@pytest.mark.parametrize(
    "raw", [b"{", b"NaN", b'{"a": Infinity}', b'"\\ud800"', b"[" * 100 + b"]" * 100, b"[" * 200_000, b""]
)
def test_what_is_called_json_and_is_not_stays_text_with_a_note(raw: bytes) -> None:
    body = read_body(raw, complete=True, content_type=JSON)
    assert body.value == (raw.decode() or None)
    assert (body.note is not None) is bool(raw)


def test_no_digit_of_a_large_number_is_lost() -> None:
    big = 2**53
    text = f"[{big - 1}, {big}, {-big}, {'9' * 5000}, 1e400, 0.1]"
    assert parse_json(text) == [big - 1, str(big), str(-big), "9" * 5000, "1e400", 0.1]


def test_a_long_text_is_kept_up_to_the_limit_without_half_a_character() -> None:
    body = read_body(("ü" * MAX_KEPT).encode(), complete=True, content_type="text/plain")
    assert isinstance(body.value, str)
    assert len(body.value) == MAX_KEPT
    assert body.kept == "ü" * (MAX_KEPT // 2)
    assert body.truncated


def test_expect_sees_all_of_a_json_body_that_is_too_long_to_be_kept() -> None:
    value = {"items": ["x" * 100] * 1000, "total": 1000}
    body = read_body(json.dumps(value).encode(), complete=True, content_type=JSON)
    assert body.value == value
    assert body.truncated
    assert isinstance(body.kept, str)
    assert len(body.kept.encode()) <= MAX_KEPT


def test_a_body_that_was_not_read_to_its_end_is_text_and_marked() -> None:
    body = read_body(b'[1, 2, "\xc3', complete=False, content_type=JSON)
    assert body.value == '[1, 2, "'
    assert body.truncated
    assert body.note is not None


@pytest.mark.parametrize(
    ("raw", "kind", "text"),
    [
        ("grün".encode("latin-1"), "text/plain; charset=ISO-8859-1", "grün"),
        ("grün".encode("utf-16"), 'text/plain; charset="utf-16"', "grün"),
        (b"\xef\xbb\xbf{}", "text/plain", "{}"),
        (b"plain", "text/plain; charset=rot13", "plain"),
        (b"plain", "text/plain; charset=idna", "plain"),
    ],
)
def test_text_is_decoded_by_its_charset_where_that_is_one(raw: bytes, kind: str, text: str) -> None:
    assert read_body(raw, complete=True, content_type=kind).value == text


def test_bytes_that_are_no_text_come_as_base64() -> None:
    body = read_body(b"\xff\xfe\x00", complete=True, content_type="application/octet-stream")
    assert body.kept == "//4A"
    assert body.base64


@given(st.binary(max_size=2000), st.booleans(), st.sampled_from([JSON, "text/plain", "", "text/html; charset=utf-16"]))
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_a_body_that_the_wire_can_carry(raw: bytes, complete: bool, kind: str) -> None:
    body = read_body(raw, complete=complete, content_type=kind)
    assert json.loads(json.dumps(body.kept, allow_nan=False).encode()) == body.kept
