"""Turns a model's validation error into problems for a human: every one at once, each with path, value and remedy.

Also the text form of paths, which all problems use: `spec.handlers[2].config.headers["X-Request.Id"]`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple, TypeGuard, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.failure import Problem

Path = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"""[^\s.\[\]"']+""")
_PART = re.compile(r"""\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]|\.?([^\s.\[\]"']+)""")
_SECRET_NAME = re.compile(
    r"secret|passw|passphrase|token|credential|authorization|cookie|api[-_]?key|private[-_]?key", re.IGNORECASE
)
#: What pydantic puts into a location to say which member of a union it tried.
_LABEL = re.compile(
    r"(function-|literal\[|constrained-|nullable\[|lax-or-strict\[|json-or-python\[|is-instance\[|union\[|tagged-union\[|"
    r"(list|tuple|set|frozenset|dict|chain|generator|definition-ref)\[|definition-ref$|"
    r"(str|int|float|bool|bytes|none|decimal|datetime|date|time|timedelta|any|dict|list|tuple|set|frozenset)$|\[key\]$)"
)
_SHOWN = 80
#: Problems that are told of one document.
MAX_PROBLEMS = 200


def path_text(path: Iterable[str | int]) -> str:
    """The path as text: `spec.handlers[2].config`; a key that would be ambiguous stands in brackets, as JSON."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            out += f".{part}" if out else part
        else:
            out += f"[{json.dumps(part, ensure_ascii=False)}]"
    return out


def parse_path(text: str) -> Path:
    """The parts of a path's text; what can't be understood ends it."""
    parts: list[str | int] = []
    position = 0
    while match := _PART.match(text, position):
        index, quoted, plain = match.groups()
        parts.append(int(index) if index is not None else json.loads(quoted) if quoted is not None else plain)
        position = match.end()
    return tuple(parts)


def shown(value: object) -> str:
    """The value for a message: as JSON, at most 80 characters."""
    pieces = json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value[:_SHOWN] if _is_text(value) else value)
    text = ""
    try:
        for piece in pieces:  # only as far as it is shown: the value may be large
            text += piece
            if len(text) > _SHOWN:
                return text[: _SHOWN - 1] + "…"
    except (TypeError, ValueError, RecursionError):
        return f"a value of type {type(value).__name__}"
    return text


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)


def capped(problems: Sequence[Problem], limit: int = MAX_PROBLEMS) -> list[Problem]:
    """The first problems, and how many more there are: what is sent must have a bound."""
    if len(problems) <= limit:
        return list(problems)
    return [*problems[:limit], Problem(path="", message=f"and {len(problems) - limit} more problems")]


def names_a_secret(path: Iterable[str | int]) -> bool:
    """Whether a value at that path is not to be shown, judged by the names of the fields."""
    return any(isinstance(part, str) and _SECRET_NAME.search(part) is not None for part in path)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?`, or nothing where no known name is near. Case and separators weigh little."""
    by_fold = {re.sub(r"[-_.\s]", "", candidate).casefold(): candidate for candidate in known}
    folded = re.sub(r"[-_.\s]", "", name[:200]).casefold()
    near = get_close_matches(folded, by_fold, n=1)
    return f'; did you mean "{by_fold[near[0]]}"?' if near else ""


def problems_of(
    error: ValidationError,
    model: type[BaseModel] | None = None,
    *,
    hidden: Collection[Path] = (),
) -> list[Problem]:
    """All that the error says (at most 200), in the order of the document, one problem for each place.

    `model` is the one that was validated: it knows the names for "did you mean". `hidden` are paths whose values are
    never shown (they may hold secrets), besides those whose names say so.
    """
    return capped([found.problem for found in located_problems(error, model, hidden=hidden)])


class Located(NamedTuple):
    """A problem, with its path in parts and pydantic's names for what is wrong."""

    path: Path
    kinds: frozenset[str]
    problem: Problem


