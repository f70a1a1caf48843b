"""Reads a shell script as far as it must be to know how a placeholder in it is quoted, and in which command it is.

It follows the quoting of sh (POSIX 2.2 to 2.7). Where shells differ or it can't be sure, it refuses the placeholders
from there on rather than guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from consumer.adapters.shell import dangers
from consumer.adapters.shell.dangers import EXPANDED, HOLE, Command, Hole, Word

_META = frozenset(" \t\n;&|()<>")
#: How deep substitutions and subshells may be nested: nobody writes more, and each level costs a frame of ours.
DEPTH = 32
#: Words after which a command follows.
_RESERVED = frozenset({"!", "{", "}", "if", "then", "elif", "else", "fi", "while", "until", "do", "done", "time"})


class TooDeep(Exception):
    """The script is nested deeper than anybody would write it."""


class _Place(Enum):
    """How a reference is written where it stands: as a word of its own, or inside the quotes around it."""

    PLAIN = '"${%s}"'
    DOUBLE = "${%s}"
    SINGLE = "'\"${%s}\"'"


@dataclass(slots=True)
class _Heredoc:
    delimiter: str
    strip_tabs: bool


@dataclass(slots=True)
class _Frame:
    """A list of commands: the script itself, a subshell, or what stands in `$(…)`."""

    closer: str | None
    command: Command = field(default_factory=Command)
    cases: int = 0
    pattern: bool = False


class Scanner:
    def __init__(self, symbols: list[str | Hole]) -> None:
        self._symbols = symbols
        self._position = 0
        self._depth = 0
        self.out: list[str] = []
        self.reads_code = False
        #: Why every placeholder is refused just here, innermost last.
        self._inside: list[str] = []
        #: Why every placeholder is refused from here on.
        self._doubt: str | None = None
        self._pending: list[_Heredoc] = []
        self._seen: list[Hole] = []

    def run(self) -> None:
        self._frame(None)

    # --- the ground ---------------------------------------------------------------------------------------------

    def _peek(self, ahead: int = 0) -> str | Hole | None:
        position = self._position + ahead
        return self._symbols[position] if position < len(self._symbols) else None

    def _looking_at(self, text: str) -> bool:
        return all(self._peek(index) == char for index, char in enumerate(text))

    def _take(self, count: int = 1) -> str:
        """Takes and writes that many characters; a hole among them, which nobody expected, is refused."""
        taken = ""
        for _ in range(count):
            symbol = self._peek()
            if isinstance(symbol, Hole):
                self._hole(_Place.DOUBLE, refuse="after a backslash, which does not escape it (write $${ for ${)")
                taken += HOLE
            elif symbol is not None:
                self._position += 1
                self.out.append(symbol)
                taken += symbol
        return taken

    def _hole(self, place: _Place, refuse: str | None = None) -> Hole:
        hole = self._symbols[self._position]
        assert isinstance(hole, Hole)
        self._position += 1
        self.out.append(place.value % hole.variable)
        self._seen.append(hole)
        if reason := refuse or (self._inside[-1] if self._inside else self._doubt):
            hole.refuse(reason)
        return hole

    def _doubtful(self, reason: str) -> None:
        self._doubt = self._doubt or f"after {reason}"

    @contextmanager
    def _refusing(self, place: str) -> Iterator[None]:
        self._inside.append(place)
        yield
        self._inside.pop()

    # --- lists of commands --------------------------------------------------------------------------------------

    def _frame(self, closer: str | None) -> None:
        """Commands until the closer, which is taken too."""
        if self._pending:
            self._doubtful("a here-document whose line goes on with $( or (")
        self._depth += 1
        if self._depth > DEPTH:
            raise TooDeep
        frame = _Frame(closer)
        while (symbol := self._peek()) is not None:
            if symbol in (" ", "\t"):
                self._take()
            elif self._looking_at("\\\n"):
                self._take(2)
            elif symbol == "#":
                self._comment()
            elif symbol == ")" and not frame.pattern and closer is not None:
                break
            elif isinstance(symbol, str) and symbol in _META:
                self._operator(frame, symbol)
            else:
                self._add(frame, self._word())
        self._end(frame)
        self._depth -= 1
        if closer is not None:
            self._take()

    def _comment(self) -> None:
        while (symbol := self._peek()) is not None and symbol != "\n":
            if isinstance(symbol, Hole):
                self._hole(_Place.DOUBLE)
            else:
                self._take()

    def _end(self, frame: _Frame) -> None:
        """The command is complete: looks at what it does with its values."""
        dangers.judge(frame.command)
        if dangers.reads_code(frame.command):
            self.reads_code = True
            for hole in self._seen:
                hole.refuse("before a command that runs as code what it reads")
            self._seen.clear()
        frame.command = Command()

    def _operator(self, frame: _Frame, symbol: str) -> None:
        if symbol == "\n":
            self._take()
            self._end(frame)
            self._bodies()
        elif symbol == "(":
            self._parenthesis(frame)
        elif symbol == ")":
            if not frame.pattern:
                self._doubtful("a ) that nothing opened")
            frame.pattern = False
            self._take()
            frame.command = Command()  # the pattern's words are compared, not run
        elif symbol in "<>":
            self._redirection(frame)
        elif symbol == "|" and frame.pattern:
            self._take()
        elif symbol == ";" and frame.cases and (self._looking_at(";;") or self._looking_at(";&")):
            self._take(2)
            self._end(frame)
            frame.pattern = True
        else:
            self._take(2 if self._looking_at(symbol * 2) else 1)
            self._end(frame)

    def _parenthesis(self, frame: _Frame) -> None:
        if frame.pattern:
            self._take()
        elif frame.command.words and self._looking_at("()"):  # the definition of a function
            self._take(2)
            frame.command = Command()
        else:
            if frame.command.words:
                self._doubtful("a list in parentheses, which sh does not know")
            elif self._looking_at("(("):
                self._doubtful("((, which is arithmetic in some shells")
            self._take()
            self._frame(")")

    def _add(self, frame: _Frame, word: Word) -> None:
        """A word of a command, of a pattern, or one that orders commands."""
        words = frame.command.words
        bare = word.text if not word.quoted else None
        after = self._peek()
        if bare is not None and bare.isdigit() and after in ("<", ">"):
            return  # the number of a descriptor
        if bare == "esac" and frame.cases and not words:
            frame.cases -= 1
            frame.pattern = False
        elif not words and not frame.pattern and bare in _RESERVED:
            return
        elif bare == "in" and len(words) == 2 and words[0].text == "case" and not words[0].quoted:
            frame.command = Command()
            frame.cases += 1
            frame.pattern = True
        else:
            words.append(word)

    def _redirection(self, frame: _Frame) -> None:
        operator = next(
            op for op in ("<<<", "<<-", "<<", ">>", "<&", ">&", "<>", ">|", "<", ">") if self._looking_at(op)
        )
        self._take(len(operator))
        while self._peek() in (" ", "\t"):
            self._take()
        if self._peek() == "(" or self._looking_at("\\\n"):
            self._doubtful("a redirection that sh does not know")
            return
        if operator == "<<<":
            with self._refusing("in a here-string (<<<), which sh does not know"):
                self._word()
        elif operator in ("<<", "<<-"):
            with self._refusing("in the delimiter of a here-document"):
                delimiter = self._word()
            if EXPANDED in delimiter.text:
                self._doubtful("a here-document with a strange delimiter")
            self._pending.append(_Heredoc(delimiter.text, operator == "<<-"))
        else:
            frame.command.redirected.append(self._word())

    def _bodies(self) -> None:
        """The here-documents that the line just ended has announced."""
        pending, self._pending = self._pending, []
        with self._refusing("in a here-document"):
            for heredoc in pending:
                while self._peek() is not None:
                    line = ""
                    while (symbol := self._peek()) is not None and symbol != "\n":
                        if isinstance(symbol, Hole):
                            self._hole(_Place.DOUBLE)
                            line += HOLE
                        else:
                            line += self._take()
                    self._take()
                    if (line.lstrip("\t") if heredoc.strip_tabs else line) == heredoc.delimiter:
                        break
                    if line.endswith("\\"):
                        self._doubtful("a here-document with a backslash at the end of a line")

    # --- words --------------------------------------------------------------------------------------------------

    def _word(self) -> Word:
        word = Word()
        while (symbol := self._peek()) is not None:
            if isinstance(symbol, Hole):
                word.add(self._hole(_Place.PLAIN))
            elif symbol in _META:
                break
            elif symbol == "\\":
                if self._looking_at("\\\n"):
                    self._take(2)
                else:
                    word.quoted = True
                    word.text += self._take(2)[1:]
            elif symbol == "'":
                self._single(word)
            elif symbol == '"':
                self._double(word)
            else:
                self._other(word, quoted=False)
        return word

    def _single(self, word: Word) -> None:
        word.quoted = True
        self._take()
        while (symbol := self._peek()) is not None and symbol != "'":
            if isinstance(symbol, Hole):
                word.add(self._hole(_Place.SINGLE))
            else:
                self._newline_in_quotes(symbol)
                word.text += self._take()
        self._take()

    def _double(self, word: Word) -> None:
        word.quoted = True
        self._take()
        while (symbol := self._peek()) is not None and symbol != '"':
            if isinstance(symbol, Hole):
                word.add(self._hole(_Place.DOUBLE))
            elif symbol == "\\":
                word.text += self._take(2)[1:]
            else:
                self._newline_in_quotes(symbol)
                self._other(word, quoted=True)
        self._take()

    def _newline_in_quotes(self, symbol: str) -> None:
        if symbol == "\n" and self._pending:
            self._doubtful("a here-document whose line goes on inside quotes")

    def _other(self, word: Word, *, quoted: bool) -> None:
        """A character that is neither quote nor backslash: an expansion, or only itself."""
        if self._looking_at("`"):
            self._backticks()
        elif self._looking_at("$(("):
            self._arithmetic()
        elif self._looking_at("$("):
            self._take(2)
            self._frame(")")
        elif self._looking_at("${"):
            self._parameter(quoted=quoted)
        elif self._looking_at("$"):
            if self._looking_at("$\\\n") or (not quoted and self._looking_at("$'")):
                self._doubtful("$' or a $ at the end of a line, which shells read differently")
            self._take(2 if self._looking_at("$$") else 1)
        else:
            word.text += self._take()
            return
        word.text += EXPANDED

    def _backticks(self) -> None:
        with self._refusing("in backticks (use $(…))"):
            self._take()
            while (symbol := self._peek()) is not None and symbol != "`":
                if isinstance(symbol, Hole):
                    self._hole(_Place.DOUBLE)
                else:
                    self._take(2 if symbol == "\\" else 1)
            self._take()

    def _arithmetic(self) -> None:
        """`$((…))`; some shells run code that a variable's value holds there, so no value is let in."""
        with self._refusing("in arithmetic, where some shells run what a value holds"):
            self._take(3)
            depth = 2
            while (symbol := self._peek()) is not None:
                if isinstance(symbol, Hole):
                    self._hole(_Place.DOUBLE)
                    continue
                if symbol in "'\"\\`":
                    self._doubtful("quotes in arithmetic")
                depth += (symbol == "(") - (symbol == ")")
                closing = self._looking_at("))")
                self._take()
                if depth == 1 and not closing:
                    self._doubtful("$((, which does not end with ))")
                if depth <= 1:
                    break
            if self._looking_at(")"):
                self._take()

    def _parameter(self, *, quoted: bool) -> None:
        """The shell's own `${…}`, which the template wrote as `$${…}`."""
        self._depth += 1
        if self._depth > DEPTH:
            raise TooDeep
        with self._refusing("in the shell's own ${…} (assign it to a variable first)"):
            self._take(2)
            inner = Word()
            while (symbol := self._peek()) is not None and symbol != "}":
                if isinstance(symbol, Hole):
                    self._hole(_Place.DOUBLE)
                elif symbol == "\\":
                    self._take(2)
                elif symbol in "'\"":
                    if quoted:
                        self._doubtful("quotes in a ${…} in double quotes, which shells read differently")
                        self._take()
                    elif symbol == "'":
                        self._single(inner)
                    else:
                        self._double(inner)
                else:
                    self._other(inner, quoted=quoted)
            self._take()
        self._depth -= 1
