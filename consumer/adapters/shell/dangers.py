"""Commands that make code of their arguments or of what they read, and so may not be given values there.

The list can't be complete: what a program does with its data is the program's matter. It holds the shells, the
interpreters, and the ways that lead to them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from posixpath import basename

#: Stands in a word's text for a placeholder, and for what only the running shell knows. Unicode calls them
#: noncharacters: no text has them.
HOLE = "\ufdd0"
EXPANDED = "\ufdd1"


class Allowed(Enum):
    """Which values may stand in a place."""

    ANY = auto()
    PLAIN = auto()
    """Letters, digits, `_`, `.` and `-`: inside an expression of sed or awk."""
    DIGITS = auto()
    """A number: where an expression of sed could hold a command."""
    OPERAND = auto()
    """No option: nothing that begins with `-`, but for a number."""
    PROGRAM = auto()
    """The name of a program that does not run its arguments as code."""


_PATTERNS = {
    Allowed.PLAIN: re.compile(r"[A-Za-z0-9_.-]*"),
    Allowed.DIGITS: re.compile(r"[0-9]+"),
    Allowed.OPERAND: re.compile(r"(?!-).*|-[0-9.]+", re.DOTALL),
    Allowed.PROGRAM: re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*"),
}


@dataclass(slots=True)
class Hole:
    """One place of one placeholder."""

    expression: str
    variable: str
    refused: str | None = None
    """Why no value at all may stand here; a sentence for the user."""
    allowed: Allowed = Allowed.ANY
    around: str = HOLE
    """The word that it is part of."""

    def refuse(self, reason: str, remedy: str | None = None) -> None:
        """No value may stand here. The first reason stays."""
        remedy = remedy or f'put it into env (env: {{VALUE: "${{{self.expression}}}"}}) and use "$VALUE" there'
        self.refused = self.refused or f"${{{self.expression}}} stands {reason}: a value must not become code; {remedy}"

    def refusal(self, value: str) -> str | None:
        """What is wrong with this value here."""
        if self.allowed is Allowed.ANY:
            return None
        if not _PATTERNS[self.allowed].fullmatch(value):
            wanted = {
                Allowed.PLAIN: "part of an expression: only letters, digits, _, . and - are harmless there",
                Allowed.DIGITS: "part of an expression that could hold commands: only digits are harmless there",
                Allowed.OPERAND: "an option here, as some of them run what they are given; it may not begin with -",
                Allowed.PROGRAM: "the name of the program: only letters, digits, _, ., /, + and - are allowed there",
            }[self.allowed]
            remedy = "put -- before it" if self.allowed is Allowed.OPERAND else "pass it as an argument of its own"
            return f"the value of ${{{self.expression}}} can't be {wanted}; {remedy}"
        name = basename(self.around.replace(HOLE, value))
        if self.allowed is Allowed.PROGRAM and runs_code(name):
            return f'${{{self.expression}}} names "{name}", which runs its arguments as code; write it into the command'
        return None


@dataclass(slots=True)
class Word:
    """One word of a command, without its quotes."""

    text: str = ""
    quoted: bool = False
    holes: list[Hole] = field(default_factory=list)

    def add(self, hole: Hole) -> None:
        self.text += HOLE
        self.holes.append(hole)

    def refuse(self, reason: str, remedy: str | None = None) -> None:
        for hole in self.holes:
            hole.refuse(reason, remedy)

    @property
    def known(self) -> bool:
        return HOLE not in self.text and EXPANDED not in self.text


@dataclass(slots=True)
class Command:
    """A simple command: its words and the targets of its redirections."""

    words: list[Word] = field(default_factory=list)
    redirected: list[Word] = field(default_factory=list)


_SHELLS = frozenset({"sh", "dash", "bash", "ash", "ksh", "mksh", "zsh", "fish", "rbash"})
_INTERPRETER = re.compile(
    r"(sh|r?bash|[dakz]sh|mksh|fish|(python|pypy|perl|ruby|php|lua|node|nodejs|deno|tclsh|expect|osascript)[\d.]*)"
)
#: Options of interpreters that take the next word with them.
_WITH_ARGUMENT = frozenset({"-o", "+o", "-O", "+O", "--rcfile", "--init-file", "-W", "-X", "-I", "-r", "--require"})
_CODE_OPTION = re.compile(r"-[A-Za-z0-9]*[ceEpr]|--eval|--print|--run")
#: Every argument of these is code, or chooses code.
_BUILTINS = frozenset(
    {"eval", "trap", ".", "source", "let", "[[", "alias", "unset", "read", "declare", "typeset", "getopts"}
    | {"mapfile", "readarray"}
)
_CODE_PROGRAMS = frozenset({"ssh", "su", "runuser", "watch", "parallel", "at", "batch", "crontab", "script"})
_CODE_COMMANDS = _BUILTINS | _CODE_PROGRAMS
#: Wrappers that run builtins too; the others know only programs.
_OF_BUILTINS = frozenset({"command", "builtin", "exec", "time", "coproc"})
#: These run the program that their arguments name, after their own options and assignments of variables.
_STRICT_WRAPPERS = frozenset(
    {"env", "sudo", "doas", "exec", "command", "builtin", "xargs", "nohup", "setsid", "busybox", "chroot", "coproc"}
)
#: These do too, but take arguments of their own before it.
_WRAPPERS = _STRICT_WRAPPERS | {
    *("timeout", "nice", "ionice", "stdbuf", "flock", "chrt", "taskset", "nsenter", "unshare", "time", "find", "strace")
}
#: Beyond so many words of one command we don't look any more, so that looking takes no time.
_MOST_WORDS = 256
#: Programs some of whose options run a command, so that a value in place of a file could.
_OPTIONS_RUN_CODE = frozenset(
    {"ansible", "ansible-playbook", "bsdtar", "curl", "docker", "find", "gdb", "git", "helm", "hg", "make", "man"}
    | {"mysql", "nmap", "openssl", "podman", "psql", "rsync", "scp", "sftp", "sort", "svn", "tar", "tcpdump"}
    | {"terraform", "vi", "vim", "wget", "zip"}
)
_VARIABLE_NAMING = frozenset({"printf", "test", "["})
#: Read commands from their standard input.
_READERS = frozenset({"ssh", "at", "batch", "crontab", "parallel"})
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
#: Editors with programs, and their options that take the next word with them (but for a program).
_EDITORS = {
    "sed": frozenset({"-l", "--line-length"}),
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), frozenset({"-v", "-F", "--assign", "--field-separator"})),
}
#: What may stand before a value in a program of sed: the address of a line, and `s` or `y` with its delimiter.
_SED_COMMAND = re.compile(r"(?:\d*|\$|/[^/]*/)[sy]([^A-Za-z0-9_.\s\\-])(.*)", re.DOTALL)
_SED_ADDRESS = re.compile(r"/[^/]*")


_PROGRAM_OPTIONS = frozenset({"-e", "--expression", "--source"})
_FILE_OPTIONS = frozenset({"-f", "--file"})


def runs_code(name: str) -> bool:
    """Whether a program of that name runs its arguments, or what they name, as code."""
    return name in _CODE_COMMANDS or name in _WRAPPERS or name in _EDITORS or _INTERPRETER.fullmatch(name) is not None


def judge(command: Command) -> None:
    """Refuses the command's placeholders where their values could become code, and narrows what they may be."""
    words = list(command.words)
    while words and _ASSIGNMENT.match(words[0].text):
        words.pop(0)
    for word in words[_MOST_WORDS:]:
        word.refuse(f"beyond the first {_MOST_WORDS} words of a command")
    del words[_MOST_WORDS:]
    if words:
        _program(words[0])
        _from(words, None)