def located_problems(
    error: ValidationError,
    model: type[BaseModel] | None = None,
    *,
    hidden: Collection[Path] = (),
) -> list[Located]:
    """As `problems_of`, for those who judge the problems further."""
    messages: dict[Path, list[str]] = {}
    kinds: dict[Path, set[str]] = {}
    for details in error.errors(include_url=False):
        if _counts_only_good_entries(details):
            continue
        path = _without_labels(details, model)
        message = _message(details, path, model, hidden)
        said = messages.setdefault(path, [])
        if message not in said:
            said.append(message)
        kinds.setdefault(path, set()).add(details["type"])
    return [
        Located(path, frozenset(kinds[path]), Problem(path=path_text(path), message=_joined(said)))
        for path, said in messages.items()
    ]


def _counts_only_good_entries(details: ErrorDetails) -> bool:
    """Whether a list is called too short only because its entries, which have problems of their own, don't count."""
    given, least = details["input"], (details.get("ctx") or {}).get("min_length", 0)
    return details["type"] == "too_short" and isinstance(given, list | tuple | dict) and len(given) >= least


def _joined(messages: Sequence[str]) -> str:
    """One sentence of what the members of a union say: `"x" is no whole number, and none of: original`."""
    first, *others = messages
    start = os.path.commonprefix([*messages]).rpartition(" ")[0] + " "  # noqa: RUF071 - characters are meant
    start = start.removesuffix("no ")
    return ", and ".join([first, *(other.removeprefix(start) for other in others)])


def _message(details: ErrorDetails, path: Path, model: type[BaseModel] | None, hidden: Collection[Path]) -> str:
    kind = details["type"]
    context: Mapping[str, object] = details.get("ctx") or {}
    if kind == "missing":
        return "required, but missing"
    if kind == "extra_forbidden":
        known = field_names(model, path[:-1]) if model is not None else []
        listed = f"; known: {', '.join(known)}" if 0 < len(known) <= 12 else ""
        return "unknown field" + (did_you_mean(str(path[-1]), known) or listed)
    secret = names_a_secret(path) or any(path[: len(place)] == place for place in hidden)
    if kind in ("value_error", "assertion_error"):
        text = str(context.get("error", details["msg"]))
        return "the value is not valid here (it is not shown: it may be a secret)" if secret else text
    value = "this value" if secret else shown(details["input"])
    maker = _MESSAGES.get(kind)
    return maker(value, context) if maker is not None else f"{value}: {details['msg']}"


def _literal(value: str, context: Mapping[str, object]) -> str:
    expected = str(context.get("expected", ""))
    options = re.findall(r"'((?:[^'\\]|\\.)*)'", expected)
    hint = did_you_mean(value.strip('"'), options)
    return f"{value} is none of: {expected.replace(chr(39), '')}{hint}"


def _tag(value: str, context: Mapping[str, object]) -> str:
    name = str(context.get("discriminator", "")).strip("'")
    expected = str(context.get("expected_tags", "")).replace("'", "")
    if "tag" not in context:
        return f'the field "{name}" is required here; it says which kind this is'
    return f"{name} {shown(context['tag'])} is none of: {expected}"


def _too(what: str) -> Callable[[str, Mapping[str, object]], str]:
    return lambda value, context: f"{value} " + what.format_map({k: _number(v) for k, v in context.items()})


