"""`wpk validate` and `wpk schema`: what needs no broker."""

from __future__ import annotations

import json

from pydantic import JsonValue

from consumer.cli import execute, packages
from consumer.cli.context import settings_of
from consumer.cli.execute import CliError
from consumer.cli.options import SchemaOptions, ValidateOptions
from consumer.cli.output import Output
from consumer.cli.render.problems import report
from consumer.cli.run import parse_parameters
from schemas import export, page


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


def schema(options: SchemaOptions) -> int:
    """Write the JSON Schemas of packages, commands, events and step configurations, and the AsyncAPI document.

    In a directory also that document's page for humans.
    """
    settings = settings_of(options)
    configs = {name: adapter.config_model for name, adapter in packages.adapters(settings).items()}
    documents = export.documents(configs, prefix=settings.topic_prefix)
    output = Output(json=options.directory is None)
    if options.directory is None:
        output.document(dict(documents))
        return execute.OK
    try:
        texts = {
            name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in documents.items()
        }
        for name, text in {**texts, "asyncapi/index.html": page.page(documents)}.items():
            path = options.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(f"{error.filename}: can't be written: {error.strerror}") from error
    output.lines([f"wrote {len(documents)} documents to {options.directory}"])
    return execute.OK
