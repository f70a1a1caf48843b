"""Packages in files: read, looked at as the agent will, and found again by line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from consumer.adapters import registry
from consumer.cli.execute import CliError
from consumer.cli.output import Output
from consumer.cli.render.problems import report
from consumer.ports import Adapter
from consumer.settings import Settings
from consumer.workflow import documents
from consumer.workflow.checks import check_package
from schemas.failure import Problem
from schemas.registry import DIGEST, name_of

#: The largest file that is read; brokers take about 1 MB.
MAX_BYTES = 8 << 20


def read(file: str) -> str:
    """The file's text; `-` is stdin. Raises CliError."""
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1) if file == "-" else _bytes(Path(file))
    except OSError as error:
        raise CliError(f"{file}: can't be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise CliError(f"{file}: larger than {MAX_BYTES >> 20} MB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CliError(f"{file}: no UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _bytes(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def is_reference(file: str) -> bool:
    """Whether it names a package of the registry: a digest or `name-version`, and no file of that name is there."""
    return not Path(file).exists() and (DIGEST.fullmatch(file) is not None or name_of(file) is not None)


def adapters(settings: Settings) -> Mapping[str, Adapter]:
    """The adapters, to look at configurations with: what the agent's own settings forbid is for the agent to say."""
    return registry.AsNeeded(settings.model_copy(update={"http_allow": ("*",), "sandbox": "off"}))


@dataclass(frozen=True, slots=True)
class Looked:
    """A package's document (None where it can't be read) and all that is wrong with it, with lines."""

    document: JsonValue
    problems: tuple[Problem, ...]


def check(file: str, text: str, parameters: dict[str, JsonValue] | None, known: Mapping[str, Adapter]) -> Looked:
    """What the agent would say of that package."""
    try:
        document = documents.parse(text)
    except documents.DocumentError as error:
        return Looked(None, tuple(error.problems))
    checked = check_package(document.value, parameters, known)
    return Looked(document.value, tuple(documents.locate(problem, document.positions) for problem in checked.problems))


def checked(file: str, parameters: dict[str, JsonValue] | None, settings: Settings, output: Output) -> JsonValue:
    """The package's document, to be sent. Shows what is wrong with it; raises CliError where that are errors."""
    looked = check(file, read(file), parameters, adapters(settings))
    errors = [problem for problem in looked.problems if problem.severity == "error"]
    if errors:
        for line in report(file, looked.problems):
            output.note(line.plain)
        raise CliError("nothing was sent; correct the package, or send it as it is with --no-check")
    return looked.document
