"""The digest over a whole plan changes if and only if what the dry run found does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import JsonValue

from consumer.engine.planned import planned
from consumer.policy.redact import Redactor
from consumer.ports import Plan
from schemas.execution import ExecutionState, StepState, StepStatus
from schemas.failure import Failure
from schemas.plan import plan_digest
from schemas.wpk import Handler
from tests.support.shell_steps import Recorder, context


def done(name: str, digest: str | None = "sha256:1", **fields: Any) -> StepState:
    output: JsonValue = {"plan": "it", "digest": digest} if digest else {"plan": "it"}
    return StepState(step=name, adapter="shell", status=StepStatus.SUCCEEDED, output=output).model_copy(update=fields)


def state(
    *steps: StepState, execution: str = "e1", package: str = "sha256:p", **parameters: JsonValue
) -> ExecutionState:
    return ExecutionState(
        execution_id=execution,
        wpk_digest=package,
        command={"parameters": parameters},
        steps={step.step: step for step in steps},
    )


def test_two_executions_that_would_do_the_same_have_one_digest() -> None:
    first = state(done("one"), done("two", "sha256:2"), region="north")
    later = state(done("one", attempt=2, duration=3.0), done("two", "sha256:2"), execution="e2", region="north")
    assert plan_digest(first) == plan_digest(later)
    assert str(plan_digest(first)).startswith("sha256:")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(state(done("one", "sha256:9"), done("two")), id="a step would do something else"),
        pytest.param(state(done("two"), done("one")), id="another order"),
        pytest.param(state(done("one")), id="a step less"),
        pytest.param(state(done("one"), done("two", adapter="k8s")), id="another adapter"),
        pytest.param(state(done("one"), done("two"), package="sha256:q"), id="another package"),
        pytest.param(state(done("one"), done("two"), region="south"), id="other parameters"),
        pytest.param(state(done("one"), done("two", None, status=StepStatus.SKIPPED)), id="a step would be skipped"),
    ],
)
def test_what_differs_shows_in_the_digest(other: ExecutionState) -> None:
    assert plan_digest(other) not in (None, plan_digest(state(done("one"), done("two"))))


@pytest.mark.parametrize(
    "unknown",
    [
        pytest.param({}, id="no digest"),
        pytest.param({"status": StepStatus.RUNNING}, id="not at its end"),
        pytest.param({"status": StepStatus.FAILED, "error": Failure(type="gone", message="no")}, id="can't be planned"),
        pytest.param({"status": StepStatus.CANCELLED}, id="cancelled"),
    ],
)
def test_a_plan_with_a_step_that_is_not_known_has_no_digest(unknown: Mapping[str, Any]) -> None:
    assert plan_digest(state(done("one"), done("two", None, **unknown))) is None
    assert plan_digest(state()) is None


def test_a_step_that_may_fail_counts_by_the_kind_of_its_failure() -> None:
    def failing(kind: str, message: str) -> ExecutionState:
        error = Failure(type=kind, message=message)
        return state(done("one", None, status=StepStatus.FAILED, continued=True, error=error))

    assert plan_digest(failing("not_found", "at 10:00")) == plan_digest(failing("not_found", "at 10:01"))
    assert plan_digest(failing("not_found", "no")) not in (None, plan_digest(failing("forbidden", "no")))


THIRD = "00000000-0000-4000-8000-333333333333"


def digest_in(execution: str, command: str, detail: dict[str, JsonValue]) -> JsonValue:
    handler = Handler(name="one", type="shell", config={"command": command})
    step = context(Recorder().log, execution_id=execution, step="one", dry_run=True)
    plan = Plan(summary="do it", changes=True, detail=detail)
    return planned(plan, handler, step, Redactor(["hunter22"]), 2048)["digest"]


def test_the_digest_of_a_step_does_not_know_which_execution_it_is() -> None:
    for name in ("0" * 8 + "-0000-4000-8000-" + "1" * 12, "0" * 8 + "-0000-4000-8000-" + "2" * 12):
        detail: dict[str, JsonValue] = {"headers": {"Idempotency-Key": f"{name}/run/one"}, "url": f"/runs/{name}?x"}
        assert digest_in(name, "${execution.id}", detail) == digest_in(
            THIRD, "${execution.id}", {"headers": {"Idempotency-Key": f"{THIRD}/run/one"}, "url": f"/runs/{THIRD}?x"}
        )
    assert digest_in("staging", "${execution.id}", {"namespace": "staging"}) != digest_in(
        "production", "${execution.id}", {"namespace": "production"}
    )
    assert digest_in("api", "restart", {"name": "api"}) != digest_in("db", "restart", {"name": "db"})


def test_the_digest_of_a_step_covers_what_is_cut_and_hides_secrets() -> None:
    long, other = "x" * 5000 + "1", "x" * 5000 + "2"
    assert digest_in("e1", "it", {"text": long}) != digest_in("e1", "it", {"text": other})
    assert digest_in("e1", "it", {"text": "hunter22"}) == digest_in("e1", "it", {"text": "***"})