def reads_code(command: Command) -> bool:
    """Whether it runs what it reads as code: an interpreter without a script, or one that xargs composes."""
    words = command.words[:_MOST_WORDS]
    names = [basename(word.text) for word in words]
    if any(name in _READERS for name in names[:1]):
        return True
    for index, name in enumerate(names):
        at_command = index == 0 or names[0] in _WRAPPERS or names[0] == "ssh"
        if at_command and _INTERPRETER.fullmatch(name):
            if names[0] == "xargs" and any(re.match(r"-[iIJ]|--replace", word.text) for word in words):
                return True
            operand = _operand(words[index + 1 :])
            return operand is None or operand.text in ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
        if names[0] == "xargs" and index > 0 and name in _CODE_PROGRAMS:
            return True
    return names[:1] in (["."], ["source"]) and names[1:2] == ["stdin"]


def _program(word: Word) -> None:
    """The word that names the program: a value may do that only as a plain name, known before it runs."""
    if len(word.holes) > 1 or (word.holes and EXPANDED in word.text):
        word.refuse("in the name of the program")
    for hole in word.holes:
        hole.allowed = Allowed.PROGRAM
        hole.around = word.text


def _from(words: list[Word], wrapper: str | None) -> None:
    """Judges the words as a command; `wrapper` is what may run it, if it is not the shell itself."""
    name = basename(words[0].text)
    rest = words[1:]
    if name in (_CODE_COMMANDS if wrapper is None or wrapper in _OF_BUILTINS else _CODE_PROGRAMS):
        for word in rest:
            word.refuse(f"in an argument of {name}")
    elif name in _VARIABLE_NAMING:
        _variable_naming(name, rest)
    elif _INTERPRETER.fullmatch(name):
        _interpreter(name, rest)
    elif name in _EDITORS:
        _editor(name, rest)
    elif name in _WRAPPERS:
        _wrapper(name, rest, wrapped=wrapper is not None)
    elif wrapper is None:
        _elsewhere(rest)
    if name in _OPTIONS_RUN_CODE:
        _no_options(rest)


