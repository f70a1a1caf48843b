"""What becomes of an execution by what its adapters say of the rights that its steps need."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from consumer.engine import preflight
from consumer.errors import TemporaryError
from consumer.ports import Intention, JsonObject, Scope
from schemas.events import ExecutionResult, ExecutionStarted, Status
from schemas.failure import Problem
from tests.support.engine_house import House, house, package, probe_module, step


@dataclass
class Guarded:
    """An adapter whose steps need rights."""

    inner: Any
    says: Sequence[Problem] | Exception | None = ()
    """None: it never answers."""
    asked: list[Sequence[Intention]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def undeclared(self, config: JsonObject, scope: Scope, declared: Sequence[str], *, undone: bool) -> list[str]:
        return ["lamps/switch"] if undone and "lamps/switch" not in declared else []

    async def preflight(self, steps: Sequence[Intention], requested_by: str | None) -> Sequence[Problem]:
        self.asked.append(steps)
        if self.says is None:
            await asyncio.Event().wait()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says or ()


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


def warnings(engine: House) -> list[str]:
    (started,) = (event.data for event in engine.events() if isinstance(event.data, ExecutionStarted))
    return [str(problem) for problem in started.warnings]


async def test_a_missing_right_refuses_the_execution_before_its_first_step(probe: Any) -> None:
    missing = Problem(path="spec.handlers[1].config", message="alice may not switch lamps")
    guarded = Guarded(probe.build(None), [missing])
    async with house(probe, adapters={"probe": guarded}) as engine:
        await engine.execute(package(step("first"), step("second")))
        state = await engine.over()
        (result,) = (event.data for event in engine.events() if isinstance(event.data, ExecutionResult))
    assert state.status is Status.REJECTED
    assert "alice may not switch lamps" in str(result.error_message)
    assert not probe.seen
    assert [each.path for each in guarded.asked[0]] == ["spec.handlers[0].config", "spec.handlers[1].config"]


@pytest.mark.parametrize("says", [TemporaryError("the server is away", code="unreachable"), RuntimeError("bug"), None])
async def test_what_can_not_be_asked_is_a_warning_and_the_execution_goes_on(
    probe: Any, says: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "LIMIT", 0.1)
    async with house(probe, adapters={"probe": Guarded(probe.build(None), says)}) as engine:
        await engine.execute(package(step("only")))
        state = await engine.over()
        (warning,) = warnings(engine)
    assert state.status is Status.COMPLETED
    assert "whether the probe steps have the rights they need is not known" in warning


async def test_a_package_with_errors_asks_for_no_rights(probe: Any) -> None:
    guarded = Guarded(probe.build(None))
    async with house(probe, adapters={"probe": guarded}) as engine:
        await engine.execute(package(step("only", {"nonsense": 1})))
        assert (await engine.over()).status is Status.REJECTED
    assert guarded.asked == []


async def test_rights_for_the_undo_count_where_the_rollback_is_automatic(probe: Any) -> None:
    spec = {"rollback": {"enabled": True}, "validation": {"required_permissions": ["lamps/see"]}}
    guarded = Guarded(probe.build(None))
    async with house(probe, adapters={"probe": guarded}) as engine:
        await engine.execute(package(step("only"), **spec))
        await engine.over()
        (warning,) = warnings(engine)
    assert 'lacks "lamps/switch", which the step "only" needs' in warning
    assert guarded.asked[0][0].undone
