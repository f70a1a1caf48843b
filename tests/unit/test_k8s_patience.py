"""An action gives up itself, before the step runner ends it without a word on why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.adapters.k8s import build
from consumer.adapters.k8s.patience import time_for
from tests.support.k8s_steps import Steps


@pytest.mark.parametrize(
    ("own", "attempt", "wanted"),
    [
        (None, None, None),
        (30.0, None, 30.0),
        (None, 300.0, 299.0),
        (None, 2.0, 1.8),
        (30.0, 300.0, 30.0),
        (300.0, 300.0, 299.0),
    ],
)
async def test_an_action_ends_before_its_attempt_does(
    own: float | None, attempt: float | None, wanted: float | None
) -> None:
    context = replace(Steps(build(object())).context(), timeout=attempt)
    assert time_for(own, context) == (None if wanted is None else pytest.approx(wanted))
