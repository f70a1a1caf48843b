"""How a secret's value shows itself: all the texts that a reader can turn back into it without thinking."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

#: Shorter values are not masked, and a shorter piece of one is left at a cut.
MIN_LENGTH = 4
#: Of a secret of several lines each line that long is masked, because logs come line by line.
MIN_LINE_LENGTH = 8
#: A shorter piece of base64 says little and is found by chance.
_MIN_BASE64 = 6
#: In lines of so many characters base64 is written: by PEM, by MIME and `base64`.
_WRAPPED = (64, 76)
#: What JavaScript's encodeURIComponent leaves as it is, besides what Python does.
_SAFE_IN_JAVASCRIPT = "!'()*"


def forms_of(value: str) -> Iterator[str]:
    """All texts that show the value or one of its lines."""
    pieces = [value, value.strip()]
    lines = value.splitlines()
    if len(lines) > 1:
        pieces += [line.strip() for line in lines if len(line.strip()) >= MIN_LINE_LENGTH]
    for piece in dict.fromkeys(pieces):
        if len(piece) >= MIN_LENGTH:
            yield piece
            yield piece.lower()  # as names of hosts and of headers come back
            yield piece.upper()
            yield from _in_url(piece)
            yield from _in_json(piece)
            yield from _in_markup(piece)
            yield from _quoted(piece)
            data = piece.encode(errors="surrogatepass")
            yield data.hex()
            yield data.hex().upper()
            yield from _base64(data)


def _in_url(piece: str) -> Iterator[str]:
    for form in (
        quote(piece, safe="", errors="replace"),
        quote(piece, errors="replace"),
        quote(piece, safe=_SAFE_IN_JAVASCRIPT, errors="replace"),
        quote_plus(piece, errors="replace"),
        "".join(f"%{byte:02X}" for byte in piece.encode(errors="replace")),
    ):
        yield form
        yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form)
        yield form.lower()


def _in_json(piece: str) -> Iterator[str]:
    for ascii_only in (True, False):
        form = json.dumps(piece, ensure_ascii=ascii_only)[1:-1]
        yield form
        yield json.dumps(form, ensure_ascii=ascii_only)[1:-1]
        yield re.sub(r"\\u[0-9a-f]{4}", lambda match: "\\u" + match[0][2:].upper(), form)
        yield form.replace("/", "\\/")
        # Go's encoder, which Kubernetes uses, writes these so that HTML can hold the text.
        yield form.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _in_markup(piece: str) -> Iterator[str]:
    escaped = html.escape(piece, quote=False)
    yield escaped
    yield html.escape(piece)
    yield escaped.replace('"', "&#34;").replace("'", "&#39;")
    yield escaped.replace('"', "&quot;").replace("'", "&apos;")


def _quoted(piece: str) -> Iterator[str]:
    """As a shell's trace (`set -x`) and Python's messages write it."""
    yield piece.replace("'", "'\\''")
    yield piece.replace("'", "'\"'\"'")
    yield repr(piece)[1:-1]


def _base64(data: bytes) -> Iterator[str]:
    """As it is, and inside of other data, where only the inner characters depend on the value alone."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(data).decode()
        yield whole
        yield whole.rstrip("=")
        for width in _WRAPPED:
            if len(whole) > width:
                lines = (whole[at : at + width] for at in range(0, len(whole), width))
                yield from (line for line in lines if len(line) >= MIN_LINE_LENGTH)
        for shift in range(3):
            shifted = encode(b"\0" * shift + data).decode()
            inner = shifted[-(-shift * 8 // 6) : (shift + len(data)) * 8 // 6]
            if len(inner) >= _MIN_BASE64:
                yield inner
