"""`wpk schema`."""

from __future__ import annotations

import json

from consumer.cli import execute, packages
from consumer.cli.context import settings_of
from consumer.cli.execute import CliError
from consumer.cli.options import SchemaOptions
from consumer.cli.output import Output
from schemas import export, page


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
