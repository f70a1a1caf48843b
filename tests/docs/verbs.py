"""The `wpk` calls in a text, and whether the command line takes them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import typer

from consumer.cli.main import application

_CALL = re.compile(r"(?:^|[\s(])wpk (?=[a-z])", re.MULTILINE)
#: What a call may lack where the text only names the verb, as prose does.
_LACKING = ("MissingParameter", "BadOptionUsage")


def calls(text: str) -> Iterator[list[str]]:
    """The arguments of each call, without what a shell makes of the rest of the line."""
    for line in text.replace("\\\n", " ").splitlines():
        for found in _CALL.finditer(line):
            yield _words(line[found.end() :])


def _words(text: str) -> list[str]:
    """Up to a comment, a pipe or the like, or `·` and `…`, which stand between examples. Variables are left out."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in lexer:
            if word in "·…" or set(word) <= set("|&;<>()"):
                break
            if not word.startswith("$"):
                words.append(word)
    except ValueError:  # a quotation that ends in a later line
        words.append("…")
    return words


@cache
def _command() -> Any:
    return typer.main.get_command(application())


def complaint(arguments: list[str], *, named: bool = False) -> str | None:
    """What the command line says against the call, without running it; None where it takes it.

    `named`: the text only names a verb or an option, so that arguments may lack.
    """
    command, rest = _command(), list(arguments)
    while hasattr(command, "commands"):
        if not rest:
            return None if named else f"no verb: {' '.join(arguments)}"
        if rest[0] in ("-h", "--help"):
            return None
        if rest[0] not in command.commands:
            return f'no verb "{rest[0]}"'
        command, rest = command.commands[rest[0]], rest[1:]
    if {"-h", "--help"} & set(rest):
        return None
    try:
        command.make_context("wpk", rest)
    except Exception as error:
        kind = type(error).__name__
        return None if named and kind in _LACKING else f"{kind}: {getattr(error, 'message', error)}"
    return None
