"""How a verification and a replayed trail look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import JsonValue
from rich.text import Text

from consumer.audit.facts import Facts
from consumer.audit.findings import Finding, Kind, Report
from consumer.cli.render.signs import status_text
from consumer.cli.render.text import BAD, DIM, GOOD, WAIT, clean, seconds
from schemas.events import Status

JsonObject = dict[str, JsonValue]
_MOST = 50
_HEAD = ("ACCEPTED", "EXECUTION", "WORKFLOW", "TARGET", "STATUS", "BY", "WHY")


def reading(report: Report, fraction: float, took: float) -> str:
    """How far it is."""
    speed = report.events / took if took > 0.2 else 0.0
    return f"… {report.events:,} events of {report.executions:,} executions   {fraction:4.0%}   {speed:,.0f}/s"


def verdict(report: Report, took: float, *, only: str | None = None) -> list[Text]:
    """What a verification found: the answer, each broken execution's first record, what else there is to know."""
    broken, lines = report.broken, []
    if only is not None and not report.executions:
        return [Text(f"no events of execution {clean(only, 128)} are in the topics", style=BAD)]
    if broken:
        lines.append(Text("✘ ").append(_count(report), style=BAD))
        lines += [_line(finding) for finding in broken[:_MOST]]
        if len(broken) > _MOST:
            lines.append(Text(f"  … {len(broken) - _MOST} more; --json has all", style=DIM))
    whole = report.executions - report.broken_executions
    sign = Text("✔ ", style=GOOD) if not broken else Text("  ")
    many = "execution verifies" if whole == 1 else "executions verify"
    lines.append(sign.append(f"{whole:,} {many}").append(f", {report.events:,} events in {seconds(took)}", style=DIM))
    return [*lines, *_remarks(report)]


def _count(report: Report) -> str:
    number, records = report.broken_executions, len(report.broken) - report.broken_executions
    told = []
    if number:
        told.append("1 execution does not verify" if number == 1 else f"{number:,} executions do not verify")
    if records > 0:
        told.append("1 record is of no agent" if records == 1 else f"{records:,} records are of no agent")
    return ", ".join(told)


def _line(finding: Finding) -> Text:
    line = Text("  ")
    if finding.execution_id is not None:
        line.append(clean(finding.execution_id, 128)).append("  ")
    return line.append(f"{finding.kind.value}  ", style=WAIT).append(clean(finding.message, 500))


def _remarks(report: Report) -> list[Text]:
    counts, told = report.counts, []
    if counts[Kind.DOUBLED] and not report.strict:
        told.append(f"{counts[Kind.DOUBLED]:,} records are there twice; readers take them once")
    if counts[Kind.FENCED] and not report.strict:
        told.append(f"{counts[Kind.FENCED]:,} records are of owners that had lost the partition; no reader takes them")
    if told:
        told.append("with exactly_once there are no such: --strict takes them for broken")
    if report.checkpoint:
        told.append(f"{report.attested:,} executions are what {report.checkpoint} says")
    if report.beyond:
        told.append(f"{report.beyond:,} executions of the checkpoint are beyond the retention")
    if report.expired:
        told.append(f"{report.expired:,} events are beyond the log topic's retention; links over them can't be checked")
    if report.begun_before:
        told.append(f"{report.begun_before:,} executions began before what was read; verified from there on")
    if report.unchecked_ends:
        told.append(
            f"{report.unchecked_ends:,} executions are not in the state topic any more: no second witness of their end"
        )
    return [Text(f"  {text}", style=DIM) for text in told]


def summary(report: Report) -> JsonObject:
    """The report's numbers as one document."""
    return {
        "verified": report.holds,
        "records": report.records,
        "events": report.events,
        "executions": report.executions,
        "broken_executions": report.broken_executions,
        "findings": {kind.value: report.counts[kind] for kind in Kind},
        "strict": report.strict,
        "expired": report.expired,
        "begun_before": report.begun_before,
        "unchecked_ends": report.unchecked_ends,
        "checkpoint": report.checkpoint,
        "attested": report.attested,
        "beyond": report.beyond,
    }


def event(row: JsonObject) -> Text:
    """One event in a line: when, which execution, what, and what it says."""
    line = Text(f"{_moment(row['time'])}  ", style=DIM).append(clean(str(row["execution_id"]), 128), style="not dim")
    line.append(f"  {clean(str(row['type']), 60)}", style="not dim")
    if row["step"]:
        attempt = f", attempt {row['attempt']}" if isinstance(row["attempt"], int) and row["attempt"] > 1 else ""
        line.append(f"  {clean(str(row['step']), 60)}{attempt}", style="not dim")
    for name, before in (("who", "by "), ("reason", ""), ("error_message", "")):
        if row[name]:
            line.append(f"  {before}{clean(str(row[name]), 200)}", style=BAD if name == "error_message" else "not dim")
    return line


def executions(found: Sequence[Facts]) -> list[Text]:
    """One line for each."""
    if not found:
        return [Text("no such executions in the trail", style=DIM)]
    return table(_HEAD, [_row(facts) for facts in found], status_at=4)


def _row(facts: Facts) -> tuple[str, ...]:
    why = facts.error or next((deed.why for deed in reversed(facts.deeds) if deed.why), None) or ""
    labels = " ".join(f"{name}={value}" for name, value in facts.labels.items())
    status = (facts.status or "unknown") + (" (dry run)" if facts.dry_run else "")
    people = dict.fromkeys(clean(deed.who, 40) for deed in facts.deeds if deed.who)
    workflow = facts.workflow_id or facts.workflow_name or "-"
    cells = (facts.execution_id, workflow, facts.target, status, ", ".join(people), why or labels)
    limits = (128, 40, 60, 40, 80, 160)
    return (_moment(facts.accepted_at), *(clean(cell, limit) for cell, limit in zip(cells, limits, strict=True)))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, status_at: int | None = None) -> list[Text]:
    """Cells in columns under a heading; the status in its colour."""
    cells = [list(row) for row in rows]
    widths = [max(len(name), *(len(row[at]) for row in cells)) for at, name in enumerate(head)]
    lines = [Text("  ".join(f"{name:<{width}}" for name, width in zip(head, widths, strict=True)).rstrip(), style=DIM)]
    for row in cells:
        line = Text("")
        for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
            style = status_text(_status(cell)).style if at == status_at else ""
            line.append(cell, style=style).append(" " * (width - len(cell) + 2))
        line.rstrip()
        lines.append(line)
    return lines


def _status(cell: str) -> Status | None:
    try:
        return Status(cell.partition(" ")[0])
    except ValueError:
        return None


def _moment(text: JsonValue) -> str:
    return clean(str(text), 30).replace("T", " ").removesuffix("Z") if text else "-"
