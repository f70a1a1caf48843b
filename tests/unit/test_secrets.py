"""Secrets: from variables and files by name, and nothing but those."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from consumer.errors import PermanentError
from consumer.policy.secrets import MAX_BYTES, Given, SecretStore


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """As Kubernetes mounts a secret: links to links."""
    mount = tmp_path / "mount"
    version = mount / "..2026_11_24"
    version.mkdir(parents=True)
    (version / "DB_PASSWORD").write_text("of-the-file\n")
    (version / "tls.key").write_text("-----BEGIN\nline\n-----END\n")
    (mount / "..data").symlink_to(version.name)
    for name in ("DB_PASSWORD", "tls.key"):
        (mount / name).symlink_to(f"..data/{name}")
    return mount


async def test_secrets_are_loaded_from_variables_and_files(directory: Path) -> None:
    store = SecretStore(environ={"WPK_SECRET_TOKEN": "t0ken", "TOKEN2": "no"}, directory=directory)
    assert await store.load(["TOKEN", "DB_PASSWORD", "TOKEN2", "tls.key", "TOKEN"]) == {
        "TOKEN": "t0ken",
        "DB_PASSWORD": "of-the-file",
        "tls.key": "-----BEGIN\nline\n-----END",
    }


async def test_nothing_asked_for_is_nothing_given() -> None:
    assert await SecretStore(environ={}).load([]) == {}


async def test_what_was_loaded_is_masked_for_as_long_as_it_is_held(directory: Path) -> None:
    store = SecretStore(environ={"WPK_SECRET_TOKEN": "t0ken"}, directory=directory)
    assert store.mask("t0ken of-the-file") == "t0ken of-the-file"
    token = await store.load(["TOKEN"])
    assert store.mask("t0ken of-the-file") == "*** of-the-file"
    old = await store.load(["DB_PASSWORD"])
    (directory / "..2026_11_24" / "DB_PASSWORD").write_text("rotated")
    new = await store.load(["DB_PASSWORD"])
    assert store.mask("t0ken of-the-file rotated") == "*** *** ***", "an old value may still be in use"
    del old
    gc.collect()
    assert store.mask("t0ken of-the-file rotated") == "*** of-the-file ***"
    del token, new
    gc.collect()
    assert store.mask("t0ken of-the-file rotated") == "t0ken of-the-file rotated"
    assert not holders_of("of-the-file")


def holders_of(value: str) -> list[object]:
    """What holds that text, of all that the collector knows."""
    known = [each for each in gc.get_objects() if type(each) in (dict, list, tuple, set, frozenset, Given)]
    texts = [(each, each.values() if isinstance(each, dict) else each) for each in known]
    return [each for each, held in texts if any(type(item) is str and item == value for item in list(held))]


def test_a_variable_comes_before_a_file(directory: Path) -> None:
    store = SecretStore(environ={"S_DB_PASSWORD": "of-the-variable"}, prefix="S_", directory=directory)
    assert store.get("DB_PASSWORD") == "of-the-variable"


def test_a_file_that_changed_is_read_anew(directory: Path) -> None:
    store = SecretStore(environ={}, directory=directory)
    assert store.get("DB_PASSWORD") == "of-the-file"
    (directory / "..2026_11_24" / "DB_PASSWORD").write_text("rotated")
    assert store.get("DB_PASSWORD") == "rotated"


def test_only_one_line_break_at_the_end_is_taken_off(tmp_path: Path) -> None:
    (tmp_path / "unix").write_bytes(b"a\n\n")
    (tmp_path / "windows").write_bytes(b"a\r\n")
    (tmp_path / "none").write_bytes(b" a ")
    store = SecretStore(environ={}, directory=tmp_path)
    assert [store.get(name) for name in ("unix", "windows", "none")] == ["a\n", "a", " a "]


@pytest.mark.parametrize("name", ["", ".", "..", "../outside", "a/b", "..data", ".hidden", "a\0b", "ä", "x" * 300, "*"])
def test_a_name_can_not_lead_out_of_the_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("not yours")
    inner = tmp_path / "secrets"
    (inner / "a").mkdir(parents=True)
    (inner / "a" / "b").write_text("not yours")
    (inner / ".hidden").write_text("not yours")
    assert SecretStore(environ={}, directory=inner).get(name) is None


def test_a_link_can_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("not yours")
    inner = tmp_path / "secrets"
    inner.mkdir()
    (inner / "link").symlink_to("../outside")
    (inner / "loop").symlink_to("loop")
    store = SecretStore(environ={}, directory=inner)
    assert store.get("link") is None
    assert store.get("loop") is None


def test_what_is_empty_missing_or_no_file_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    store = SecretStore(environ={"WPK_SECRET_BLANK": ""}, directory=tmp_path)
    assert [store.get(name) for name in ("empty", "folder", "pipe", "missing", "BLANK")] == [None] * 5
    assert SecretStore(environ={}, directory=tmp_path / "nowhere").get("empty") is None
    assert SecretStore(environ={}).get("empty") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"x" * (MAX_BYTES + 1), "larger than", id="too large"),
        pytest.param(b"\xff\xfehunter2", "no UTF-8 text", id="binary"),
    ],
)
def test_a_file_that_can_not_be_a_secret_is_an_error_that_does_not_show_it(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "KEY").write_bytes(content)
    with pytest.raises(PermanentError, match=f"the secret KEY can't be read: .*{reason}") as caught:
        SecretStore(environ={}, directory=tmp_path).get("KEY")
    assert caught.value.code == "secret_unreadable"
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
