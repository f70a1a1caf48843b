"""Conditions: `when` of a step and `expect` of an api step, in CEL (https://cel.dev), bounded before they run.

The library has no limit of its own: a `filter` copies what it has gathered at each element, a regular expression is
compiled at each use, and a long chain of operators ends the process by its stack. So a condition is read here first:

- at most 4096 characters and 512 tokens, which bounds the depth of what is parsed;
- only the functions and macros named below; `map` is refused (`exists` and `all` say the same without copies);
- macros nest at most twice, and a `filter` neither holds another macro nor stands in one;
- the pattern of `matches` is a literal of bounded size;
- what is used of the data is cut out of it, measured, and the time the condition may take on it estimated (by
  coefficients that were measured, rounded up); above `MAX_SECONDS` it is refused, with what makes it expensive.

A key that is not there is an error, as CEL has it; `has(steps.check.output)` asks whether it is.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol, cast

from pydantic import JsonValue

from consumer.errors import AgentError
from consumer.workflow import cost, reading
from schemas.problems import did_you_mean

MAX_LENGTH = 4096
#: Estimated; what was measured stays well below.
MAX_SECONDS = 2.0

_SYNTAX_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?([^\n]*)")


class ConditionError(AgentError):
    """A condition that can't be compiled, or not be evaluated on these values."""


class _Program(Protocol):
    def execute(self, context: dict[str, object]) -> object: ...


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """A compiled condition. Holds no resource; may be used again and by several threads."""

    text: str
    _program: _Program
    _reading: reading.Reading

    @property
    def roots(self) -> frozenset[str]:
        """The variables it uses: parameters, steps, …"""
        return frozenset(chain[0] for chain in self._reading.chains)

    @property
    def steps(self) -> frozenset[str]:
        """The names of steps that it mentions, as `steps.NAME` or `steps["NAME"]`."""
        return frozenset(chain[1] for chain in self._reading.chains if chain[0] == "steps" and len(chain) > 1)

    @property
    def depends_on_steps(self) -> bool:
        """Whether it looks at any step at all, also where the names are computed (`steps.exists(name, …)`)."""
        return "steps" in self.roots

    def uses(self, root: str) -> frozenset[str] | None:
        """Which fields of a variable it looks at; None where that can't be told (`has` of the whole, a macro)."""
        chains = [chain for chain in self._reading.chains if chain[0] == root]
        return None if any(len(chain) == 1 for chain in chains) else frozenset(chain[1] for chain in chains)

    def evaluate(self, variables: Mapping[str, JsonValue]) -> bool:
        """Whether the condition holds. Raises ConditionError."""
        for name in sorted(self.roots):
            if name not in variables:
                known = sorted(variables)
                hint = did_you_mean(name, known)
                raise ConditionError(f'there is no "{name}" here{hint}; there are {", ".join(known)}')
        used = reading.prune(variables, self._reading.chains)
        estimate = cost.estimate(self._reading, cost.measure(used))
        if estimate.seconds > MAX_SECONDS:
            raise ConditionError(
                f"it could take {estimate.seconds:.0f} s on these values ({estimate.reason}), and at most "
                f"{MAX_SECONDS:g} s are allowed; let it look at less"
            )
        result = self._run(used)
        if not isinstance(result, bool):
            raise ConditionError(f"it gives {_kind(result)}, not true or false; compare it with something")
        return result

    def _run(self, variables: dict[str, JsonValue]) -> object:
        try:
            return self._program.execute(cast(dict[str, object], variables))
        except KeyError as error:
            key = str(error.args[0])[:80] if error.args else ""
            raise ConditionError(f'there is no key "{key}"; guard it with has(…)') from error
        except ZeroDivisionError as error:
            raise ConditionError("it divides by zero") from error
        except Exception as error:
            raise ConditionError(_first_sentence(str(error))) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise ConditionError("the CEL library gave up on it; write it in another way") from error


def compile_condition(text: str) -> Condition:
    """The condition, ready to be evaluated. Raises ConditionError: a syntax error, or a form that is not allowed."""
    if not text.strip():
        raise ConditionError("it is empty; write an expression that is true or false")
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"it has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    # The library first for syntax errors: but only what is known to be shallow may reach it.
    tokens = reading.tokenize(text)
    if isinstance(tokens, str):
        raise ConditionError(tokens)
    program = _compile(text)
    found = reading.read(tokens)
    if isinstance(found, str):
        raise ConditionError(found)
    return Condition(text, program, found)


def names(text: str) -> frozenset[str]:
    """The steps that the condition mentions. Raises ConditionError."""
    return compile_condition(text).steps


@functools.cache
def _library() -> ModuleType:
    """The CEL library, without the command line that it imports too: a tenth of a second for nothing.

    It stays out by standing in its place while the library is imported.
    """
    if "cel" not in sys.modules:
        sys.modules.setdefault("cel.cli", ModuleType("cel.cli"))
    return importlib.import_module("cel")


def _compile(text: str) -> _Program:
    try:
        return cast(_Program, _library().compile(text))
    except Exception as error:
        match = _SYNTAX_ERROR.search(str(error))
        if match is None:
            raise ConditionError(_first_sentence(str(error))) from error
        line, column, message = match.groups()
        if "Recursion" in message:
            raise ConditionError("it is nested too deeply; use fewer brackets") from error
        where = f"column {column}" if line == "1" else f"line {line}, column {column}"
        said = message.partition(" expecting ")[0].replace("'<EOF>'", "the end")[:200]
        raise ConditionError(f"{where}: {said}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ConditionError("the CEL library gave up on it; write it in another way") from error


def _first_sentence(text: str) -> str:
    if text.startswith("Undefined variable or function: "):
        name = text.split("'")[1] if "'" in text else ""
        return f'"{name}" is not defined for values of these types'
    first = text.strip().split("\n")[0].split(". ")[0].rstrip(".")
    return (first[:1].lower() + first[1:])[:200]


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")
