"""Finds a secret in any bytes, by other means than those that mask it: all that looks encoded is decoded, and looked
through for pieces of the secret.

A piece of eight characters counts. What may stay of a secret that was cut, or of one inside of base64, is shorter: it
has to be known, and says little.
"""

from __future__ import annotations

import base64
import codecs
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote_plus

#: The length of a piece that counts.
PIECE = 8
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){10,}")
_UNICODE = re.compile(r"\\u([0-9a-fA-F]{4})")


class Detector:
    """Looks for secrets, and counts where it looked."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._pieces = {
            text[at : at + PIECE]: name
            for name, secret in secrets.items()
            for text in (secret, *secret.splitlines())
            for at in range(len(text) - PIECE + 1)
        }
        first = sorted({re.escape(piece) for piece in self._pieces})
        self._pattern = re.compile("|".join(first))
        self.searched: dict[str, int] = {}
        """How many texts of each kind were searched."""
        self.found: list[str] = []
        """Where something was found: kind, place, the secret's name and what stands around it."""

    def search(self, kind: str, place: str, data: bytes | str | None) -> None:
        """Searches one text of that kind."""
        if not data:
            return
        self.searched[kind] = self.searched.get(kind, 0) + 1
        text = data if isinstance(data, str) else data.decode(errors="replace")
        for view, shown in _views(text):
            if match := self._pattern.search(shown):
                around = shown[max(0, match.start() - 60) : match.end() + 30]
                self.found.append(f"{kind} {place} ({view}) shows {self._pieces[match[0]]}: {around!r}")
                return

    @property
    def places(self) -> int:
        """How many texts were searched in all."""
        return sum(self.searched.values())


def _views(text: str) -> Iterator[tuple[str, str]]:
    """The text as it is, and with each way of writing undone, twice over."""
    seen = {text}
    todo = [("as it is", text)]
    for _ in range(3):
        made: list[tuple[str, str]] = []
        for view, shown in todo:
            yield view, shown
            made += [(f"{view}, {how}", other) for how, other in _undone(shown) if other not in seen]
            seen.update(other for _, other in made)
        todo = made


def _undone(text: str) -> Iterator[tuple[str, str]]:
    yield "percent", unquote_plus(text)
    yield "HTML", html.unescape(text)
    yield "escapes", _unescaped(text)
    yield "quotes", text.replace("'\\''", "'").replace("'\"'\"'", "'")
    yield "base64", "\n".join(_decoded(_BASE64.findall(text)))
    yield "base64 in lines", "\n".join(_decoded(_BASE64.findall(re.sub(r"(?<=[A-Za-z0-9+/]{60})\s+", "", text))))
    yield "hex", "\n".join(bytes.fromhex(found).decode(errors="replace") for found in _HEX.findall(text))


def _unescaped(text: str) -> str:
    text = _UNICODE.sub(lambda match: chr(int(match[1], 16)), text)
    for written, meant in (('\\"', '"'), ("\\/", "/"), ("\\n", "\n"), ("\\'", "'"), ("\\\\", "\\")):
        text = text.replace(written, meant)
    return text


def _decoded(found: Iterable[str]) -> Iterator[str]:
    for token in found:
        standard = token.rstrip("=").translate(str.maketrans("-_", "+/"))
        for start in range(4):
            part = standard[start:]
            whole = part[: len(part) // 4 * 4]
            yield base64.b64decode(whole).decode(errors="replace")


def ways_of_writing(secret: str) -> dict[str, str]:
    """The secret written in many ways: what a detector must find."""
    data = secret.encode()
    return {
        "plain": secret,
        "percent": "".join(f"%{byte:02x}" for byte in data),
        "JSON": json.dumps(secret),
        "JSON in JSON": json.dumps(json.dumps(secret)),
        "HTML": html.escape(secret),
        "hex": codecs.encode(data, "hex").decode(),
        **{f"base64 after {count}": base64.b64encode(b"x" * count + data).decode() for count in range(4)},
        "base64url": base64.urlsafe_b64encode(data).decode(),
        "base64 in lines": base64.encodebytes(b"y" * 50 + data).decode(),
        "cut": f"text {secret[:10]}… more",
    }
