"""A timeline as text, and as an SVG picture that needs nothing but a browser."""

from __future__ import annotations

from datetime import datetime
from xml.sax.saxutils import escape

from rich.text import Text

from consumer.audit.spans import Lane, Span, Timeline
from consumer.cli.render.text import BAD, DIM, GOOD, WAIT, clean, exact, seconds

_SIGNS = {"runs": ("▒", "cyan"), "good": ("█", GOOD), "bad": ("█", BAD), "undo": ("█", WAIT), "wait": ("·", WAIT)}
_SIGNS["left"] = ("░", DIM)
FILLS = {
    "runs": "#4c8dd6",
    "good": "#3f9d57",
    "bad": "#c9403a",
    "undo": "#c78a1b",
    "wait": "#d9c58a",
    "left": "#b5b5b5",
}
_NAME = 28


def text(title: str, found: Timeline, width: int) -> list[Text]:
    """One line for each lane: its name, its bar, and how long it took; below it what went wrong."""
    names = min(_NAME, max((len(name_of(lane)) for lane in found.lanes), default=0))
    room = max(10, width - names - 14)
    total = max((found.end - found.begin).total_seconds(), 1e-3)
    lines = [Text(title, style="bold").append(f"   {exact(found.begin)}, {seconds(total)}", style="not bold dim")]
    for lane in found.lanes:
        line = Text(f"  {clean(name_of(lane), names):<{names}} ")
        line.append_text(_bar(lane, found, room, total)).append(f" {took(lane, found.end):>10}", style=DIM)
        lines.append(line)
        lines += [
            Text(f"  {'':<{names}} {clean(span.label, 200)}", style=BAD)
            for span in lane.spans
            if span.mood == "bad" and span.label
        ]
    for moment, what in found.marks:
        lines.append(Text(f"  {seconds(moment - found.begin):>{names}} {clean(what, 60)}", style=DIM))
    if not found.over:
        lines.append(Text("  it goes on", style=WAIT))
    return lines


def name_of(lane: Lane) -> str:
    """What stands before a lane."""
    return f"↶ {lane.name}" if lane.phase == "rollback" else lane.name


def took(lane: Lane, end: datetime) -> str:
    """How long it took, attempts and waits together."""
    total = sum(((span.end or end) - span.begin).total_seconds() for span in lane.spans)
    return seconds(total) if lane.spans else "-"


def _bar(lane: Lane, found: Timeline, room: int, total: float) -> Text:
    cells: list[tuple[str, str]] = [(" ", "")] * room
    for span in lane.spans:
        first = _place(span.begin, found, room, total)
        last = max(first, _place(span.end or found.end, found, room, total) - 1)
        for at in range(first, last + 1):
            cells[at] = _SIGNS[span.mood]
    bar = Text()
    for sign, style in cells:
        bar.append(sign, style=style)
    return bar


def _place(moment: datetime, found: Timeline, room: int, total: float) -> int:
    return min(room - 1, max(0, int((moment - found.begin).total_seconds() / total * room)))


#: Of a picture: what is left and right of the bars, above them, and how high a row is.
WIDTH, LEFT, RIGHT, ROW, TOP = 1000.0, 220.0, 90.0, 26.0, 64.0
LEGEND = {"good": "succeeded", "bad": "failed", "undo": "undone", "wait": "waits", "runs": "runs", "left": "left"}


def svg(title: str, found: Timeline) -> str:
    """The same as a picture: each span is a bar with its words as a tooltip; colours have words in the legend."""
    total = max((found.end - found.begin).total_seconds(), 1e-3)
    scale = (WIDTH - LEFT - RIGHT) / total
    height = TOP + ROW * (len(found.lanes) + 2) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" font-family="sans-serif" '
        f'font-size="13" role="img">',
        f"<title>{_safe(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="16" font-weight="bold">{_safe(title)}</text>',
        f'<text x="12" y="44" fill="#666666">{exact(found.begin)}, {seconds(total)}</text>',
    ]
    bottom = TOP + ROW * len(found.lanes)
    for moment, what in found.marks:
        x = LEFT + (moment - found.begin).total_seconds() * scale
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6:g}" y2="{bottom:g}" stroke="#cccccc" '
            f'stroke-dasharray="3 3"><title>{_safe(what)}, {seconds(moment - found.begin)}</title></line>'
        )
    for at, lane in enumerate(found.lanes):
        parts += _svg_lane(lane, found, TOP + ROW * at, scale)
    return "\n".join([*parts, *_legend(bottom + ROW), "</svg>", ""])


def _svg_lane(lane: Lane, found: Timeline, y: float, scale: float) -> list[str]:
    parts = [f'<text x="12" y="{y + 17:g}">{_safe(name_of(lane), 30)}</text>']
    for span in lane.spans:
        x = LEFT + (span.begin - found.begin).total_seconds() * scale
        wide = max(((span.end or found.end) - span.begin).total_seconds() * scale, 2.0)
        parts.append(
            f'<rect x="{x:.1f}" y="{y + 4:g}" width="{wide:.1f}" height="17" rx="2" fill="{FILLS[span.mood]}">'
            f"<title>{_safe(_told(lane, span, found))}</title></rect>"
        )
    return [*parts, f'<text x="{WIDTH - RIGHT + 8:g}" y="{y + 17:g}" fill="#666666">{took(lane, found.end)}</text>']


def _told(lane: Lane, span: Span, found: Timeline) -> str:
    long = seconds((span.end or found.end) - span.begin)
    return f"{name_of(lane)}: {span.label or span.mood}, {long}"


def _legend(y: float) -> list[str]:
    parts = []
    for at, (mood, word) in enumerate(LEGEND.items()):
        x = 12 + 130 * at
        parts.append(f'<rect x="{x}" y="{y:g}" width="12" height="12" fill="{FILLS[mood]}"/>')
        parts.append(f'<text x="{x + 18}" y="{y + 11:g}" fill="#666666">{word}</text>')
    return parts


def _safe(value: str, limit: int = 200) -> str:
    return escape(clean(value, limit))
