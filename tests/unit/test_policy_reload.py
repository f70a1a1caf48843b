"""The policy's file changes while the agent runs: what counts, from when, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from consumer.engine.keeper import PolicyKeeper
from consumer.policy import load
from consumer.policy.reload import PolicyFile
from schemas.events import Status
from tests.support.engine_house import House, house, package, probe_module, step

ALL = "version: 1\nrules: [{name: all, effect: allow}]\n"
NONE = "version: 1\n"
WAITING = ALL + "requirements: [{name: four-eyes, approval: required}]\n"


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(ALL)
    return file


def keeper_of(h: House, path: Path) -> PolicyKeeper:
    return PolicyKeeper(h.services, PolicyFile(path))


def write(path: Path, text: str | None) -> None:
    """The file's new content; None: the file is gone."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


async def settled(keeper: PolicyKeeper) -> None:
    """As many looks as a change needs."""
    for _ in range(2):
        await keeper.look()


def stale(h: House) -> float | None:
    return h.services.metrics.registry.get_sample_value("wpk_policy_stale")


async def test_a_changed_policy_rules_from_the_next_decision_on_and_each_names_its_own(probe: Any, path: Path) -> None:
    async with house(probe, policy=load.load(path)) as h:
        keeper = keeper_of(h, path)
        await h.execute(package(step("a")), "before")
        assert (await h.over("before")).status is Status.COMPLETED
        write(path, NONE)
        await settled(keeper)
        await h.execute(package(step("a")), "after")
        assert (await h.over("after")).status is Status.REJECTED
        started = next(event.data for event in h.events("before") if event.name == "execution.started")
        refused = next(event.data for event in h.events("after") if event.name == "command.rejected")
        assert started.permission.digest == load.parse(ALL, "p").digest  # type: ignore[attr-defined]
        assert refused.policy_digest == load.parse(NONE, "p").digest == keeper.digest  # type: ignore[attr-defined]


@pytest.mark.parametrize("broken", ["version: 2\n", "rules: [", "", None])
async def test_a_file_that_can_not_be_used_changes_nothing_and_is_told(
    probe: Any, path: Path, broken: str | None
) -> None:
    async with house(probe, policy=load.load(path)) as h:
        keeper, before = keeper_of(h, path), h.services.policy
        write(path, broken)
        await settled(keeper)
        assert h.services.policy is before
        assert f"the policy {path} can't be" in keeper.trouble
        assert stale(h) == 1
        write(path, NONE)
        await settled(keeper)
        assert (keeper.trouble, stale(h)) == ("", 0)
        assert keeper.digest == load.parse(NONE, "p").digest


async def test_half_of_a_file_that_is_being_written_never_rules(probe: Any, path: Path) -> None:
    """Each of these could be used, and would allow what the whole one denies."""
    async with house(probe, policy=load.load(path)) as h:
        keeper, before = keeper_of(h, path), h.services.policy
        for written in (WAITING, NONE, ALL + "# and so on\n", WAITING + "# the end\n"):
            write(path, written)
            await keeper.look()
            assert h.services.policy is before
        await keeper.look()
        assert keeper.digest == load.parse(WAITING, "p").digest


async def test_a_run_that_waits_begins_by_the_policy_that_is_in_force_then(probe: Any, path: Path) -> None:
    write(path, WAITING)
    async with house(probe, policy=load.load(path)) as h:
        keeper = keeper_of(h, path)
        for name in ("refused", "begun"):
            await h.execute(package(step("a")), name, requested_by="alice")
            await h.until(lambda state: state.status is Status.AWAITING_APPROVAL, name)
        write(path, NONE)
        await settled(keeper)
        await h.control("approve", "refused", requested_by="bob")
        state = await h.over("refused")
        assert state.error is not None
        assert (state.status, state.error.type) == (Status.REJECTED, "forbidden")
        write(path, ALL)
        await settled(keeper)
        await h.control("approve", "begun", requested_by="bob")
        assert (await h.over("begun")).status is Status.COMPLETED
        started = next(event.data for event in h.events("begun") if event.name == "execution.started")
        assert started.permission.digest == keeper.digest  # type: ignore[attr-defined]


async def test_a_step_under_way_is_finished_and_the_next_one_judged_by_the_new_policy(probe: Any, path: Path) -> None:
    async with house(probe, policy=load.load(path)) as h:
        keeper = keeper_of(h, path)
        await h.execute(package(step("a", {"wait": True}), step("b")))
        await h.runs("a")
        write(path, NONE)
        await settled(keeper)
        probe.seen["e1"].release["a"].set()
        state = await h.over()
        assert state.steps["a"].status == "succeeded"
        assert state.steps["b"].error is not None
        assert state.steps["b"].error.type == "forbidden"
        assert keeper.digest in state.steps["b"].error.message
