"""Where verbs write: lines for people, or one JSON document per line for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import orjson
from pydantic import JsonValue
from rich.console import Console
from rich.text import Text


class Output:
    """The two streams. Colour and movement only on a terminal; NO_COLOR and TERM=dumb are respected."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="replace")  # a terminal that knows no ✔ must not end a run with an error
        self.console = Console(highlight=False, markup=False, emoji=False)
        self._notes = Console(stderr=True, highlight=False, markup=False, emoji=False)

    @property
    def live(self) -> bool:
        """Whether what is written may be drawn over."""
        return not self.json and self.console.is_terminal and not self.console.is_dumb_terminal

    def lines(self, lines: Iterable[Text | str]) -> None:
        """Lines for people, on stdout, at once."""
        for line in lines:
            self.console.print(line, soft_wrap=True)
        self.console.file.flush()

    def document(self, document: JsonValue) -> None:
        """One JSON document, on one line, in UTF-8."""
        sys.stdout.flush()
        sys.stdout.buffer.write(orjson.dumps(document) + b"\n")
        sys.stdout.buffer.flush()

    def raw(self, document: bytes) -> None:
        """A JSON document that is encoded already."""
        sys.stdout.buffer.write(document + b"\n")
        sys.stdout.buffer.flush()

    def note(self, text: str) -> None:
        """A remark beside the answer, on stderr."""
        self._notes.print(text, soft_wrap=True)
