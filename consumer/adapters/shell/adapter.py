"""Steps of type `shell`: checks their configuration and puts its values in place."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import cast

from pydantic import JsonValue

from consumer.adapters.shell import bubblewrap, cgroup, facts, quoting, sandbox
from consumer.adapters.shell.action import ShellAction, Surroundings
from consumer.adapters.shell.config import ShellConfig, as_text, not_carried
from consumer.errors import ConfigError, PermanentError
from consumer.ports import UNKNOWN, Facts, JsonObject, Plan, Scope, StepContext
from consumer.workflow import values
from schemas.failure import Problem

#: Bytes of one argument or variable that Linux takes (MAX_ARG_STRLEN, execve(2)), its name and end included.
_LARGEST = 128 * 1024
#: Bytes of all of them together; Linux takes at least a quarter of the stack's limit, 2 MiB as a rule.
_LARGEST_SUM = 1024 * 1024
_MOST_VALUES = 1000
#: Variables whose value some programs run as code or load code from.
_CODE_VARIABLES = frozenset(
    {"BASH_ENV", "ENV", "GIT_SSH_COMMAND", "LD_AUDIT", "LD_LIBRARY_PATH", "LD_PRELOAD", "LUA_INIT", "NODE_OPTIONS"}
    | {"PERL5DB", "PERL5LIB", "PERL5OPT", "PROMPT_COMMAND", "PS4", "PYTHONPATH", "PYTHONSTARTUP", "RUBYLIB", "RUBYOPT"}
)


class ShellAdapter:
    """Runs commands, each in a sandbox of its own."""

    def __init__(
        self,
        *,
        mode: sandbox.Mode = "required",
        environment: Iterable[str] = (),
        grace: float = 5.0,
        sizes: bubblewrap.Sizes | None = None,
        levels: Sequence[sandbox.Level] = sandbox.LEVELS,
        find_groups: Callable[[], cgroup.Groups | None] = cgroup.find,
    ) -> None:
        """`environment`: names of the agent's own variables that commands may have.

        `grace`: seconds between SIGTERM and SIGKILL. `levels`: the sandboxes that are looked for. `find_groups`: finds
        where control groups can be made.
        """
        self._sandbox = sandbox.Sandbox(mode, sizes, levels, find_groups)
        names = tuple(environment)
        self._surroundings = Surroundings(
            sandbox=self._sandbox,
            environment={name: os.environ[name] for name in names if name in os.environ},
            grace=grace,
        )

    @property
    def name(self) -> str:
        return "shell"

    @property
    def config_model(self) -> type[ShellConfig]:
        return ShellConfig

    async def report(self) -> sandbox.Report:
        """What commands run in here, tried out; for health, the start's line and the audit."""
        return await self._sandbox.report()

    def check(self, config: JsonObject, scope: Scope) -> Sequence[Problem]:
        """All that is wrong. A value's place in the script counts too, whatever the value is."""
        prepared = _Prepared(config, scope)
        return [*prepared.problems, *values.check_config(ShellConfig, prepared.rest, scope)]

    def prepare(self, config: JsonObject, scope: Scope) -> ShellAction:
        prepared = _Prepared(config, scope)
        if prepared.problems:
            raise ConfigError([*prepared.problems, *values.check_config(ShellConfig, prepared.rest, scope)])
        if prepared.missing:
            message = f"the value of ${{{prepared.missing[0]}}} is not known yet"
            raise ConfigError([Problem(path="command", message=message)])
        bound = values.bind(ShellConfig, prepared.rest, scope)
        if too_large := list(_too_large(bound, prepared.variables)):
            raise ConfigError(too_large)
        return ShellAction(
            config=bound,
            shown=prepared.shown if bound.args is None else shlex.join(bound.args),
            values=prepared.variables,
            expressions={} if prepared.script is None else prepared.script.variables,
            surroundings=self._surroundings,
        )

    def facts(self, config: JsonObject, scope: Scope) -> Sequence[Facts]:
        """What the step touches, for the policy."""
        return [facts.of(config, scope)]

    async def plan_undo(self, record: JsonObject, step: StepContext) -> Plan:
        raise _nothing_to_undo()

    async def undo(self, record: JsonObject, step: StepContext) -> JsonObject:
        raise _nothing_to_undo()

    async def aclose(self) -> None:
        """Nothing is open: a command belongs to who runs it."""


def _nothing_to_undo() -> PermanentError:
    return PermanentError(
        "nobody knows what a command changed, so it can't be undone; write the undoing into spec.rollback.handlers",
        code="nothing_to_undo",
    )


