"""An approval that names a plan: it is made again before the run, which is refused where it is another by then."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from consumer.errors import PermanentError
from consumer.policy import load
from consumer.ports import JsonObject, Plan, Scope, StepContext
from schemas.events import Status
from tests.support.engine_house import House, house, package, probe_module, step

ALL = "version: 1\nrules: [{name: all, effect: allow}]\n"
SAFETY = {"approval_required": True}


@dataclass
class World:
    """What the steps of type `world` see when they plan."""

    replicas: int = 3
    broken: bool = False
    gate: asyncio.Event | None = None
    plans: int = 0
    planning: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Scaling:
    action: Any
    world: World

    def __getattr__(self, name: str) -> Any:
        return getattr(self.action, name)

    async def plan(self, step: StepContext) -> Plan:
        self.world.plans += 1
        self.world.planning.set()
        if self.world.gate is not None:
            await self.world.gate.wait()
        if self.world.broken:
            raise PermanentError("the deployment is gone", code="not_found")
        return Plan(summary=f"scale {step.step} from {self.world.replicas} to 5", changes=True)


@dataclass(frozen=True)
class WorldAdapter:
    probe: Any
    world: World

    def __getattr__(self, name: str) -> Any:
        return getattr(self.probe, name)

    def prepare(self, config: JsonObject, scope: Scope) -> Any:
        return Scaling(self.probe.prepare(config, scope), self.world)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


def scale(name: str, **more: Any) -> dict[str, Any]:
    return {**step(name, **more), "type": "world"}


PACKAGE = package(step("look"), scale("web"), scale("api"), safety=SAFETY)


def a_house(probe: Any, world: World, **more: Any) -> Any:
    return house(probe, adapters={"world": WorldAdapter(probe.build(None), world)}, **more)


async def approved(h: House, *, named: bool = True) -> str:
    """A dry run, the real one, and its approval by the dry run's digest."""
    await h.execute(PACKAGE, "dry", dry_run=True)
    digest = (await h.over("dry")).plan_digest
    assert digest is not None
    await h.execute(PACKAGE, requested_by="alice", **({"dry_run_id": "dry"} if named else {}))
    await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
    return digest


def problems(h: House) -> list[str]:
    return [str(problem) for problem in h.events()[-1].data.errors]  # type: ignore[attr-defined]


async def test_a_plan_that_is_still_the_same_is_run_and_the_trail_names_it(probe: Any) -> None:
    world = World()
    async with a_house(probe, world) as h:
        digest = await approved(h)
        await h.control("approve", requested_by="bob", digest=digest)
        assert (await h.over()).status is Status.COMPLETED
        started = next(event.data for event in h.events() if event.name == "execution.started")
        assert started.plan_digest == digest  # type: ignore[attr-defined]
        assert probe.seen["e1"].effects == ["plan look", "run look 1", "run web 1", "run api 1"]
        assert world.plans == 4


async def test_a_run_that_would_do_something_else_by_now_is_refused_with_what_changed(probe: Any) -> None:
    world = World()
    async with a_house(probe, world) as h:
        digest = await approved(h)
        world.replicas = 4
        await h.control("approve", requested_by="bob", digest=digest)
        state = await h.over()
        assert state.error is not None
        assert (state.status, state.error.type) == (Status.REJECTED, "plan_changed")
        first, *steps = problems(h)
        assert first.startswith(f"approval.digest: bob approved the plan {digest}, and by now it is sha256:")
        assert steps == [
            "steps.web: was to: scale web from 3 to 5; would now: scale web from 4 to 5",
            "steps.api: was to: scale api from 3 to 5; would now: scale api from 4 to 5",
        ]
        assert "run look 1" not in probe.seen["e1"].effects
        assert "execution.started" not in h.names()


async def test_without_a_named_dry_run_the_refusal_tells_what_it_would_do_by_now(probe: Any) -> None:
    world = World()
    async with a_house(probe, world) as h:
        digest = await approved(h, named=False)
        world.replicas = 4
        await h.control("approve", requested_by="bob", digest=digest)
        await h.over()
        assert "steps.web: would now: scale web from 4 to 5" in problems(h)


async def test_a_plan_that_can_not_be_made_again_is_not_run(probe: Any) -> None:
    world = World()
    async with a_house(probe, world) as h:
        digest = await approved(h)
        world.broken = True
        await h.control("approve", requested_by="bob", digest=digest)
        assert (await h.over()).status is Status.REJECTED
        assert "and it can't be made again: web: the deployment is gone; nothing was run" in problems(h)[0]


async def test_an_approval_of_another_plan_than_the_named_dry_runs_is_refused_at_once(probe: Any) -> None:
    async with a_house(probe, World()) as h:
        digest = await approved(h)
        other = f"sha256:{'0' * 64}"
        await h.control("approve", requested_by="bob", digest=other)
        assert f"it approves the plan {other}, but this execution's dry run dry planned {digest}" in problems(h)[0]
        assert h.kept().status is Status.AWAITING_APPROVAL


async def test_a_cancel_while_the_plan_is_made_again_ends_the_run(probe: Any) -> None:
    world = World()
    async with a_house(probe, world) as h:
        digest = await approved(h)
        world.gate = asyncio.Event()
        world.planning.clear()
        await h.control("approve", requested_by="bob", digest=digest)
        await world.planning.wait()
        await h.control("cancel", requested_by="alice")
        assert (await h.over()).status is Status.CANCELLED
        assert "execution.started" not in h.names()


async def test_the_next_owner_makes_the_plan_again_too(probe: Any) -> None:
    """The owner is lost while it makes the plan; by then the world is another."""
    world = World()
    async with a_house(probe, world) as h:
        digest = await approved(h)
        world.gate = asyncio.Event()
        world.planning.clear()
        await h.control("approve", requested_by="bob", digest=digest)
        await world.planning.wait()
        world.gate, world.replicas = None, 4
        await h.move()
        assert (await h.over()).status is Status.REJECTED
        assert "steps.web: was to: scale web from 3 to 5; would now: scale web from 4 to 5" in problems(h)


async def test_an_approval_without_a_digest_makes_no_plan(probe: Any) -> None:
    world = World()
    async with a_house(probe, world) as h:
        await approved(h)
        world.replicas = 4
        await h.control("approve", requested_by="bob")
        assert (await h.over()).status is Status.COMPLETED
        assert world.plans == 2  # the dry run's


async def test_a_policy_that_changes_while_the_plan_is_made_again_decides(probe: Any) -> None:
    world = World()
    async with a_house(probe, world, policy=load.parse(ALL, "old.yaml")) as h:
        digest = await approved(h)
        world.gate = asyncio.Event()
        world.planning.clear()
        await h.control("approve", requested_by="bob", digest=digest)
        await world.planning.wait()
        h.services.policy = load.parse(ALL + "requirements: [{name: proven, command_signature: required}]", "new.yaml")
        world.gate.set()
        assert (await h.over()).status is Status.REJECTED
        assert "the requirement proven of new.yaml wants signed commands" in str(problems(h))
        assert "execution.started" not in h.names()
