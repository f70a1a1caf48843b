"""`wpk status`, `wpk logs` and `wpk list`."""

from __future__ import annotations

import difflib
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from rich.text import Text

from consumer.cli import execute
from consumer.cli.context import client_of, duration
from consumer.cli.execute import CliError
from consumer.cli.options import ListOptions, LogsOptions, StatusOptions
from consumer.cli.output import Output
from consumer.cli.render import execution, tables
from consumer.cli.render.summary import summary
from consumer.cli.render.text import DIM, clean, utcnow
from consumer.cli.render.watch import WatchView
from consumer.cli.watching import Look, look_on
from consumer.client import Client, Filter
from schemas.events import Event, LogLines, Status
from schemas.scalars import format_moment, parse_duration


async def status(options: StatusOptions) -> int:
    """Show how an execution stands and what to do next; without an ID, all that have not ended."""

    output, client = Output(json=options.json), client_of(options)
    if options.execution_id is None:
        return await _living(client, output)
    if options.watch:
        return await _watch(client, output, options.execution_id, duration(options.timeout, "--timeout"))
    return await _show(client, output, options.execution_id)


async def _show(client: Client, output: Output, execution_id: str) -> int:
    """Exit code 0 while it is not over, and where it did what it should; 1 where it ended otherwise or never was."""

    state = await client.status(execution_id)
    if output.json:
        output.document(summary(state))
    else:
        output.lines(execution.page(state, utcnow()))
    fine = state.status is not None and (not state.over or state.status is Status.COMPLETED)
    return execute.OK if fine else execute.ENDED_OTHERWISE


async def _watch(client: Client, output: Output, execution_id: str, timeout: float | None) -> int:

    async with client.follower(execution_id, since=await client.beginning(execution_id)) as follower:
        outcome = await look_on(follower, output, Look(view=WatchView(), timeout=timeout))
    return outcome.code(frozenset({Status.COMPLETED}))


async def _living(client: Client, output: Output) -> int:

    living = frozenset(status for status in Status if not status.ended)
    return await _list(client, output, Filter(statuses=living), 1000)


async def executions(options: ListOptions) -> int:
    """List executions, the newest first: those that live, and those that ended within the state's retention."""

    silent = duration(options.stuck_after, "--stuck-after") if options.stuck else None
    wanted = Filter(
        statuses=statuses_of(options.status or ()),
        workflow=options.workflow,
        since=moment_of(options.since),
        stuck_since=None if silent is None else datetime.now(UTC) - timedelta(seconds=silent),
    )
    return await _list(client_of(options), Output(json=options.json), wanted, options.limit)


async def _list(client: Client, output: Output, wanted: Filter, limit: int) -> int:

    listing = await client.executions(wanted, most=limit)
    shown = listing.executions
    if output.json:
        for state in shown:
            output.document(summary(state, details=False))
    else:
        output.lines(tables.executions(shown, utcnow()))
    if listing.more:
        output.note(f"{listing.more} more are not shown; raise --limit")
    if listing.unreadable:
        output.note(f"{listing.unreadable} executions can't be read: were they written by a newer version?")
    return execute.OK


async def logs(options: LogsOptions) -> int:
    """Print the output of an execution's steps; with -f also what is to come."""

    output, client = Output(json=options.json), client_of(options)
    if options.follow:
        async with aclosing(client.follow(options.execution_id)) as events:
            async for event in events:
                _print_lines(event, options.step, output)
        return execute.OK
    history = await client.history(options.execution_id)
    found = sum(_print_lines(event, options.step, output) for event in history.events)
    if options.step and not found:
        _check_step(options.step, history.events)
    if history.missing:
        output.note(f"{history.missing} events are not in the topics any more: their retention has passed")
    elif not found:
        output.note("no output")
    return execute.OK


def _check_step(step: str, events: list[Event]) -> None:
    """Raises CliError where the execution has no such step."""

    names = sorted({name for event in events if isinstance(name := getattr(event.data, "step", None), str)})
    if step in names:
        return
    near = difflib.get_close_matches(step, names, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(names) or 'none yet'}"
    raise CliError(f'no step "{step}" began; {hint}')


def _print_lines(event: Event, step: str | None, output: Output) -> int:
    """How many lines were written."""

    data = event.data
    if not isinstance(data, LogLines) or (step is not None and data.step != step):
        return 0
    for line in data.lines:
        if output.json:
            output.document(
                {
                    "time": format_moment(line.time),
                    "step": data.step,
                    "phase": data.phase,
                    "attempt": data.attempt,
                    "stream": data.stream,
                    "text": line.text,
                }
            )
        else:
            head = f"{line.time:%H:%M:%S} {clean(data.step or 'agent', 60)} "
            mark = {"stdout": "│", "stderr": "!", "agent": "·"}[data.stream]
            output.lines([Text(head, style=DIM).append(f"{mark} ").append(clean(line.text, 10_000), style="not dim")])
    return len(data.lines)


def statuses_of(given: list[str] | tuple[str, ...]) -> frozenset[Status]:

    try:
        return frozenset(Status(each.strip().replace("-", "_")) for text in given for each in text.split(","))
    except ValueError as error:
        raise CliError(f"--status {','.join(given)}: no such status; there are: {', '.join(Status)}") from error


def moment_of(text: str | None, option: str = "--since") -> datetime | None:
    """A span before now, or a moment. Raises CliError."""

    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise CliError(f"{option} {text}: write a span like 2h or 7d, or a time like 2026-01-01T00:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