class _Prepared:
    """A configuration with its script made safe."""

    def __init__(self, config: JsonObject, scope: Scope) -> None:
        self.rest: JsonObject = dict(config)
        self.script: quoting.Script | None = None
        self.variables: dict[str, str] = {}
        self.missing: list[str] = []
        self.shown = ""
        self.problems: list[Problem] = []
        self._scope = scope
        reads_code = False
        command, args = config.get("command"), config.get("args")
        if isinstance(command, str):
            self.script = quoting.render(command)
            known = self._judge(self.script, "command", missing=True)
            variables = self.script.variables
            self.variables = {name: known[each] for name, each in variables.items() if each in known}
            self.missing = [each for each in variables.values() if each not in known]
            self.shown = quoting.shown(command, known)
            # What was a placeholder is one no longer, and what the shell is to expand must not become one.
            self.rest["command"] = self.script.text.replace("${", "$${")
            reads_code = self.script.reads_code
        if isinstance(args, list):
            texts = {index: arg for index, arg in enumerate(args) if isinstance(arg, str)}
            for index, script in zip(texts, quoting.judge_args(list(texts.values())), strict=True):
                self._judge(script, f"args[{index}]", missing=False)
                self._secrets(script, f"args[{index}]")
                reads_code = reads_code or script.reads_code
        self._elsewhere(config, reads_code)

    def _judge(self, script: quoting.Script, path: str, *, missing: bool) -> dict[str, str]:
        """Keeps what is wrong with the script and its values; gives the values that are known, by expression."""
        self.problems += [Problem(path=path, message=message) for message in script.problems]
        known: dict[str, str] = {}
        for expression in dict.fromkeys(hole.expression for hole in script.holes):
            try:
                value = self._scope.lookup(expression)
            except KeyError as error:
                if missing:
                    message = f"{error.args[0]}; the shell's own variables are written $NAME or $${{NAME}}"
                    self.problems.append(Problem(path=path, message=message))
                continue
            if value is UNKNOWN:
                continue
            text = as_text(value)
            if not isinstance(text, str):
                if missing:
                    self.problems.append(Problem(path=path, message=f"${{{expression}}} is null, which is no text"))
                continue
            if reason := not_carried(text):
                self.problems.append(Problem(path=path, message=f"the value of ${{{expression}}} {reason}"))
                continue
            known[expression] = text
        self.problems += [Problem(path=path, message=message) for message in script.refusals(known)]
        return known

    def _secrets(self, script: quoting.Script, path: str) -> None:
        """Everybody on a machine can read the arguments of its processes."""
        for hole in script.holes:
            if hole.expression.startswith("secrets."):
                message = (
                    f"${{{hole.expression}}} would be seen in the list of processes; put it into env "
                    f'(env: {{VALUE: "${{{hole.expression}}}"}}) and let the program read it from there'
                )
                self.problems.append(Problem(path=path, message=message))

    def _elsewhere(self, config: Mapping[str, JsonValue], reads_code: bool) -> None:
        """Places beside the command that become code."""
        if reads_code:
            for expression in _expressions(config.get("stdin")):
                message = (
                    f"${{{expression}}} stands in what the command runs as code; give it as an argument, or by env"
                )
                self.problems.append(Problem(path="stdin", message=message))
        env = config.get("env")
        for name, value in env.items() if isinstance(env, dict) else ():
            if name in _CODE_VARIABLES:
                for expression in _expressions(value):
                    message = f"${{{expression}}} stands in a variable that programs run as code or load code from"
                    self.problems.append(Problem(path=f"env.{name}", message=message))


def _expressions(value: JsonValue) -> Iterator[str]:
    for _, expression in values.expressions(value):
        yield expression


def _too_large(config: ShellConfig, variables: Mapping[str, str]) -> Iterator[Problem]:
    """What the operating system would refuse without a word of where it is."""
    total = 0
    remedy = f"the system takes {_LARGEST // 1024} KiB; give it by stdin"

    def pieces() -> Iterator[tuple[str, int]]:
        if config.command is not None:
            yield "command", _size(config.command)
        for index, arg in enumerate(config.args or ()):
            yield f"args[{index}]", _size(arg)
        for name, value in config.env.items():
            yield f"env.{name}", _size(name) + _size(value)
        for name, value in variables.items():
            yield "command", _size(name) + _size(value)

    for path, size in pieces():
        total += size
        if size > _LARGEST - 2:
            yield Problem(path=path, message=f"it, or a value in it, has {size} bytes; {remedy}")
    if len(variables) > _MOST_VALUES:
        yield Problem(
            path="command", message=f"it has {len(variables)} different placeholders; at most {_MOST_VALUES} go"
        )
    if total > _LARGEST_SUM:
        yield Problem(
            path="", message=f"the command, its values and env have {total} bytes together; at most {_LARGEST_SUM} go"
        )


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def mode_of(text: str) -> sandbox.Mode:
    """The mode of that name. Raises ValueError."""
    if text not in ("required", "preferred", "off"):
        raise ValueError(f'"{text}" is no mode of the sandbox; write required, preferred or off')
    return cast(sandbox.Mode, text)
