"""What a command prints, in bounded memory: lines for the log, and the beginning and the end for the step's output."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterator

#: Bytes of one line that go to the log; what is beyond is counted, not kept.
LINE_LIMIT = 16 * 1024
#: What stands at the end of a line that was cut.
CUT_MARK = " … [line cut at 16 KiB]"
#: Bytes of each stream in the step's output.
KEPT = 64 * 1024
#: Bytes of stdout that `parse` can read.
PARSED = 256 * 1024


def text_of(raw: bytes) -> str:
    """The bytes as UTF-8, U+FFFD for what is none."""
    return raw.decode("utf-8", "replace")


def text_of_beginning(raw: bytes) -> str:
    """As `text_of`, for bytes cut off anywhere: a character that the cut split is left out."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(raw)


class Lines:
    """Splits a stream into lines. A line over the limit is given at once, cut and marked; its rest is dropped."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._partial = bytearray()
        self._dropping = False
        #: How many lines were cut, and how many bytes they lost.
        self.cut = 0
        self.lost = 0

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The lines that the chunk completes, without their ends."""
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            yield from self._more(chunk[start:end])
            if not self._dropping:
                yield self._take()
            self._dropping = False
            start = end + 1
        yield from self._more(chunk[start:])

    def close(self) -> Iterator[str]:
        """The last line, if no newline ended it."""
        if self._partial:
            yield self._take()

    def _more(self, piece: bytes) -> Iterator[str]:
        if self._dropping:
            self.lost += len(piece)
            return
        self._partial += piece
        # A carriage return before the newline is no part of the line, so it may stand beyond the limit.
        if len(self._partial) <= self._limit or (
            len(self._partial) == self._limit + 1 and self._partial.endswith(b"\r")
        ):
            return
        self.cut += 1
        self.lost += len(self._partial) - self._limit
        self._dropping = True
        head = bytes(self._partial[: self._limit])
        self._partial.clear()
        yield text_of_beginning(head) + CUT_MARK

    def _take(self) -> str:
        line = bytes(self._partial)
        self._partial.clear()
        return text_of(line.removesuffix(b"\r"))


class Kept:
    """The first `head` and the last `tail` bytes of a stream."""

    def __init__(self, head: int = KEPT // 2, tail: int = KEPT // 2) -> None:
        self._head_limit = head
        self._tail_limit = tail
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        #: Bytes that came in all.
        self.total = 0

    def feed(self, chunk: bytes) -> None:
        """Takes in what came next."""
        self.total += len(chunk)
        room = self._head_limit - len(self._head)
        self._head += chunk[:room]
        if rest := chunk[room:]:
            self._tail.append(rest)
            self._tail_size += len(rest)
            while self._tail_size - len(self._tail[0]) >= self._tail_limit:
                self._tail_size -= len(self._tail.popleft())
            if len(self._tail) > 1024:  # many tiny chunks: joined, so that their overhead is bounded too
                joined = b"".join(self._tail)[-self._tail_limit :]
                self._tail = deque([joined])
                self._tail_size = len(joined)

    @property
    def whole(self) -> bytes | None:
        """Everything that came, or None where it was too much to keep."""
        if self.total > self._head_limit + self._tail_limit:
            return None
        return bytes(self._head) + b"".join(self._tail)

    def text(self, limit: int = KEPT) -> str:
        """At most about `limit` bytes of it: whole, or beginning and end with a mark between that says what is gone."""
        whole = self.whole
        if whole is not None and len(whole) <= limit:
            return text_of(whole)
        head = bytes(self._head) if whole is None else whole
        tail = b"".join(self._tail) if whole is None else whole
        head, tail = head[: limit // 2], tail[-min(limit // 2, self._tail_limit) :]
        # The tail begins where a character does.
        while tail and tail[0] & 0xC0 == 0x80:
            tail = tail[1:]
        gone = self.total - len(head) - len(tail)
        return f"{text_of_beginning(head)}\n… [{gone} bytes left out; the step's log has them] …\n{text_of(tail)}"
