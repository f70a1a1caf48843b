"""`wpk audit verify` and `wpk audit replay`: the trail from the topics alone. Nothing here can change anything."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import JsonValue

from consumer.audit import checkpoint as checkpoints
from consumer.audit.chain import Chain
from consumer.audit.checkpoint import Checkpoint, CheckpointError
from consumer.audit.columns import event_row
from consumer.audit.entry import Entry
from consumer.audit.facts import Criteria, Facts
from consumer.audit.findings import Finding, Report
from consumer.cli import execute
from consumer.cli.context import connection_of, settings_of
from consumer.cli.execute import CliError
from consumer.cli.look import moment_of, statuses_of
from consumer.cli.options import AuditOptions, AuditVerifyOptions, ReadingOptions, ReplayOptions, SelectOptions
from consumer.cli.output import Output
from consumer.cli.render import audit as render
from consumer.client import Auditor, Window
from consumer.client.audits import Emit
from consumer.journal.topics import TopicNames
from consumer.policy.signatures import SignatureError

JsonObject = dict[str, JsonValue]
_PROGRESS_SECONDS = 0.25
#: Objects made between two looks of the garbage collector: reading a trail makes millions, and none in a cycle.
_COLLECT_EVERY = 50_000


async def verify(options: AuditVerifyOptions) -> int:
    """Verify the hash chains and say the first broken record of each execution; 1 where something is broken."""
    output = Output(json=options.json)
    began, checkpoint = time.monotonic(), _checkpoint_of(options)
    with progress(output) as show:
        auditor = auditor_of(options, progress=show, strict=options.strict, checkpoint=checkpoint)
        report = await auditor.verify(window_of(options))
    if output.json:
        for finding in report.broken:
            output.document(_finding(finding, broken=True))
        for finding in report.void:
            output.document(_finding(finding, broken=False))
        output.document(render.summary(report))
    else:
        output.lines(render.verdict(report, time.monotonic() - began, only=options.execution_id))
    return execute.OK if report.holds else execute.ENDED_OTHERWISE


async def replay(options: ReplayOptions) -> int:
    """Tell what happened, event by event, or with --executions in a line for each execution."""
    output, criteria = Output(json=options.json), criteria_of(options)
    if options.executions:
        known, report = await facts_of(options, output)
        found = [facts for facts in known.values() if criteria.admits(facts)]
        found.sort(key=lambda facts: facts.accepted_at or facts.updated_at or "")
        if output.json:
            for facts in found:
                output.document(facts.row())
        else:
            output.lines(render.executions(found))
        return _remark(report, output)
    wanted = await admitted(options, criteria, output)

    def write(chain: Chain, entry: Entry) -> None:
        if wanted is None or entry.execution_id in wanted:
            if output.json:
                sys.stdout.buffer.write((entry.record.value or b"") + b"\n")
            else:
                output.console.print(render.event(event_row(entry)), soft_wrap=True)

    with progress(output) as show:
        report = await auditor_of(options, emit=write, progress=show).verify(window_of(options))
    return _remark(report, output)


async def facts_of(options: AuditOptions, output: Output) -> tuple[dict[str, Facts], Report]:
    """What is known of each execution of the window."""
    known: dict[str, Facts] = {}

    def take(chain: Chain, entry: Entry) -> None:
        facts = known.get(entry.execution_id)
        if facts is None:
            facts = known[entry.execution_id] = Facts(entry.execution_id)
        facts.take(entry)

    with progress(output) as show:
        report = await auditor_of(options, emit=take, progress=show).verify(window_of(options))
    return known, report


async def admitted(options: AuditOptions, criteria: Criteria, output: Output) -> frozenset[str] | None:
    """The ids of the executions that are wanted; None: all. Reads the window once where something is asked for.

    What an execution is known by may come after events that are to be told (its end) or before the window (who asked).
    """
    if not criteria.given:
        return None
    known, _ = await facts_of(options, output)
    return frozenset(name for name, facts in known.items() if criteria.admits(facts))


def _remark(report: Report, output: Output) -> int:
    """Says beside what was told whether it can be believed."""
    sys.stdout.flush()
    if not report.holds:
        output.note(f"{len(report.broken)} executions or records do not verify; see: wpk audit verify")
    return execute.OK


def window_of(options: AuditOptions) -> Window:
    """What of the trail is looked at. Raises CliError."""
    return Window(
        since=moment_of(options.since, "--from"),
        until=moment_of(options.until, "--to"),
        execution_id=options.execution_id,
    )


def criteria_of(options: SelectOptions) -> Criteria:
    """Which executions are wanted. Raises CliError."""
    return Criteria(
        workflow=options.workflow,
        requester=options.requester,
        target=options.target,
        statuses=frozenset(status.value for status in statuses_of(options.status or ())),
    )


def auditor_of(
    options: ReadingOptions,
    *,
    emit: Emit | None = None,
    progress: Callable[[Report, float], None] | None = None,
    strict: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Auditor:
    """Who reads; raises SettingsError."""
    collect_rarely()
    settings = settings_of(options)
    strict = strict or settings.processing_guarantee == "exactly_once"
    names = TopicNames(settings.topic_prefix)
    connection = connection_of(settings)
    return Auditor(connection, names, strict=strict, checkpoint=checkpoint, emit=emit, progress=progress)


def _checkpoint_of(options: AuditVerifyOptions) -> Checkpoint | None:
    """What to compare with. Raises CliError where the file, or who signed it, can't be believed."""
    file, key = options.checkpoint, options.key
    if file is None and key is None:
        return None
    if file is None or key is None:
        raise CliError("give both: --checkpoint FILE, and --key PUBLIC.pem of who signed it")
    content, pem = read(file), read(key)
    try:
        return checkpoints.opened(content, pem.decode(errors="replace"))
    except CheckpointError as error:
        raise CliError(f"{file}: {error}") from error
    except SignatureError as error:
        raise CliError(f"{key}: {error}") from error


def read(file: Path) -> bytes:
    """The file's bytes. Raises CliError."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise CliError(f"{file}: can't be read: {error.strerror or error}") from error


def collect_rarely() -> None:
    """Lets the garbage collector look rarely from now on: the process reads a trail and does nothing else."""
    gc.set_threshold(_COLLECT_EVERY, *gc.get_threshold()[1:])


@contextmanager
def progress(output: Output) -> Iterator[Callable[[Report, float], None] | None]:
    """Shows how far the reading is, on stderr where that is a terminal; the line is gone afterwards."""
    if not sys.stderr.isatty() or (sys.stdout.isatty() and not output.live):
        yield None
        return
    began = time.monotonic()
    told = began

    def show(report: Report, fraction: float) -> None:
        nonlocal told
        if time.monotonic() - told < _PROGRESS_SECONDS:
            return
        told = time.monotonic()
        sys.stderr.write(f"\r{render.reading(report, fraction, time.monotonic() - began)}\x1b[K")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _finding(finding: Finding, *, broken: bool) -> JsonObject:
    place = finding.place
    return {
        "kind": finding.kind.value,
        "broken": broken,
        "execution_id": finding.execution_id,
        "seq": finding.seq,
        "topic": place.topic if place else None,
        "partition": place.partition if place else None,
        "offset": place.offset if place else None,
        "message": finding.message,
    }
