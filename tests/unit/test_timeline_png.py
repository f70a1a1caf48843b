"""A timeline as a PNG: what is seen in it, and that it stays small."""

from __future__ import annotations

import io
import sys
from datetime import timedelta

import pytest
from PIL import Image

from consumer.audit.spans import Timeline, timeline
from consumer.cli.execute import CliError
from consumer.cli.render.png import png
from consumer.cli.render.timeline import FILLS, LEFT, RIGHT, ROW, TOP, WIDTH
from schemas.events import Phase
from tests.support.stories import Story


def told(story: Story) -> Timeline:
    found = timeline([each.event for each in story], story.now + timedelta(seconds=1))
    assert found is not None
    return found


def picture(found: Timeline) -> Image.Image:
    return Image.open(io.BytesIO(png("greet 1.0.0   execution run-1", found))).convert("RGB")


def colour(mood: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(FILLS[mood].removeprefix("#")))


def near(pixel: object, mood: str) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(one - other) < 12 for one, other in zip(pixel, colour(mood), strict=True))


def white(pixel: object) -> bool:
    assert isinstance(pixel, tuple)
    return min(pixel) > 250


def many(steps: int) -> Story:
    names = [f"step-{number}" for number in range(steps)]
    story = Story().accepted().started(*names)
    for number, name in enumerate(names):
        story.step_started(name).step_retrying(name, "503").step_started(name, attempt=2)
        story.step_succeeded(name, attempt=2, duration=1 + number % 7)
    return story.completed()


def test_each_row_shows_when_a_step_ran_and_how_it_ended() -> None:
    story = Story().accepted().started("good", "bad").step_started("good").step_succeeded("good", duration=3.75)
    story.step_started("bad").step_failed("bad", "no").failed("no", step="bad", rollback_follows=True)
    phase: Phase = "rollback"
    story.rolling_back("good").step_started("good", phase=phase).step_succeeded("good", phase=phase, duration=4)
    image = picture(told(story.rolled_back()))
    assert image.size == (2 * int(WIDTH), 2 * int(TOP + ROW * 5 + 10))

    def at(row: int, part: float) -> object:
        """The pixel in the middle of a row, at that part of the time."""
        x = LEFT + (WIDTH - LEFT - RIGHT) * part
        return image.getpixel((round(2 * x), round(2 * (TOP + ROW * row + 12))))

    assert near(at(0, 0.25), "good")
    assert near(at(1, 0.485), "bad")
    assert near(at(2, 0.75), "undo")
    assert all(white(pixel) for pixel in (at(0, 0.75), at(1, 0.25), at(2, 0.25))), "nothing ran there"


def test_a_picture_of_fifty_steps_is_small() -> None:
    found = told(many(50))
    assert len(found.lanes) == 50
    assert len(png("fifty steps", found)) < 150_000


def test_a_picture_of_very_many_steps_is_cut_and_says_so() -> None:
    def of(lanes: int) -> Image.Image:
        one = told(many(1))
        return picture(Timeline(one.begin, one.end, one.lanes * lanes, one.marks, one.over))

    short, long = of(500), of(540)
    assert short.size == long.size == (int(WIDTH), int(TOP + ROW * 502 + 10))
    line = (0, 30, int(WIDTH), 56)
    assert short.crop(line).tobytes() != long.crop(line).tobytes()


def test_without_pillow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CliError, match=r"pip install 'wpk-agent\[picture\]'"):
        png("greet", told(many(1)))
