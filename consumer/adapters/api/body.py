"""Bodies of answers: decompressed within bounds, decoded where they are JSON, cut to what is kept. Pure."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import dataclass

from pydantic import JsonValue

MAX_READ = 1024 * 1024
"""Bytes of a body that are read, decompressed; what is beyond is not."""
MAX_KEPT = 64 * 1024
"""Bytes of a body that become part of the step's output, and so of the execution's state."""
MAX_PIECES = 64 * 1024
"""Pieces of a body that are read: each costs far more than its bytes where a server sends them one by one."""
_MAX_DEPTH = 64
_MAX_SAFE = 2**53

_ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
#: Those that the web uses; other codecs of Python's are no text encodings or take quadratic time.
_CHARSET = re.compile(
    r"utf-?8|utf-?16(le|be)?|us-ascii|iso-8859-\d{1,2}|latin-?1|windows-125\d|shift_jis|euc-(jp|kr)|gb(k|18030|2312)|big5|koi8-[ru]"
)
#: The one way in which text that was decoded can still give a character that can't be encoded.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class BadBody(Exception):
    """The body is not what the server says it is."""


class Intake:
    """Takes a body in, chunk by chunk, decompressing; never holds more than MAX_READ bytes and one chunk."""

    def __init__(self, encoding: str) -> None:
        """`encoding`: the Content-Encoding. One that we did not ask for and can't undo leaves the body as it is."""
        wbits = _ENCODINGS.get(encoding.strip().lower())
        self._inflate = zlib.decompressobj(wbits) if wbits is not None else None
        self._data = bytearray()
        self.received = 0
        self.pieces = 0
        self.full = False

    def feed(self, chunk: bytes) -> None:
        """Raises BadBody. Once `full`, there is no use in feeding more."""
        self.received += len(chunk)
        self.pieces += 1
        room = MAX_READ - len(self._data)
        if self._inflate is None:
            self._data += chunk[:room]
            self.full = len(chunk) > room or self.pieces >= MAX_PIECES
            return
        try:
            # One byte more than there is room for, so that a body of just that size is not called cut.
            piece = self._inflate.decompress(chunk, room + 1)
        except zlib.error as error:
            raise BadBody(f"the body can't be decompressed: {error}") from error
        if self._inflate.unused_data:
            raise BadBody("something follows the end of the compressed body")
        self._data += piece[:room]
        # Compressed bytes that give nothing are bounded as well: empty blocks can be sent for ever.
        self.full = len(piece) > room or self.received > MAX_READ + 65536 or self.pieces >= MAX_PIECES

    def finish(self) -> bytes:
        """The body. Raises BadBody where the compressed data ended too early."""
        if self._inflate is not None and self.received and not self.full and not self._inflate.eof:
            raise BadBody("the compressed body ends too early")
        return bytes(self._data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A body as `expect` sees it and as the output keeps it."""

    value: JsonValue
    """Decoded JSON, text, or base64 text (`base64` is true); None where there is none."""
    kept: JsonValue
    """The same, or the beginning of its text."""
    truncated: bool
    base64: bool = False
    note: str | None = None
    """Why a body that is said to be JSON is given as text."""


def read_body(raw: bytes, *, complete: bool, content_type: str) -> Body:
    """Decodes a body by its Content-Type. Never raises: what can't be decoded stays text, or becomes base64."""
    if not raw:
        return Body(value=None, kept=None, truncated=not complete)
    text = _text(raw, content_type, complete=complete)
    if text is None:
        encoded = base64.b64encode(raw).decode("ascii")
        limit = MAX_KEPT // 4 * 4
        return Body(value=encoded, kept=encoded[:limit], truncated=not complete or len(encoded) > limit, base64=True)
    note = None
    if _is_json(text, content_type):
        try:
            value = parse_json(text)
        except ValueError as error:
            note = f"the body is not the JSON that it is said to be ({error}); it is taken as text"
            if not complete:
                note = "the body was not read to its end; its beginning is taken as text"
        else:
            fits = len(raw) <= MAX_KEPT or len(_compact(value)) <= MAX_KEPT
            return Body(value=value, kept=value if fits else _cut(text), truncated=not fits)
    kept = _cut(text)
    return Body(value=text, kept=kept, truncated=not complete or len(kept) < len(text), note=note)


def parse_json(text: str) -> JsonValue:
    """Strict JSON that the wire can carry. Raises ValueError.

    Integers beyond 2^53 come as text, so that no digit is lost: canonical JSON (RFC 8785) can't carry them as numbers.
    """
    try:
        value: JsonValue = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _check_depth(value)
    if _SURROGATE.search(text):
        try:
            _compact(value)
        except UnicodeEncodeError as error:
            raise ValueError("half of a surrogate pair") from error
    return value


def _compact(value: JsonValue) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _integer(digits: str) -> JsonValue:
    if len(digits) > 17:  # also bounds int(), which is quadratic in the number of digits
        return digits
    number = int(digits)
    return number if -_MAX_SAFE < number < _MAX_SAFE else digits


def _float(digits: str) -> JsonValue:
    number = float(digits)
    return number if abs(number) != float("inf") else digits


def _no_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is no JSON")


def _check_depth(value: JsonValue) -> None:
    level: list[JsonValue] = [value]
    for _ in range(_MAX_DEPTH):
        below: list[JsonValue] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return
        level = below
    raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")


def _is_json(text: str, content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    if not media:
        return text.lstrip()[:1] in ("{", "[")
    return media.endswith("+json") or media in ("application/json", "text/json", "application/problem+json")


def _text(raw: bytes, content_type: str, *, complete: bool) -> str | None:
    match = re.search(r'charset\s*=\s*"?([\w-]+)', content_type, re.IGNORECASE)
    charset = match[1].lower() if match and _CHARSET.fullmatch(match[1].lower()) else "utf-8-sig"
    charset = "utf-8-sig" if charset in ("utf-8", "utf8") else charset
    try:
        return raw.decode(charset)
    except UnicodeDecodeError as error:
        # The cut may go through a character.
        if not complete and error.start >= len(raw) - 4:
            return raw[: error.start].decode(charset)
        return None
    except LookupError:
        return None


def _cut(text: str) -> str:
    return text.encode()[:MAX_KEPT].decode(errors="ignore")