def _number(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is(what: str) -> Callable[[str, Mapping[str, object]], str]:
    return lambda value, _: f"{value} {what}"


_MESSAGES: Mapping[str, Callable[[str, Mapping[str, object]], str]] = {
    "string_type": _is("is no text; put it in quotes"),
    "int_type": _is("is no whole number"),
    "int_parsing": _is("is no whole number"),
    "int_parsing_size": _is("is too large for a whole number"),
    "int_from_float": _is("is no whole number"),
    "float_type": _is("is no number"),
    "float_parsing": _is("is no number"),
    "finite_number": _is("is no finite number"),
    "decimal_parsing": _is("is no number"),
    "bool_type": _is("is neither true nor false"),
    "bool_parsing": _is("is neither true nor false"),
    "none_required": _is("must be null"),
    "dict_type": _is("is no mapping of names to values"),
    "model_type": _is("is no mapping of names to values"),
    "model_attributes_type": _is("is no mapping of names to values"),
    "list_type": _is("is no list"),
    "tuple_type": _is("is no list"),
    "set_type": _is("is no list"),
    "frozen_set_type": _is("is no list"),
    "literal_error": _literal,
    "enum": _literal,
    "union_tag_invalid": _tag,
    "union_tag_not_found": _tag,
    "greater_than": _too("is too small; it must be more than {gt}"),
    "greater_than_equal": _too("is too small; the least is {ge}"),
    "less_than": _too("is too large; it must be less than {lt}"),
    "less_than_equal": _too("is too large; the most is {le}"),
    "multiple_of": _too("is no multiple of {multiple_of}"),
    "string_too_short": _too("is too short; at least {min_length} characters"),
    "string_too_long": _too("is too long; at most {max_length} characters"),
    "too_short": _too("has too few entries; at least {min_length}"),
    "too_long": _too("has too many entries; at most {max_length}"),
    "string_pattern_mismatch": _too("does not match the pattern {pattern}"),
    "invalid-json-value": _is("is no JSON value"),
    "datetime_parsing": _is("is no time; write ISO 8601: 2026-01-01T00:00:00Z"),
    "datetime_from_date_parsing": _is("is no time; write ISO 8601: 2026-01-01T00:00:00Z"),
    "url_parsing": _is("is no URL"),
}


# --- what the model knows ---------------------------------------------------------------------------------------


def _without_labels(details: ErrorDetails, model: type[BaseModel] | None) -> Path:
    """The place in the document: the location without the names of union members that pydantic puts into it."""
    location = details["loc"]
    if model is None:
        return tuple(part for part in location if isinstance(part, int) or not _LABEL.match(part))
    path: list[str | int] = []
    here: list[object] = [model]
    for index, part in enumerate(location):
        last = index == len(location) - 1
        below = _below(here, part)
        if below is None and isinstance(part, str):
            if last and details["type"] in ("extra_forbidden", "missing"):
                path.append(part)
                continue
            tagged = _members(here, part)
            if tagged or _LABEL.match(part) or any(isinstance(t, type) for t in here):
                here = tagged or here
                continue
        path.append(part)
        here = below or []
    return tuple(path)


def field_names(model: type[BaseModel], path: Path) -> list[str]:
    """The names of the fields that may stand at that path of the model's document, as they are written in it."""
    here: list[object] = [model]
    for part in path:
        here = _below(here, part) or []
    names = {
        field.alias or name
        for kind in here
        if isinstance(kind, type) and issubclass(kind, BaseModel)
        for name, field in kind.model_fields.items()
    }
    return sorted(names)


def _below(kinds: Sequence[object], part: str | int) -> list[object] | None:
    """The types of the value that stands under `part` in a value of one of these types; None where none has it."""
    found: list[object] = []
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name, field in kind.model_fields.items():
                if part in (name, field.alias):
                    found += _alternatives(field.annotation)
        elif isinstance(part, str) and _origin(kind) in (dict, Mapping):
            found += _alternatives(get_args(kind)[1]) or [object()]
        elif isinstance(part, int) and _origin(kind) in (list, tuple, set, frozenset, Sequence):
            found += _alternatives(next(iter(get_args(kind)), None)) or [object()]
    return found or None


def _members(kinds: Sequence[object], label: str) -> list[object]:
    """The models among `kinds` that the label means: by their name, or by the tag that tells them apart."""
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if len(models) < 2:
        return []
    named: list[object] = [model for model in models if model.__name__ == label]
    return named or [
        model
        for model in models
        if any(label in map(str, get_args(field.annotation)) for field in model.model_fields.values())
    ]


def _origin(kind: object) -> object:
    return getattr(kind, "__origin__", None)


def _alternatives(annotation: object) -> list[object]:
    """What a value of that annotation may be: the members of unions, without `Annotated` and aliases."""
    return list(_flat(annotation))


def _flat(annotation: object) -> Iterator[object]:
    if annotation is None or annotation is type(None):
        return
    name = type(annotation).__name__
    if name in ("UnionType", "_UnionGenericAlias", "Union"):
        for member in get_args(annotation):
            yield from _flat(member)
    elif name == "_AnnotatedAlias":
        yield from _flat(get_args(annotation)[0])
    elif name == "TypeAliasType" and getattr(annotation, "__name__", "") != "JsonValue":
        yield from _flat(getattr(annotation, "__value__", None))
    else:
        yield annotation
