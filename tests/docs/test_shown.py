"""The comparison of what a page shows with what a command printed notices what matters."""

from __future__ import annotations

import pytest

from tests.docs.shown import differs

SHOWN = ["▶ greet 1.0.0   execution first", "…", "  ✔ write  api  0.02 s", "  completed in 0.1 s   outputs: limit=20"]


@pytest.mark.parametrize(
    ("printed", "same"),
    [
        (
            ["▶ greet 1.0.0 execution first", "  ✔ write  api  1 min 3 s", "  completed in 9 s outputs: limit=20"],
            True,
        ),
        ([SHOWN[0], "a", "b", *SHOWN[2:]], True),
        ([SHOWN[0], *SHOWN[2:3], "  completed in 0.1 s   outputs: limit=21"], False),
        ([SHOWN[0], *SHOWN[2:], "Traceback"], False),
        (SHOWN[2:], False),
        ([SHOWN[0], "a"], False),
    ],
)
def test_only_what_changes_from_run_to_run_may_differ(printed: list[str], same: bool) -> None:
    assert (differs(SHOWN, printed) is None) == same


def test_the_rest_of_a_line_may_be_left_out_but_not_its_beginning() -> None:
    assert differs(["sandbox: …"], ["sandbox: bubblewrap, no network"]) is None
    assert differs(["sandbox: …"], ["no sandbox: at all"]) is not None