def _variable_naming(name: str, rest: list[Word]) -> None:
    """bash: `printf -v NAME` and `test -v NAME` evaluate the subscript of an array's name."""
    if any(word.text == "-v" for word in rest):
        for word in rest:
            word.refuse(f"in an argument of {name} -v")
    elif name == "printf" or len([word for word in rest if word.text != "]"]) == 2:
        _no_options(rest[:1])


def _no_options(rest: list[Word]) -> None:
    """Values that stand where an option could may be none."""
    for word in rest:
        if word.text == "--":
            return
        if word.text.startswith(HOLE):
            hole = word.holes[0]
            hole.allowed = Allowed.OPERAND if hole.allowed is Allowed.ANY else hole.allowed


def _wrapper(name: str, rest: list[Word], *, wrapped: bool) -> None:
    """Whatever program the wrapper may run is judged, as we don't know all of its options."""
    if name in _STRICT_WRAPPERS:
        for word in rest:
            assigns = _ASSIGNMENT.match(word.text) is not None
            if word.known and not word.text.startswith("-") and not assigns:
                break
            if not assigns:
                word.refuse(f"where {name} takes its options or the name of a program")
    for index, word in enumerate(() if wrapped else rest):
        if word.known:
            _from(rest[index:], name)


def _elsewhere(rest: list[Word]) -> None:
    """`kubectl exec pod -- sh -c …`: an interpreter with code for it among the arguments."""
    for index, word in enumerate(rest):
        if word.known and _INTERPRETER.fullmatch(basename(word.text)):
            following = rest[index + 1 :]
            options = _options(following)
            if any(_CODE_OPTION.fullmatch(option.text) for option in options):
                _interpreter(basename(word.text), following)


def _options(words: list[Word]) -> list[Word]:
    """The options before the first operand."""
    operand = _operand(words)
    return words if operand is None else words[: next(i for i, word in enumerate(words) if word is operand)]


def _operand(words: list[Word]) -> Word | None:
    """The first word that is no option and no option's argument: the script or its text."""
    skip = False
    for index, word in enumerate(words):
        if skip:
            skip = False
        elif word.text == "--":
            return words[index + 1] if index + 1 < len(words) else None
        elif word.text in ("-s", "-"):
            return None
        elif word.text.startswith(("-", "+")) and len(word.text) > 1:
            skip = word.text in _WITH_ARGUMENT
        else:
            return word
    return None


def _interpreter(name: str, rest: list[Word]) -> None:
    """Up to and including its script nothing may be a value; what follows are arguments of the script."""
    if name not in _SHELLS and not name.startswith(("python", "pypy")):
        _interpreter_of_options(name, rest)
        return
    remedy = None
    operand = _operand(rest)
    if name in _SHELLS and operand is not None and operand.holes:
        remedy = f"pass it as an argument: {name} -c '… \"$1\" …' _ ${{{operand.holes[0].expression}}}"
    for word in rest:
        word.refuse(f"in what {name} runs", remedy)
        if word is operand:
            return


def _interpreter_of_options(name: str, rest: list[Word]) -> None:
    """perl, ruby and their like: the code is an option's argument, and more options may follow it."""
    code = takes = False
    for word in rest:
        option = word.text.startswith("-") and len(word.text) > 1
        if not option and not takes and code:
            return
        word.refuse(f"in what {name} runs")
        if not option and not takes:
            return
        is_code = option and _CODE_OPTION.fullmatch(word.text) is not None
        takes = is_code or (option and word.text in _WITH_ARGUMENT)
        code = code or is_code


def _editor(name: str, rest: list[Word]) -> None:
    """sed and awk: the values in their programs must be harmless."""
    given = False
    before = ""
    for word in rest:
        text = word.text
        if before in _PROGRAM_OPTIONS:
            _expression(name, word)
            before = ""
        elif before in _FILE_OPTIONS:
            word.refuse(f"where {name} takes the file of its program")
            before = ""
        elif before in _EDITORS[name]:
            before = ""
        elif text.startswith("-") and len(text) > 1:
            before = text
            given = given or text.startswith(("-e", "-f", "--expression", "--file", "--source"))
            if not text.startswith(tuple(_EDITORS[name])):
                word.refuse(f"in an option of {name}")
        elif not given:
            _expression(name, word)
            given = True


def _expression(name: str, word: Word) -> None:
    before = word.text.partition(HOLE)[0]
    if name == "sed":
        command = _SED_COMMAND.fullmatch(before)
        in_text = command is not None and command[2].count(command[1]) <= 1
        harmless = in_text or _SED_ADDRESS.fullmatch(before) is not None
    else:
        harmless = before != ""
    for hole in word.holes:
        hole.allowed = Allowed.PLAIN if harmless else Allowed.DIGITS
