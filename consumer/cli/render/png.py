"""A timeline as a PNG picture, for what takes no SVG: a ticket, a chat, a slide. Needs Pillow, the extra `picture`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from consumer.audit.spans import Lane, Timeline
from consumer.cli.execute import CliError
from consumer.cli.render.text import clean, exact, seconds
from consumer.cli.render.timeline import FILLS, LEFT, LEGEND, RIGHT, ROW, TOP, WIDTH, took

if TYPE_CHECKING:  # an extra
    from PIL import ImageDraw, ImageFont

_GREY, _LINE, _BLACK = "#666666", "#cccccc", "#000000"
#: Lanes up to which it is drawn twice as large, to be sharp; beyond, its memory counts.
_SHARP = 200
#: With more lanes than this the rest is left out, and that is said: no viewer takes a picture of any height.
_MOST = 500


def png(title: str, found: Timeline) -> bytes:
    """The picture's bytes, in a few colours. Raises CliError where Pillow is not installed."""
    try:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CliError("a PNG needs Pillow: pip install 'wpk-agent[picture]', or use --svg") from error
    scale = 2 if len(found.lanes) <= _SHARP else 1
    height = int(TOP + ROW * (min(len(found.lanes), _MOST) + 2) + 10)
    image = Image.new("RGB", (int(WIDTH) * scale, height * scale), "#ffffff")
    sizes = {size: ImageFont.load_default(size * scale) for size in (13, 16)}
    _Page(ImageDraw.Draw(image), sizes, scale, found).draw(title)
    written = io.BytesIO()
    # Smoothed letters have hundreds of greys; few colours tell all that is drawn, in a quarter of the bytes.
    few = image.quantize(32, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(written, "PNG", optimize=True)
    return written.getvalue()


class _Page:
    """Draws in the units of the SVG."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        fonts: Mapping[int, ImageFont.FreeTypeFont | ImageFont.ImageFont],
        scale: int,
        found: Timeline,
    ) -> None:
        self._draw = draw
        self._fonts = fonts
        self._scale = scale
        self._found = found
        self._second = (WIDTH - LEFT - RIGHT) / max((found.end - found.begin).total_seconds(), 1e-3)

    def draw(self, title: str) -> None:
        """All of it."""
        found, shown = self._found, self._found.lanes[:_MOST]
        self._text(12, 10, clean(title, 110), size=16)
        whole = f"{exact(found.begin)}, {seconds(found.end - found.begin)}"
        left = f"; {len(found.lanes) - _MOST} more rows are left out" if len(found.lanes) > _MOST else ""
        self._text(12, 34, whole + left, _GREY)
        bottom = TOP + ROW * len(shown)
        for moment, _ in found.marks:
            self._box(self._x(moment), TOP - 6, 1 / self._scale, bottom - TOP + 6, _LINE)
        for at, lane in enumerate(shown):
            self._lane(lane, TOP + ROW * at)
        for at, (mood, word) in enumerate(LEGEND.items()):
            self._box(12 + 130 * at, bottom + ROW, 12, 12, FILLS[mood])
            self._text(30 + 130 * at, bottom + ROW - 1, word, _GREY)

    def _lane(self, lane: Lane, y: float) -> None:
        name = f"undo {lane.name}" if lane.phase == "rollback" else lane.name
        self._text(12, y + 5, clean(name, 30))
        for span in lane.spans:
            x, end = self._x(span.begin), self._x(span.end or self._found.end)
            self._box(x, y + 4, max(end - x, 2.0), 17, FILLS[span.mood])
        self._text(WIDTH - RIGHT + 8, y + 5, took(lane, self._found.end), _GREY)

    def _x(self, moment: datetime) -> float:
        return LEFT + (moment - self._found.begin).total_seconds() * self._second

    def _box(self, x: float, y: float, wide: float, high: float, fill: str) -> None:
        corners = (x, y, x + wide, y + high)
        left, top, right, bottom = (round(corner * self._scale) for corner in corners)
        self._draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill)

    def _text(self, x: float, y: float, text: str, fill: str = _BLACK, *, size: int = 13) -> None:
        self._draw.text((x * self._scale, y * self._scale), text, fill, self._fonts[size])
