"""`wpk validate`: what needs no broker, and is there at once."""

from __future__ import annotations

from pydantic import JsonValue

from consumer.cli import execute, packages
from consumer.cli.context import settings_of
from consumer.cli.options import ValidateOptions
from consumer.cli.output import Output
from consumer.cli.parameters import parse_parameters
from consumer.cli.render.problems import report


def validate(options: ValidateOptions) -> int:
    """Check packages offline: all errors with their line, path and remedy."""

    output = Output(json=options.json)
    parameters = parse_parameters(options.parameter) if options.parameter else None
    adapters = packages.adapters(settings_of(options))
    wrong = False
    for file in options.files:
        problems = packages.check(file, packages.read(file), parameters, adapters).problems
        errors = [problem for problem in problems if problem.severity == "error" or options.strict]
        wrong = wrong or bool(errors)
        if output.json:
            found: list[JsonValue] = [problem.model_dump(mode="json", exclude_none=True) for problem in problems]
            output.document({"file": file, "valid": not errors, "problems": found})
        else:
            output.lines(report(file, problems))
    return execute.WRONG if wrong else execute.OK
