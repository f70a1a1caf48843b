"""Where the log of a container goes on after an interruption."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumer.adapters.k8s.loglines import Position


def stamp(nanoseconds: int) -> str:
    """As Go writes it: without zeros at the end."""
    fraction = f"{nanoseconds % 10**9:09d}".rstrip("0")
    return f"2026-01-01T00:00:{nanoseconds // 10**9:02d}{'.' if fraction else ''}{fraction}Z"


MOMENTS = st.lists(st.integers(0, 3 * 10**9) | st.sampled_from([10**9, 2 * 10**9, 1_500_000_000]), max_size=20)


@given(moments=MOMENTS, cuts=st.lists(st.integers(0, 20), max_size=4))
def test_each_line_is_taken_once_however_often_the_log_is_cut_off(moments: list[int], cuts: list[int]) -> None:
    lines = [f"{stamp(moment)} line {number}" for number, moment in enumerate(sorted(moments))]
    position, taken = Position(), []
    for cut in [*cuts, len(lines)]:
        position.opened()
        whole = position.stamp[:19]  # the server goes back to the whole second
        again = [line for line in lines[:cut] if line[:19] >= whole]
        taken += [text for line in again if (text := position.takes(line)) is not None]
    assert taken == [line.partition(" ")[2] for line in lines]
