"""Commands that only name their package: it is found once, and what was found is what runs, whatever comes after."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from consumer.errors import PermanentError, TemporaryError
from consumer.policy import load
from consumer.ports import JsonObject, Resolved
from schemas import events
from schemas.canonical import digest
from schemas.commands import ExecuteCommand
from schemas.events import Status
from tests.support.engine_house import PATIENCE, House, house, package, probe_module, step
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


class Shelf:
    """A registry whose content and health a test changes."""

    def __init__(self) -> None:
        self.packages: dict[str, JsonObject] = {}
        self.asked: list[str] = []
        self.failing = False
        self.stuck = False

    async def resolve(self, reference: str) -> Resolved:
        self.asked.append(reference)
        if self.stuck:
            await asyncio.Event().wait()
        if self.failing:
            raise TemporaryError("the shelf is away", code="registry_unavailable")
        if reference not in self.packages:
            raise PermanentError(f'the shelf has no package "{reference}"', code="unknown_package")
        content = self.packages[reference]
        return Resolved(content=content, digest=digest(content), origin="the shelf")


@pytest.fixture
def shelf() -> Shelf:
    filled = Shelf()
    filled.packages["probing-1.2.0"] = package(step("a"))
    return filled


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("consumer.engine.resolving._PAUSES", (0.01, 0.02))
    return


def named(reference: str = "probing-1.2.0", **more: Any) -> ExecuteCommand:
    return ExecuteCommand(execution_id="e1", workflow_id=reference, **more)


def data(running: House, name: str) -> Any:
    return next(event.data for event in running.events() if event.name == name)


async def test_a_package_that_is_only_named_runs_and_stands_whole_in_the_trail(probe: Any, shelf: Shelf) -> None:
    async with house(probe, packages=shelf) as h:
        await h.send(named())
        state = await h.over()
        kept = h.kept()

    assert state.status is Status.COMPLETED
    assert h.names()[:3] == ["execution.accepted", "execution.resolved", "execution.started"]
    resolved = data(h, "execution.resolved")
    assert resolved.wpk_content == shelf.packages["probing-1.2.0"]
    assert (resolved.reference, resolved.origin, resolved.package) == ("probing-1.2.0", "the shelf", "probing-1.2.0")
    assert data(h, "execution.completed").wpk_digest == digest(package(step("a")))
    assert kept.command is not None
    assert kept.command["wpk_content"] == package(step("a"))


async def test_a_digest_names_a_package_too(probe: Any) -> None:
    content = package(step("a"))
    shelf = Shelf()
    shelf.packages[digest(content)] = content
    async with house(probe, packages=shelf) as h:
        await h.send(named(digest(content)))
        state = await h.over()

    assert (state.status, state.workflow_id, state.workflow_name) == (Status.COMPLETED, "probing-1.2.0", "probing")


async def test_the_next_owner_runs_what_was_found_and_not_what_the_registry_says_by_then(
    probe: Any, shelf: Shelf
) -> None:
    shelf.packages["probing-1.2.0"] = package(step("a"), safety={"approval_required": True})
    async with house(probe, packages=shelf) as h:
        await h.send(named(requested_by="alice"))
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        shelf.packages["probing-1.2.0"] = package(step("evil"))
        await h.move()
        await h.control("approve", requested_by="bob")
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert list(state.steps) == ["a"]
    assert shelf.asked == ["probing-1.2.0"]
    assert h.names().count("execution.resolved") == 1


async def test_an_owner_that_is_lost_before_the_answer_leaves_the_question_to_the_next(
    probe: Any, shelf: Shelf
) -> None:
    shelf.stuck = True
    async with house(probe, packages=shelf) as h:
        await h.send(named())
        await eventually(lambda: shelf.asked, timeout=PATIENCE)
        shelf.stuck = False
        await h.move()
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert len(shelf.asked) == 2


async def test_the_same_command_again_is_a_duplicate_and_asks_nobody(probe: Any, shelf: Shelf) -> None:
    async with house(probe, packages=shelf) as h:
        await h.send(named())
        await h.over()
        await h.send(named())

    assert h.names()[-1] == "command.duplicate"
    assert len(shelf.asked) == 1
    assert len(probe.seen["e1"].effects) == 1


async def test_what_no_registry_knows_is_refused_with_its_sentence(probe: Any, shelf: Shelf) -> None:
    async with house(probe, packages=shelf) as h:
        await h.send(named("probing-9.0.0"))
        state = await h.over()

    assert state.status is Status.REJECTED
    result = data(h, "execution.rejected")
    assert result.error.type == "unresolved"
    assert [str(error) for error in result.errors] == ['workflow_id: the shelf has no package "probing-9.0.0"']
    assert data(h, "command.rejected").errors == result.errors


async def test_an_agent_without_a_registry_says_how_to_send_the_package(probe: Any) -> None:
    async with house(probe) as h:
        await h.send(named())
        state = await h.over()

    assert state.status is Status.REJECTED
    assert "send the package itself in wpk_content" in (state.error_message or "")


async def test_a_registry_that_comes_back_in_time_loses_no_command(probe: Any, shelf: Shelf) -> None:
    shelf.failing = True
    async with house(probe, packages=shelf) as h:
        await h.send(named())
        await eventually(lambda: len(shelf.asked) >= 3, timeout=PATIENCE)
        shelf.failing = False
        state = await h.over()

    assert state.status is Status.COMPLETED


async def test_a_registry_that_stays_away_ends_in_a_refusal_that_says_why(probe: Any, shelf: Shelf) -> None:
    shelf.failing = True
    async with house(probe, packages=shelf, registry_timeout=0.1) as h:
        await h.send(named())
        state = await h.over()

    assert state.status is Status.REJECTED
    assert "the shelf is away" in (state.error_message or "")
    assert "new execution_id" in (state.error_message or "")


async def test_a_cancel_ends_the_wait_for_the_registry(probe: Any, shelf: Shelf) -> None:
    shelf.stuck = True
    async with house(probe, packages=shelf) as h:
        await h.send(named())
        await eventually(lambda: shelf.asked, timeout=PATIENCE)
        await h.control("cancel", requested_by="bob")
        state = await h.over()

    assert state.status is Status.CANCELLED
    assert "e1" not in probe.seen


async def test_the_deadline_ends_the_wait_for_the_registry(probe: Any, shelf: Shelf) -> None:
    shelf.stuck = True
    async with house(probe, packages=shelf) as h:
        await h.send(named(deadline=h.clock.now() + timedelta(seconds=0.3)))
        state = await h.over()

    assert state.status is Status.FAILED
    assert state.error is not None
    assert state.error.type == "deadline"


async def test_who_waits_for_the_registry_holds_no_slot_and_no_room(probe: Any, shelf: Shelf) -> None:
    shelf.stuck = True
    async with house(probe, packages=shelf, max_executions=1) as h:
        await h.send(named())
        await eventually(lambda: shelf.asked, timeout=PATIENCE)
        assert h.supervisor.room.is_set()
        await h.execute(package(step("a")), "e2")
        state = await h.over("e2")
        await h.control("cancel")
        await h.over()

    assert state.status is Status.COMPLETED


async def test_a_package_that_is_too_large_with_its_command_is_refused(probe: Any, shelf: Shelf) -> None:
    shelf.packages["probing-1.2.0"] = package(step("a"), **{"x-padding": "x" * 3000})
    async with house(probe, packages=shelf, max_command_bytes=3000) as h:
        await h.send(named())
        state = await h.over()

    assert state.status is Status.REJECTED
    assert "at most 3,000" in (state.error_message or "")


async def test_a_package_that_is_found_counts_in_what_is_held_until_it_ends(probe: Any, shelf: Shelf) -> None:
    shelf.packages["probing-1.2.0"] = package(
        step("a"), safety={"approval_required": True}, **{"x-padding": "x" * 5000}
    )
    async with house(probe, packages=shelf, max_held_bytes=5000) as h:
        await h.send(named(requested_by="alice"))
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        full = not h.supervisor.room.is_set()
        await h.control("cancel")
        await h.over()
        free = h.supervisor.room.is_set()

    assert (full, free) == (True, True)


async def test_the_policy_judges_what_was_found(probe: Any, shelf: Shelf) -> None:
    rules = load.parse(
        "version: 1\nrules:\n  - {name: all, effect: allow, steps: {probe: {}}}\n"
        "requirements:\n  - {name: signed, signature: required}\n",
        "p.yaml",
    )
    async with house(probe, packages=shelf, policy=rules) as h:
        await h.send(named())
        state = await h.over()

    assert state.status is Status.REJECTED
    assert isinstance(data(h, "execution.rejected"), events.ExecutionRejected)
    assert "is not signed" in (state.error_message or "")
    assert "e1" not in probe.seen or not probe.seen["e1"].effects


async def test_what_was_found_and_is_broken_is_refused_like_a_package_that_came_along(probe: Any, shelf: Shelf) -> None:
    shelf.packages["probing-1.2.0"] = {"metadata": {"name": "probing", "version": "1.2.0"}, "spec": {"handlers": []}}
    async with house(probe, packages=shelf) as h:
        await h.send(named())
        state = await h.over()

    assert state.status is Status.REJECTED
    assert "spec.handlers" in (state.error_message or "")


async def test_a_run_by_name_is_undone_like_any_other(probe: Any, shelf: Shelf) -> None:
    shelf.packages["probing-1.2.0"] = package(step("a"), rollback={"enabled": True, "handlers": [step("back")]})
    async with house(probe, packages=shelf) as h:
        await h.send(named())
        await h.over()
        shelf.packages.clear()
        await h.move()
        await h.rollback(requested_by="bob")
        state = await h.until(lambda state: state.status is Status.ROLLED_BACK)

    assert list(state.rollback_steps) == ["back"]


async def test_a_dry_run_of_the_same_package_by_name_counts_and_of_another_does_not(probe: Any, shelf: Shelf) -> None:
    async with house(probe, packages=shelf) as h:
        await h.send(named(dry_run=True))
        await h.over()
        real = named(dry_run_id="e1").model_copy(update={"execution_id": "e2"})
        await h.send(real)
        same = await h.over("e2")
        shelf.packages["probing-1.2.0"] = package(step("other"))
        await h.send(real.model_copy(update={"execution_id": "e3"}))
        other = await h.over("e3")

    assert (same.status, other.status) == (Status.COMPLETED, Status.REJECTED)
    assert "execution e1 was of another package" in (other.error_message or "")
