"""Finds where any of many texts may begin in another one, in a time that hardly depends on how many they are.

A private key has a thousand forms, and to look for each of them takes seconds for each megabyte. So texts are known by
their first characters, their anchor, and of the text to be searched only every so many characters are looked at: those
that no anchor can stand between (after Wu and Manber, "A fast algorithm for multi-pattern searching", 1994).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


class Anchors:
    """A fixed set of texts, each of four characters at least."""

    __slots__ = ("_groups",)

    def __init__(self, texts: Iterable[str]) -> None:
        chosen: dict[int, list[str]] = {}
        for text in texts:
            chosen.setdefault(next(size for size, _, least in _SIZES if len(text) >= least), []).append(text)
        self._groups = tuple(_Group(size, gram, chosen[size]) for size, gram, _ in _SIZES if size in chosen)

    def find(self, text: str) -> Iterator[tuple[int, str]]:
        """Each place where a text's anchor stands, with that text; the rest of it may differ.

        The anchor is at most half of the text, but at least its first four characters.
        """
        for group in self._groups:
            for at in group.places(text):
                for candidate in group.by_anchor[text[at : at + group.size]]:
                    yield at, candidate


#: The anchor's length, how much of it is looked up at once, and how long the texts are that have such a one.
_SIZES = ((16, 6, 32), (8, 4, 16), (4, 4, 4))

#: So many anchors, times the characters between two looks, str.find finds sooner one by one.
_FEW = 300


class _Group:
    """Texts whose anchors are of one length."""

    __slots__ = ("_grams", "_length", "_step", "by_anchor", "size")

    def __init__(self, size: int, length: int, texts: Sequence[str]) -> None:
        self.size = size
        self.by_anchor: dict[str, list[str]] = {}
        for text in texts:
            self.by_anchor.setdefault(text[:size], []).append(text)
        self._length = length
        self._step = size - length + 1
        self._grams: dict[str, set[int]] = {}
        for anchor in self.by_anchor:
            for offset in range(self._step):
                self._grams.setdefault(anchor[offset : offset + length], set()).add(offset)

    def places(self, text: str) -> Iterator[int]:
        """Where an anchor stands, each place once."""
        if len(self.by_anchor) * self._step <= _FEW:
            for anchor in self.by_anchor:
                at = text.find(anchor)
                while at >= 0:
                    yield at
                    at = text.find(anchor, at + 1)
            return
        grams, length = self._grams, self._length
        looked = range(0, len(text) - length + 1, self._step)
        for place in [at for at in looked if text[at : at + length] in grams]:
            for offset in grams[text[place : place + length]]:
                at = place - offset
                if at >= 0 and text[at : at + self.size] in self.by_anchor:
                    yield at
