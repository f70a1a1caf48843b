"""Where placeholders get their values: what may be named, and what each name means at a given moment.

`Scope` is what adapters see; `ExecutionScope` is the one implementation: the names of the format page, in their order.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue

from schemas.problems import did_you_mean


class Unknown(enum.Enum):
    """The value of a placeholder that can't be known yet (a step's output during validation)."""

    VALUE = enum.auto()


UNKNOWN = Unknown.VALUE


class Scope(Protocol):
    """Where placeholders get their values."""

    @property
    def parameters(self) -> Mapping[str, JsonValue | Unknown]:
        """The command's parameters with the package's defaults applied; also the k8s adapter's default targets."""
        ...

    def lookup(self, expression: str) -> JsonValue | Unknown:
        """The value of `${expression}`; UNKNOWN where only a later moment tells.

        Raises KeyError with a message for the user where there is no such value.
        """
        ...


_UPPER = re.compile(r"[A-Z][A-Z0-9_]*")
_ROOT = re.compile(r"[^.\[\]]+")
_PART = re.compile(r"""\.([^.\[\]]+)|\[(\d+)\]|\["((?:[^"\\]|\\.)*)"\]|\['([^'\\]*)'\]""")
_QUOTED_STEP = re.compile(r"""\[(?:"([^"\\]*)"|'([^'\\]*)')\]""")
#: Names that are listed in a message; more would hide the message.
_LISTED = 12


def may_be_secret(expression: str) -> bool:
    """Whether `${expression}` may give a secret: `secrets.NAME`, or an upper-case name that may be one."""
    return expression.startswith("secrets.") or _UPPER.fullmatch(expression) is not None


def secret_name(expression: str) -> str | None:
    """The name of the secret that `${expression}` may mean; None where it can't be one."""
    return expression.removeprefix("secrets.") if may_be_secret(expression) else None


def step_of(expression: str, names: Collection[str]) -> str | None:
    """The step whose output `${expression}` names; None where it names none of them."""
    found = _step_and_rest(expression, names)
    return found[0] if found is not None else None


def _step_and_rest(expression: str, names: Collection[str]) -> tuple[str, str] | None:
    """The step and what follows `.output`. Names may hold dots, so the longest that fits is the one meant."""
    if match := _QUOTED_STEP.match(expression, len("steps")):
        name, rest = match[1] or match[2] or "", expression[match.end() :]
        return (name, rest.removeprefix(".output")) if name in names and _is_output(rest) else None
    after = expression.removeprefix("steps.")
    fitting = [
        name for name in names if after.startswith(name) and _is_output(after[len(name) :]) and after != expression
    ]
    if not fitting:
        return None
    name = max(fitting, key=len)
    return name, after[len(name) :].removeprefix(".output")


def _is_output(rest: str) -> bool:
    return rest == ".output" or rest.startswith((".output.", ".output["))


