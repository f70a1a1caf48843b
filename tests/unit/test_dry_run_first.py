"""Runs that need a dry run before them: what counts as one, and that it is known after a take-over too."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from consumer.client.partitions import partition_of
from consumer.engine.partition import Partition
from consumer.policy import load
from consumer.policy.judge import Policy
from schemas.commands import ExecuteCommand
from schemas.events import Status
from tests.support.engine_house import House, house, package, probe_module, step

ALL = "version: 1\nrules: [{name: all, effect: allow}]\n"
WANTED = ALL + "requirements: [{name: plan-first, dry_run_first: required, dry_run_within: 1h}]"
PARAMETERS = {"where": "shop", "count": 3, "nothing": None}


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


def policy(text: str) -> Policy:
    return load.parse(text, "p.yaml")


async def run(h: House, name: str = "real", **more: Any) -> str:
    """How a run that names the dry run `dry` (or what is given) ended."""
    fields = {"dry_run_id": "dry", "parameters": PARAMETERS, **more}
    wpk = fields.pop("wpk", package(step("a")))
    await h.execute(wpk, name, **fields)
    state = await h.over(name)
    return state.error_message or state.status or ""


async def rehearsed(h: House, name: str = "dry", **more: Any) -> None:
    await h.execute(package(step("a")), name, **{"dry_run": True, "parameters": PARAMETERS, **more})
    await h.over(name)


async def test_a_run_that_needs_a_dry_run_begins_after_one_of_the_same_package_and_parameters(probe: Any) -> None:
    async with house(probe, policy=policy(WANTED)) as h:
        told = await run(h, "without", dry_run_id=None)
        assert "the requirement plan-first of p.yaml wants a dry run first; make one (wpk plan)" in told
        assert not probe.seen["without"].effects
        await rehearsed(h)
        assert await run(h) == Status.COMPLETED
        accepted = h.events("real")[0].data
        assert accepted.rehearsal.execution_id == "dry"  # type: ignore[attr-defined]
        assert accepted.rehearsal.plan_digest == h.kept("dry").plan_digest is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"parameters": {**PARAMETERS, "count": 4}}, "dry_run_id: execution dry had other parameters"),
        ({"wpk": package(step("b"))}, "dry_run_id: execution dry was of another package"),
        ({"dry_run_id": "nobody"}, "dry_run_id: execution nobody is not known on this partition"),
        ({"dry_run_id": "real-before"}, "dry_run_id: execution real-before was no dry run"),
        ({"dry_run_id": "failed"}, "dry_run_id: execution failed did not complete: it is rejected"),
        ({"dry_run_id": "checked"}, "dry_run_id: execution checked was no dry run, but a validation only"),
    ],
)
@pytest.mark.parametrize("text", [WANTED, ALL])
async def test_what_is_named_as_dry_run_and_was_none_of_this_run_is_refused_though_none_is_wanted(
    probe: Any, text: str, more: dict[str, Any], told: str
) -> None:
    async with house(probe, policy=policy(ALL)) as before:
        await rehearsed(before)
        await run(before, "real-before", dry_run_id=None)
        await before.execute({"spec": {}}, "failed", dry_run=True, parameters=PARAMETERS)
        await rehearsed(before, "checked", validate_only=True)
        for name in ("failed", "checked"):
            await before.over(name)
        journal = before.journal.successor()
    async with house(probe, policy=policy(text), journal=journal) as h:
        assert told in await run(h, **more)
        assert not probe.seen["real"].effects


async def test_a_dry_run_counts_for_its_time_only(probe: Any) -> None:
    async with house(probe, policy=policy(WANTED)) as h:
        await rehearsed(h)
        h.clock.shift = timedelta(minutes=61)
        told = await run(h)
    assert "and the requirement plan-first of p.yaml wants a dry run of the last 1h; make another" in told


async def test_a_dry_run_is_known_to_the_next_owner_and_from_memory_that_has_only_heads(
    probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(probe, policy=policy(WANTED)) as h:
        await rehearsed(h)
        await h.move()
        assert await run(h) == Status.COMPLETED
        monkeypatch.setattr(Partition, "recall", lambda self, name, *, whole: None)  # a head too long for the memory
        assert await run(h, "again") == Status.COMPLETED


async def test_a_package_that_wants_a_dry_run_gets_it_where_a_policy_rules(probe: Any) -> None:
    wpk = package(step("a"), safety={"dry_run_required": True})
    async with house(probe, policy=policy(ALL)) as h:
        assert "the package (spec.safety.dry_run_required) wants a dry run" in await run(h, wpk=wpk, dry_run_id=None)
        await h.execute(wpk, "dry", dry_run=True, parameters=PARAMETERS)
        await h.over("dry")
        assert await run(h, "named", wpk=wpk) == Status.COMPLETED
    async with house(probe) as h:
        assert await run(h, "open", wpk=wpk, dry_run_id=None) == Status.COMPLETED


async def test_a_dry_run_that_still_runs_does_not_count(probe: Any) -> None:
    wpk = package({"name": "pause", "type": "delay", "config": {"duration": "1h"}}, safety={"approval_required": True})
    async with house(probe, policy=policy(WANTED), max_executions=1) as h:
        h.supervisor.hold(h.partition)  # no step begins, so that the dry run does not end
        await h.execute(wpk, "dry", dry_run=True)
        await h.until(lambda state: state.status is Status.RUNNING, "dry")
        assert "has not ended: it is running" in await run(h, wpk=wpk, parameters={})


def test_a_dry_run_can_not_name_another() -> None:
    with pytest.raises(ValueError, match="a dry run needs no dry run before it"):
        ExecuteCommand(workflow_id="w", dry_run=True, dry_run_id="other")


def test_one_of_as_many_ids_as_there_are_partitions_lies_beside_another() -> None:
    """What the decision record says of the cost."""
    beside = [name for name in map(str, range(1200)) if partition_of(name, 12) == partition_of("dry", 12)]
    assert 50 < len(beside) < 200
