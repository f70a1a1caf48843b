"""`wpk audit timeline` and `wpk explain`: one execution for a human, from its events alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich.text import Text

from consumer.audit.chain import Chain
from consumer.audit.entry import Entry
from consumer.audit.explain import explain as explained
from consumer.audit.facts import Facts
from consumer.audit.findings import Report
from consumer.audit.spans import Timeline
from consumer.audit.spans import timeline as drawn
from consumer.cli import execute
from consumer.cli.context import client_of, connection_of, settings_of
from consumer.cli.execute import CliError
from consumer.cli.options import ExplainOptions, TimelineOptions
from consumer.cli.output import Output
from consumer.cli.render import execution, png
from consumer.cli.render import timeline as picture
from consumer.cli.render.summary import summary
from consumer.cli.render.text import BAD, DIM, clean, utcnow
from consumer.client import Auditor, UnknownExecution, Window
from consumer.client.read import read_state
from consumer.journal.topics import TopicNames
from schemas.events import Event, EventError, decode
from schemas.execution import ExecutionState, apply
from schemas.scalars import format_moment


async def timeline(options: TimelineOptions) -> int:
    """Draw an execution over time: steps, attempts, waits, the rollback."""
    output = Output(json=options.json)
    history = await client_of(options).history(options.execution_id)
    found = drawn(history.events, utcnow())
    if found is None:
        raise UnknownExecution(options.execution_id)
    title = f"{execution.title(history.state)}   execution {clean(options.execution_id, 128)}"
    if options.svg is not None or options.png is not None:
        _draw(options, output, title, found)
    elif output.json:
        for lane in found.lanes:
            for span in lane.spans:
                output.document(
                    {
                        "step": lane.name,
                        "phase": lane.phase,
                        "begin": format_moment(span.begin),
                        "end": format_moment(span.end) if span.end else None,
                        "mood": span.mood,
                        "label": span.label,
                    }
                )
    else:
        output.lines(picture.text(title, found, options.width))
    if history.missing:
        output.note(f"{history.missing} events are not in the topics any more: their retention has passed")
    return execute.OK


def _draw(options: TimelineOptions, output: Output, title: str, found: Timeline) -> None:
    """The pictures that are asked for. Raises CliError."""
    pictures: dict[Path, Callable[[], bytes]] = {}
    if options.svg is not None:
        pictures[options.svg] = lambda: picture.svg(title, found).encode()
    if options.png is not None:
        pictures[options.png] = lambda: png.png(title, found)
    for path, made in pictures.items():
        try:
            path.write_bytes(made())
        except OSError as error:
            raise CliError(f"{path} can't be written: {error.strerror}") from error
        output.note(f"wrote {path}")


async def explain(options: ExplainOptions) -> int:
    """What was asked by whom, what ran, what changed, what failed and the likely why, what was undone, what is next."""
    output, settings = Output(json=options.json), settings_of(options)
    facts, found, state = Facts(options.execution_id), list[Event](), list[ExecutionState]()

    def take(chain: Chain, entry: Entry) -> None:
        facts.take(entry)
        with suppress(EventError):
            event = decode(entry.record.value or b"")
            found.append(event)
            before = state[-1] if state else ExecutionState(execution_id=event.subject)
            state.append(apply(before.model_copy(update={"seq": event.data.seq - 1}), event))
            del state[:-1]

    auditor = Auditor(
        connection_of(settings),
        TopicNames(settings.topic_prefix),
        strict=settings.processing_guarantee == "exactly_once",
        emit=take,
    )
    known = await read_state(auditor.connection, auditor.topics, options.execution_id)
    since = known.accepted_at if known else None
    report = await auditor.verify(Window(execution_id=options.execution_id, since=since))
    if not state:
        raise UnknownExecution(options.execution_id)
    if output.json:
        _document(output, found, state[-1], facts, report)
    else:
        _page(output, found, state[-1], facts, report)
    return execute.OK


def _document(output: Output, found: list[Event], state: ExecutionState, facts: Facts, report: Report) -> None:
    lines = explained(found, state, facts, report)
    output.document(
        {
            **summary(state, details=False),
            "target": facts.target or None,
            "verified": report.holds,
            "explanation": [{"about": line.about, "text": line.text} for line in lines],
            "next": list(execution.next_steps(state)),
        }
    )


def _page(output: Output, found: list[Event], state: ExecutionState, facts: Facts, report: Report) -> None:
    output.lines([execution.answer(state, utcnow())])
    for line in explained(found, state, facts, report):
        bad = line.about == "failed" or (line.about == "trail" and not report.holds)
        text = Text(f"  {line.about:<11} ", style=DIM)
        output.lines([text.append(clean(line.text, 500), style=BAD if bad else "not dim")])
    for at, hint in enumerate(execution.next_steps(state)):
        output.lines([Text(f"  {'next' if at == 0 else '':<11} ", style=DIM).append(hint, style="not dim")])