class _Missing(Exception):
    """There is no such value; the text says why and what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionScope:
    """The values of one step of one execution, or of a package that is only checked (then many are UNKNOWN)."""

    parameters: Mapping[str, JsonValue | Unknown]
    """With the package's defaults applied; UNKNOWN: declared, and given only by a later command."""
    execution_id: str | Unknown
    workflow: str
    attempt: int | Unknown
    outputs: Mapping[str, JsonValue | Unknown]
    """Of the steps that may be named. UNKNOWN: not run yet. None: it has no output (skipped)."""
    secrets: Callable[[str], str | None] | Unknown
    """The value of a secret, None where there is none of that name; UNKNOWN: they can't be asked for now."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The environment variables that the agent's configuration allows."""
    revealed: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    """The secrets that were given out, by name, for masking."""

    def lookup(self, expression: str) -> JsonValue | Unknown:
        """The value of `${expression}`. Raises KeyError whose argument is a sentence for the user."""
        expression = expression.strip()
        try:
            return self._value(expression)
        except _Missing as error:
            raise KeyError(f"${{{expression[:200]}}} has no value: {error}") from None

    def _value(self, expression: str) -> JsonValue | Unknown:
        root = _ROOT.match(expression)
        if root is None:
            raise _Missing("it is empty or no name; write $${ for the text ${ itself")
        name, rest = root[0], expression[root.end() :]
        if rest:
            if name == "parameters":
                return self._parameter(rest)
            if name == "steps":
                return self._output(expression)
            if name == "secrets" and rest.startswith("."):
                return self._secret(rest[1:])
            if name in ("execution", "step"):
                return self._builtin(expression)
        if name in self.parameters:
            return follow(self.parameters[name], rest, f"parameters.{name}")
        if not rest and _UPPER.fullmatch(name):
            return self._upper(name)
        raise _Missing(self._unknown_name(name))

    def _parameter(self, rest: str) -> JsonValue | Unknown:
        match = _PART.match(rest)
        name = next((group for group in match.groups() if group is not None), "") if match else ""
        if match is None or name not in self.parameters:
            raise _Missing(f"no such parameter{_declared(name, self.parameters)}")
        return follow(self.parameters[name], rest[match.end() :], f"parameters.{name}")

    def _output(self, expression: str) -> JsonValue | Unknown:
        found = _step_and_rest(expression, self.outputs)
        if found is None:
            raise _Missing(self._unknown_output(expression))
        name, rest = found
        value = self.outputs[name]
        if value is None:
            raise _Missing(f'the step "{name}" has no output: it was skipped, or gave none')
        return follow(value, rest, f"steps.{name}.output")

    def _unknown_output(self, expression: str) -> str:
        after = expression.removeprefix("steps").removeprefix(".")
        known = max((name for name in self.outputs if after.split(".output")[0] == name or after == name), default=None)
        if known is None and (named := next((n for n in self.outputs if after.startswith(f"{n}.")), None)):
            known = named
        if known is not None:
            return f"of a step only the output can be named: ${{steps.{known}.output}}"
        return f"no such step before this one{_declared(after.split('.output')[0], self.outputs)}"

    def _secret(self, name: str) -> str | Unknown:
        if isinstance(self.secrets, Unknown):
            return UNKNOWN
        value = self.secrets(name)
        if value is None:
            raise _Missing(f'the agent has no secret "{name}"')
        self.revealed[name] = value
        return value

    def _upper(self, name: str) -> str | Unknown:
        """A secret of that name, else an allowed environment variable; a parameter of that name came before."""
        if isinstance(self.secrets, Unknown):
            return UNKNOWN
        value = self.secrets(name)
        if value is not None:
            self.revealed[name] = value
            return value
        if name in self.environment:
            return self.environment[name]
        known = [*self.parameters, *self.environment]
        raise _Missing(
            f"no such parameter or secret, and no environment variable that is allowed{_declared(name, known)}"
        )

    def _builtin(self, expression: str) -> JsonValue | Unknown:
        values: Mapping[str, JsonValue | Unknown] = {
            "execution.id": self.execution_id,
            "execution.workflow": self.workflow,
            "step.attempt": self.attempt,
        }
        if expression not in values:
            raise _Missing(f"no such value{did_you_mean(expression, values)}; there are {', '.join(values)}")
        return values[expression]

    def _unknown_name(self, name: str) -> str:
        steps = f"; a step's output is written ${{steps.{name}.output}}" if name in self.outputs else ""
        return f"no such parameter, secret or step{_declared(name, self.parameters)}{steps}"


def _declared(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    more = ", …" if len(names) > _LISTED else ""
    return f"{did_you_mean(name, names)}; declared: {', '.join(names[:_LISTED]) or 'none'}{more}"


def follow(value: JsonValue | Unknown, path: str, where: str) -> JsonValue | Unknown:
    """The value at `path` (`.a["b.c"][0]`) inside `value`, whose own name is `where`."""
    position = 0
    while position < len(path):
        match = _PART.match(path, position)
        if match is None:
            raise _Missing(f'"{path[position:][:80]}" is no path; write .name, [0] or ["a.b"]')
        if isinstance(value, Unknown):
            position, where = match.end(), where + match[0]
            continue  # only its form can be checked
        value = _step_into(value, match, where)
        position, where = match.end(), where + match[0]
    return value


def _step_into(value: JsonValue, match: re.Match[str], where: str) -> JsonValue:
    plain, index, double, single = match.groups()
    if index is not None:
        if not isinstance(value, list):
            raise _Missing(f"{where} is {_kind(value)}, not a list")
        if int(index) >= len(value):
            raise _Missing(f"{where} has {len(value)} entries, so there is no [{index}]")
        return value[int(index)]
    key = plain if plain is not None else single if single is not None else str(json.loads(f'"{double}"'))
    if not isinstance(value, dict):
        hint = f"; write [{key}] for an entry of a list" if isinstance(value, list) and key.isdecimal() else ""
        raise _Missing(f'{where} is {_kind(value)} and has no field "{key[:80]}"{hint}')
    if key not in value:
        raise _Missing(f'{where} has no field "{key[:80]}"{_fields(key, value)}')
    return value[key]


def _fields(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    more = ", …" if len(names) > _LISTED else ""
    return f"{did_you_mean(name, names)}; it has: {', '.join(names[:_LISTED]) or 'none'}{more}"


def _kind(value: JsonValue) -> str:
    if value is None:
        return "null"
    kinds = {
        bool: "a truth value",
        str: "a text",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), type(value).__name__)
