"""Puts values into a shell script as data.

Each `${placeholder}` of a script becomes a reference to an environment variable, quoted as its place needs it: always
exactly one word, or part of one. What a variable expands to is never read as code again (POSIX 2.6), so a value can't
become code by any quoting of its own. It still could where a command makes code of its arguments, as `eval` and
`sh -c` do; `dangers` knows those, and they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from consumer.adapters.shell import dangers
from consumer.adapters.shell.dangers import Hole, Word
from consumer.adapters.shell.scanner import DEPTH, Scanner, TooDeep

#: The variables that carry the values are called this and a number.
PREFIX = "WPK_VALUE_"

_PLACEHOLDER = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script with its placeholders replaced by references to variables."""

    text: str
    holes: tuple[Hole, ...]
    """One for each place; several places of one expression share a variable."""
    problems: tuple[str, ...]
    """Why it can't be used; each names the placeholder and the remedy."""
    reads_code: bool = False
    """Whether a command in it runs what it reads from its standard input."""

    @property
    def variables(self) -> dict[str, str]:
        """The expression whose value each variable carries."""
        return {hole.variable: hole.expression for hole in self.holes}

    def refusals(self, values: Mapping[str, str]) -> Iterator[str]:
        """What is wrong with the values (by expression) in the places where not every value is harmless."""
        for hole in self.holes:
            if hole.expression in values and (reason := hole.refusal(values[hole.expression])) is not None:
                yield reason


def render(template: str) -> Script:
    """The script of the template. Raises nothing: what is wrong is in `problems`."""
    symbols, problems = _symbols(template)
    scanner = Scanner(symbols)
    try:
        scanner.run()
    except TooDeep:
        problems.append(f"the command nests $( and ( deeper than {DEPTH}; make a script file of it")
    holes = tuple(symbol for symbol in symbols if isinstance(symbol, Hole))
    refused = [hole.refused for hole in holes if hole.refused is not None]
    return Script(
        text="".join(scanner.out),
        holes=holes,
        problems=(*problems, *dict.fromkeys(refused)),
        reads_code=scanner.reads_code,
    )


def judge_args(args: Sequence[str]) -> list[Script]:
    """The same judgement for arguments of a program, one for each. Their values are put in plainly, not by `text`."""
    command = dangers.Command()
    scripts = []
    found: list[tuple[list[Hole], list[str]]] = []
    for arg in args:
        symbols, problems = _symbols(arg)
        word = Word(quoted=True)
        for symbol in symbols:
            if isinstance(symbol, Hole):
                word.add(symbol)
            else:
                word.text += symbol
        command.words.append(word)
        found.append((word.holes, problems))
    dangers.judge(command)
    reads_code = dangers.reads_code(command)
    for arg, (holes, problems) in zip(args, found, strict=True):
        refused = [hole.refused for hole in holes if hole.refused is not None]
        scripts.append(
            Script(text=arg, holes=tuple(holes), problems=(*problems, *dict.fromkeys(refused)), reads_code=reads_code)
        )
    return scripts


def shown(template: str, values: Mapping[str, str]) -> str:
    """The script as a human reads it, with the values plainly in place; not what runs. Unknown ones stay `${…}`."""
    symbols, _ = _symbols(template)
    return "".join(
        values.get(symbol.expression, f"${{{symbol.expression}}}") if isinstance(symbol, Hole) else symbol
        for symbol in symbols
    )


def _symbols(template: str) -> tuple[list[str | Hole], list[str]]:
    """The template as characters and holes."""
    symbols: list[str | Hole] = []
    problems: list[str] = []
    variables: dict[str, str] = {}
    position = 0
    for match in _PLACEHOLDER.finditer(template):
        symbols.extend(template[position : match.start()])
        position = match.end()
        expression = match.group(1)
        if match.group() == "$${":
            symbols.extend("${")
        elif not match.group(2):
            problems.append(f'"{match.group()[:80]}" has no closing }}; write $${{ for the shell\'s own ${{')
            symbols.extend(match.group())
        else:
            expression = expression.strip()
            variable = variables.setdefault(expression, f"{PREFIX}{len(variables) + 1}")
            symbols.append(Hole(expression, variable))
    symbols.extend(template[position:])
    return symbols, problems
