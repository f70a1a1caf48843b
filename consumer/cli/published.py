"""`wpk publish` and `wpk packages`: the registry's topic."""

from __future__ import annotations

from pydantic import JsonValue

from consumer.cli import execute, packages
from consumer.cli.context import client_of, settings_of, whoami
from consumer.cli.execute import CliError
from consumer.cli.options import PackagesOptions, PublishOptions
from consumer.cli.output import Output
from consumer.cli.render import tables
from consumer.journal.publications import Published
from consumer.workflow import documents
from schemas.registry import DIGEST, name_of
from schemas.scalars import format_moment


async def publish(options: PublishOptions) -> int:
    """Add a package to the registry. The same package again is no error; its version with another content is one."""
    output = Output(json=options.json)
    outcome = (
        await client_of(options)
        .registry()
        .publish(_content(options, output), published_by=options.published_by or whoami())
    )
    package = outcome.package
    if output.json:
        output.document({**_document(package), "new": outcome.new})
    elif outcome.new:
        output.lines(
            [f"published {package.workflow_id}  {package.digest}", f"run it with: wpk submit {package.workflow_id}"]
        )
    else:
        output.lines([f"{package.workflow_id} is there already, with this very content  {package.digest}"])
    return execute.OK


def _content(options: PublishOptions, output: Output) -> dict[str, JsonValue]:
    if options.no_check:
        try:
            content: JsonValue = documents.parse(packages.read(options.file)).value
        except documents.DocumentError as error:
            raise CliError(f"{options.file}: {error}") from error
    else:
        content = packages.checked(options.file, None, settings_of(options), output)
    if not isinstance(content, dict):
        raise CliError(f"{options.file}: it is no package: it has no metadata")
    return content


async def listed(options: PackagesOptions) -> int:
    """List the packages, or print one as JSON."""
    output, registry, wanted = Output(json=options.json), client_of(options).registry(), options.reference
    if wanted is not None and (DIGEST.fullmatch(wanted) or name_of(wanted)):
        output.document(await registry.package(wanted))
        return execute.OK
    found = [each for each in await registry.packages() if wanted in (None, name_of(each.workflow_id))]
    if output.json:
        for each in found:
            output.document(_document(each))
    else:
        output.lines(tables.packages(found))
    return execute.OK if found or wanted is None else execute.ENDED_OTHERWISE


def _document(package: Published) -> dict[str, JsonValue]:
    return {
        "workflow_id": package.workflow_id,
        "digest": package.digest,
        "published_at": format_moment(package.published_at),
        "published_by": package.published_by,
    }
