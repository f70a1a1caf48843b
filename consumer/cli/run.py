"""`wpk submit` and `wpk plan`."""

from __future__ import annotations

from pydantic import ValidationError

from consumer.cli import execute, packages
from consumer.cli.context import client_of, duration, settings_of, whoami
from consumer.cli.execute import CliError
from consumer.cli.options import PackageOptions, SubmitOptions
from consumer.cli.output import Output
from consumer.cli.parameters import parse_labels, parse_parameters
from consumer.cli.render.plan import plan as rendered
from consumer.cli.render.problems import texts
from consumer.cli.render.summary import plan_document
from consumer.cli.render.watch import WatchView
from consumer.cli.watching import Look, Sending, look_on, send, sent
from consumer.client import new_execution_id
from schemas.commands import ExecuteCommand
from schemas.events import Status
from schemas.problems import problems_of


async def submit(options: SubmitOptions) -> int:
    """Run a workflow package: publish an execute command, and look on with --watch."""

    output = Output(json=options.json)
    command, client = _command(options, output), client_of(options)
    if command.dry_run_id is not None and options.id is None:
        beside = await client.id_beside(command.dry_run_id)
        command = command.model_copy(update={"execution_id": beside})
    sending = Sending(watch=options.watch, timeout=duration(options.timeout, "--timeout"), known=options.id is not None)
    return await send(client, command, output, sending)


async def plan(options: PackageOptions) -> int:
    """Show what a package would do: submit it as a dry run and print each step's difference."""

    output = Output(json=options.json)
    command = _command(options, output).model_copy(update={"dry_run": True})
    client, timeout = client_of(options), duration(options.timeout, "--timeout")
    async with sent(client, command, known=options.id is not None) as (follower, published, after):
        look = Look(view=WatchView(), answer_to=published, after=after, timeout=timeout, silent=True)
        outcome = await look_on(follower, output, look)
    code = outcome.code(frozenset({Status.COMPLETED}))
    if outcome.state is None:
        return code
    if output.json:
        output.document(plan_document(outcome.state, outcome.refused))
        return code
    output.lines(rendered(outcome.state) if outcome.state.steps else [])
    if code != execute.OK:
        reasons = texts(outcome.refused) or [outcome.state.error_message or "it did not complete"]
        output.lines([f"no plan: {reason}" for reason in reasons])
    return code


def _command(options: PackageOptions, output: Output) -> ExecuteCommand:
    """The execute command; raises CliError where the package or an option is wrong."""

    parameters = parse_parameters(options.parameter or ())
    fields: dict[str, object] = {}
    if packages.is_reference(options.file):
        fields["workflow_id"] = options.file
    elif options.no_check:
        fields["wpk_content"] = packages.read(options.file)
    else:
        fields["wpk_content"] = packages.checked(options.file, parameters, settings_of(options), output)
    fields |= {
        "execution_id": options.id or new_execution_id(),
        "parameters": parameters,
        "requested_by": options.requested_by or whoami(),
        "labels": parse_labels(options.label or ()),
    }
    if isinstance(options, SubmitOptions):
        fields |= {
            "dry_run": options.dry_run,
            "validate_only": options.validate_only,
            "dry_run_id": options.dry_run_id,
            "timeout": duration(options.run_timeout, "--run-timeout"),
            "deadline": options.deadline,
        }
    try:
        return ExecuteCommand.model_validate(fields)
    except ValidationError as error:
        raise CliError("; ".join(str(problem) for problem in problems_of(error, ExecuteCommand))) from error
