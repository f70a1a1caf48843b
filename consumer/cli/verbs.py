"""How a verb is declared: its options are a frozen dataclass, its body a function of it in a module of its own.

The body's module is imported when the verb is called, so that `wpk --help` need not import what verbs need.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any, get_type_hints

import typer

from consumer.cli.options import Options

_HERE = "consumer.cli"


def verb(app: typer.Typer, name: str, options: type[Options], target: str, text: str, *, epilog: str = "") -> None:
    """Adds a verb. `target` is `module:function` in this package: a function of `options` that gives the exit code."""

    def run(**values: Any) -> None:
        module, _, function = target.partition(":")
        execute = importlib.import_module(f"{_HERE}.execute").execute
        body = getattr(importlib.import_module(f"{_HERE}.{module}"), function)
        raise typer.Exit(execute(body, options(**values)))

    hints = get_type_hints(options, include_extras=True)
    fields = _own_first(options)
    parameters = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=hints[field.name]
        )
        for field in fields
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # where typer looks
    run.__annotations__ = {field.name: hints[field.name] for field in fields}
    app.command(name, help=text, epilog=epilog or None)(run)


def _own_first(options: type[Options]) -> list[dataclasses.Field[Any]]:
    """The verb's own options before those that others have too."""
    inherited = {field.name: level for level, base in enumerate(_bases(options)) for field in dataclasses.fields(base)}
    return sorted(dataclasses.fields(options), key=lambda field: inherited[field.name])


def _bases(options: type[Options]) -> list[type[Options]]:
    return [base for base in options.__mro__ if issubclass(base, Options)]


def _default(field: dataclasses.Field[Any]) -> object:
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
