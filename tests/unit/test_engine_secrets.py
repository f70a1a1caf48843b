"""Secrets in the engine: fetched for each attempt, and masked for as long as the execution lives, whoever owns it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from consumer.policy.secrets import SecretStore
from schemas.events import Status
from tests.support import engine_house
from tests.support.engine_house import house, package, probe_module, step
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(180)
SECRET = "0123-hidden-4567"


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


async def test_what_a_former_owners_steps_used_is_masked_by_the_next_owner(probe: Any) -> None:
    wpk = package(
        step("a", {"lines": ["${secrets.TOKEN}"]}), step("b", {"wait": True, "repeatable": True, "lines": [SECRET]})
    )
    async with house(probe, secrets={"TOKEN": SECRET}) as h:
        await h.execute(wpk)
        await h.runs("b")
        await h.move()
        probe.seen["e1"].release["b"].set()
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert set(h.lines(stream="stdout")) == {"***"}


async def test_a_secret_that_changed_is_the_new_one_from_the_next_step_on_and_both_are_masked(probe: Any) -> None:
    values = {"TOKEN": SECRET}
    wpk = package(
        step("a", {"wait": True, "lines": ["${secrets.TOKEN}"]}),
        step("b", {"output": "${secrets.TOKEN}", "lines": [SECRET, "another-value"]}),
    )
    async with house(probe, secrets=values) as h:
        await h.execute(wpk)
        await h.runs("a")
        values["TOKEN"] = "another-value"
        probe.seen["e1"].release["a"].set()
        await h.over()

    assert h.lines(stream="stdout") == ["***", "***", "***"]
    assert h.kept().steps["b"].output == {"value": "***"}


async def test_a_secret_is_held_until_its_execution_ends_and_no_longer(probe: Any) -> None:
    store = SecretStore(environ={"WPK_SECRET_TOKEN": SECRET})
    wpk = package(step("a", {"lines": ["${secrets.TOKEN}"]}), step("b", {"wait": True, "repeatable": True}))
    async with house(probe) as h:
        h.services.secrets = store.load
        await h.execute(wpk)
        await h.runs("b")
        assert store.mask(SECRET) == "***"
        probe.seen["e1"].release["b"].set()
        await h.over()
        probe.seen.clear()  # it keeps what its steps were given
        await eventually(lambda: gc.collect() >= 0 and store.mask(SECRET) == SECRET)


async def test_what_an_undo_needs_is_not_kept_where_it_shows_a_secret_and_nothing_is_changed(probe: Any) -> None:
    wpk = package(step("a", {"capture": "it was ${secrets.TOKEN}"}))
    async with house(probe, secrets={"TOKEN": SECRET}) as h:
        await h.execute(wpk)
        state = await h.over()

    assert state.error is not None
    assert state.error.type == "undo_shows_secret"
    assert probe.seen["e1"].effects == []
    assert SECRET.encode() not in b"".join(h.log.state().values())


async def test_a_step_waits_for_its_secrets_no_longer_than_it_may_take(
    probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(self: object, names: object) -> dict[str, str]:
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(engine_house.Secrets, "__call__", hangs)
    async with house(probe, secrets={}) as h:
        await h.execute(package(step("a", {"lines": ["${secrets.TOKEN}"]}, timeout="50ms")))
        state = await h.over()

    assert state.error is not None
    assert (state.error.type, state.error.retryable) == ("secret_unavailable", True)
    assert "its secrets did not come within its timeout of 0.05 s" in state.error.message
