"""Placeholders in a step's configuration: found, and replaced by their values.

A text that is one placeholder becomes the value itself, of whatever type. In a longer text values stand as text:
strings as they are, all else as compact JSON. `$${` is the text `${`. A value that was put in is data: it is never
looked through for placeholders again. Nothing here raises for a value that is missing; every problem is collected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from consumer.errors import ConfigError
from consumer.workflow.scope import UNKNOWN, Scope, Unknown, may_be_secret, secret_name
from schemas.failure import Problem
from schemas.problems import Located, Path, located_problems, parse_path, path_text, problems_of

_TOKEN = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
#: Configurations are decoded with a bound on depth; this one only keeps a mistake from ending the process.
_MAX_DEPTH = 200

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Substituted:
    """A value after its placeholders were replaced."""

    value: JsonValue
    """Where a placeholder is unknown or has no value, its text stands as it was."""
    unknown: frozenset[Path]
    """The leaves whose value only a later moment tells."""
    sensitive: frozenset[Path]
    """The leaves that may hold a secret: they are never to be shown."""
    problems: list[Problem]
    """One for each placeholder without a value, with paths inside the value."""


def expressions(value: JsonValue) -> Iterator[tuple[str, str]]:
    """The placeholders' expressions, each with the path of the text it stands in: `[2].config.url`, `namespace`."""
    for path, text in _texts(value, ()):
        for match in _TOKEN.finditer(text):
            if match[1] is not None and match[2]:
                yield path_text(path), match[1].strip()


def secret_names(value: JsonValue) -> frozenset[str]:
    """The names of the secrets that placeholders in the value may mean (an upper-case name may be one)."""
    named = (secret_name(expression) for _, expression in expressions(value))
    return frozenset(name for name in named if name is not None)


def escape(text: str) -> str:
    """The text written so that it has no placeholder."""
    return text.replace("${", "$${")


def substitute(value: JsonValue, scope: Scope) -> Substituted:
    """The value with every placeholder replaced, and all that stands against it."""
    work = _Substitution(scope)
    return Substituted(
        value=work.replaced(value, ()),
        unknown=frozenset(work.unknown),
        sensitive=frozenset(work.sensitive),
        problems=work.problems,
    )


def bind(model: type[Model], config: dict[str, JsonValue], scope: Scope) -> Model:
    """The configuration with its values in place, as the adapter's model. Raises ConfigError with every problem."""
    found = substitute(config, scope)
    unknown = sorted(path_text(path) for path in found.unknown)
    problems = [*found.problems, *(Problem(path=path, message="the value is not known yet") for path in unknown)]
    if not problems:
        try:
            return model.model_validate(found.value)
        except ValidationError as error:
            problems = problems_of(error, model, hidden=found.sensitive)
            raise ConfigError(problems) from None  # the cause would show values that may be secret
    raise ConfigError(problems)


def check_config(model: type[BaseModel], config: dict[str, JsonValue], scope: Scope) -> list[Problem]:
    """All that is wrong with the configuration as far as its values are known."""
    found = substitute(config, scope)
    try:
        model.model_validate(found.value)
    except ValidationError as error:
        unclear = [*found.unknown, *(parse_path(problem.path) for problem in found.problems)]
        located = located_problems(error, model, hidden=found.sensitive)
        return found.problems + [each.problem for each in located if not any(_depends(each, leaf) for leaf in unclear)]
    return found.problems


def _depends(located: Located, leaf: Path) -> bool:
    """Whether the problem may go away once the leaf has its value."""
    if located.path[: len(leaf)] == leaf:
        return "extra_forbidden" not in located.kinds
    # A union of kinds complains where the mapping stands, though it is the kind's name that is unknown.
    return located.path == leaf[:-1] and not located.kinds.isdisjoint({"union_tag_invalid", "union_tag_not_found"})


@dataclass(slots=True)
class _Substitution:
    scope: Scope
    unknown: set[Path] = field(default_factory=set)
    sensitive: set[Path] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def replaced(self, value: JsonValue | Unknown, path: Path) -> JsonValue:
        if isinstance(value, str):
            return self._text(value, path) if "${" in value else value
        if isinstance(value, Unknown):
            self.unknown.add(path)
            return "${unknown}"
        if isinstance(value, dict | list) and len(path) >= _MAX_DEPTH:
            self._problem(path, f"nested more than {_MAX_DEPTH} levels deep")
            return None
        if isinstance(value, dict):
            return {self._key(key, path): self.replaced(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.replaced(item, (*path, index)) for index, item in enumerate(value)]
        return value

    def _key(self, key: str, path: Path) -> str:
        """Names are not values: which fields there are must be known before anything runs."""
        for match in _TOKEN.finditer(key):
            if match[1] is not None:
                message = (
                    f"a placeholder can't stand in the name of a field; write $${match[0][1:]} for the text itself"
                )
                self._problem((*path, key), message)
        return key.replace("$${", "${")

    def _text(self, text: str, path: Path) -> JsonValue:
        whole = _TOKEN.fullmatch(text)
        if whole is not None and whole[1] is not None:
            value = self._lookup(whole, path)
            return text if isinstance(value, Unknown) else value
        out: list[str] = []
        end = 0
        for match in _TOKEN.finditer(text):
            out.append(text[end : match.start()])
            end = match.end()
            if match[1] is None:
                out.append("${")
            else:
                value = self._lookup(match, path)
                out.append(match[0] if isinstance(value, Unknown) else as_text(value))
        return "".join(out) + text[end:]

    def _lookup(self, match: re.Match[str], path: Path) -> JsonValue | Unknown:
        """The placeholder's value; UNKNOWN also where there is none: then that is a problem, not an unknown leaf."""
        expression = match[1].strip()
        if may_be_secret(expression):
            self.sensitive.add(path)
        if not match[2]:
            self._problem(path, f'"{match[0][:80]}" has no closing }}; write $${{ for the text ${{ itself')
            return UNKNOWN
        try:
            value = self.scope.lookup(expression)
        except KeyError as error:
            hint = "" if re.fullmatch(r"""[\w.\-\[\]"' /]*""", expression) else "; write $${ for the shell's own ${"
            self._problem(path, f"{error.args[0]}{hint}")
            return UNKNOWN
        if isinstance(value, Unknown):
            self.unknown.add(path)
        return value

    def _problem(self, path: Path, message: str) -> None:
        problem = Problem(path=path_text(path), message=message)
        if problem not in self.problems:
            self.problems.append(problem)


def as_text(value: JsonValue) -> str:
    """The value inside a longer text: a string as it is, all else as compact JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _texts(value: JsonValue, path: Path) -> Iterator[tuple[Path, str]]:
    """Every text of the value with its path, in the document's order."""
    pending: list[tuple[Path, JsonValue]] = [(path, value)]
    while pending:
        path, item = pending.pop()
        if isinstance(item, str):
            yield path, item
        elif isinstance(item, dict):
            pending.extend(reversed([((*path, key), below) for key, below in item.items()]))
        elif isinstance(item, list):
            pending.extend(reversed([((*path, index), below) for index, below in enumerate(item)]))
