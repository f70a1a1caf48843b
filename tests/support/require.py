"""What a test needs of its surroundings: skipped where it is missing, failed where CI promises that it is there."""

from __future__ import annotations

import os

import pytest


def require(condition: object, reason: str) -> None:
    """Skips the test unless `condition` is true; fails it instead where WPK_CI is set, so that CI can't pass empty."""
    if condition:
        return
    if os.environ.get("WPK_CI"):
        pytest.fail(f"WPK_CI is set, but {reason}")
    pytest.skip(reason)
