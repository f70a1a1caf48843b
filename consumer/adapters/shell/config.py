"""The configuration of a shell step."""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from schemas.scalars import Duration, Quantity

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Names that the agent itself gives to the command.
RESERVED_PREFIX = "WPK_"


def as_text(value: object) -> object:
    """A value as a command sees it: text as it is, everything else as compact JSON (`8080`, `true`, `["a"]`)."""
    if isinstance(value, str) or value is None:
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def not_carried(text: str) -> str | None:
    """Why neither an argument nor a variable of a process can hold that text; None where they can."""
    if "\0" in text:
        return "holds a NUL character, which neither an argument nor a variable of a process can carry"
    if any("\ud800" <= char <= "\udfff" for char in text):
        return "holds half of a surrogate pair, which is no character"
    return None


def _carried(value: str) -> str:
    if reason := not_carried(value):
        raise ValueError(reason)
    return value


_SCHEMA = WithJsonSchema({"anyOf": [{"type": t} for t in ("string", "number", "boolean", "object", "array")]})

#: Anything but null; what is no text becomes compact JSON.
Text = Annotated[str, BeforeValidator(as_text), _SCHEMA]
#: A script: nothing but text.
ScriptText = Annotated[str, AfterValidator(_carried)]
#: As Text, for a place where the operating system takes no NUL.
Argument = Annotated[str, BeforeValidator(as_text), AfterValidator(_carried), _SCHEMA]


def _variable_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f'"{name[:80]}" is no name of a variable; use letters, digits and _, not a digit first')
    if name.startswith(RESERVED_PREFIX):
        raise ValueError(f'"{name[:80]}" is reserved: the agent sets the variables that begin with {RESERVED_PREFIX}')
    return name


VariableName = Annotated[str, AfterValidator(_variable_name)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Limits(_Strict):
    """What the command and everything it starts may use. Without a field the agent's default holds."""

    cpu: Duration | None = None
    """Processor time of each process, at least 1s; beyond it the process is killed (SIGXCPU, then SIGKILL)."""
    memory: Quantity | None = None
    """Memory of the step together, where the agent has control groups for it (docs/security.md). Else the address space
    of each process, of which programs that reserve much more than they use (Go, Java, Node) need gigabytes."""
    processes: int | None = Field(default=None, ge=1, le=100_000)
    """Processes and threads of the step together; in `landlock`, how many more its user may have than it had at the
    start; without a sandbox, of the step's user."""
    file_size: Quantity | None = None
    """The largest file that the command may write, in bytes."""
    open_files: int | None = Field(default=None, ge=8, lt=2**31)
    """Open files of each process."""

    @model_validator(mode="after")
    def _cpu_is_at_least_a_second(self) -> Limits:
        if self.cpu is not None and self.cpu < 1:
            raise ValueError("limits.cpu is less than 1s, the least that the system can count")
        return self


class ShellConfig(_Strict):
    """A command, and what it may see and use."""

    command: ScriptText | None = Field(default=None, min_length=1)
    """A script for `/bin/sh -c`. A placeholder in it is data wherever it stands, always one word, never code."""
    args: tuple[Argument, ...] | None = Field(default=None, min_length=1, max_length=4000)
    """A program and its arguments, run without a shell."""
    env: dict[VariableName, Argument] = Field(default_factory=dict, max_length=1000)
    """Variables of the command's environment; the place for secrets."""
    cwd: Argument = Field(default=".", min_length=1)
    """The working directory; relative to the step's own empty one (`/workspace`), which is writable and then removed.

    An absolute path must be visible in the sandbox: /usr and what belongs to it, /etc in parts, and in bubblewrap /tmp
    and /workspace. In `landlock` the step's own directory lies elsewhere; HOME and TMPDIR name it.
    """
    stdin: Text | None = None
    """What the command reads from its standard input; without it, nothing."""
    success_codes: tuple[Annotated[int, Field(ge=0, le=255, strict=True)], ...] = Field(default=(0,), min_length=1)
    """The exit codes that mean success; a command killed by signal n has 128 + n."""
    parse: Literal["json", "lines", "none"] = "none"
    """How stdout becomes the output's `parsed`."""
    limits: Limits = Limits()
    network: bool = Field(default=False, strict=True)
    """Whether the command reaches the network; without it there is only its own loopback, in `landlock` no socket."""

    @model_validator(mode="after")
    def _one_of_command_and_args(self) -> ShellConfig:
        if self.command is None and self.args is None:
            raise ValueError("neither command nor args is given; write what is to run into one of them")
        if self.command is not None and self.args is not None:
            raise ValueError("command and args exclude each other; keep one of them")
        if self.command is not None and not self.command.strip():
            raise ValueError("command is empty")
        if self.args is not None and not self.args[0]:
            raise ValueError("args names no program: its first item is empty")
        return self
