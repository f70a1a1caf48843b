"""The lines of a container's log: cut at their ends, and each taken once however often the log is read anew. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

_MAX_LINE = 16 * 1024


@dataclass(slots=True)
class Position:
    """How far a log was read: the last line's time stamp, and how many lines had just that one."""

    stamp: str = ""
    count: int = 0
    _skip: int = 0

    def opened(self) -> None:
        """The log is read anew, from `stamp` on."""
        self._skip = self.count

    def takes(self, line: str) -> str | None:
        """The text of a line with its stamp; None where it was taken before."""
        stamp, _, text = line.partition(" ")
        order, last = _order(stamp), _order(self.stamp)
        if order < last:
            return None
        if order > last:
            self.stamp, self.count, self._skip = stamp, 1, 0
            return text
        if self._skip > 0:
            self._skip -= 1
            return None
        self.count += 1
        return text


def _order(stamp: str) -> tuple[str, str]:
    """What RFC 3339 stamps can be compared by: they come without the zeros at their end."""
    seconds, _, rest = stamp.removesuffix("Z").partition(".")
    return seconds, rest.ljust(9, "0")


async def split_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Lines of a byte stream; one that is longer than 16 KiB is cut, with a mark. Memory is bounded by that."""
    rest = b""
    cut = False
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield _text(line, cut=cut)
            cut = False
        if len(rest) > _MAX_LINE:
            rest, cut = rest[:_MAX_LINE], True
    if rest:
        yield _text(rest, cut=cut)


def _text(line: bytes, *, cut: bool) -> str:
    cut = cut or len(line) > _MAX_LINE
    text = line[:_MAX_LINE].decode("utf-8", "replace").rstrip("\r")
    return text + "… (line cut)" if cut else text
