"""Jobs whose creation is in doubt, against an API server that can lose an answer. The real one: tests/kubernetes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.errors import TemporaryError
from consumer.ports import JsonObject
from tests.support.k8s_api import Fault, K8sApi, k8s_api
from tests.support.k8s_steps import Steps, job, running_steps

RUN: JsonObject = {"action": "job", "manifest": job(name="once")}
# A real server makes the selector itself.
RUN["manifest"]["spec"] |= {"manualSelector": True, "selector": {"matchLabels": {"job-name": "once"}}}


@pytest.fixture
async def api() -> AsyncIterator[K8sApi]:
    async with k8s_api() as server:
        yield server


@pytest.fixture
async def steps(api: K8sApi, tmp_path: Path) -> AsyncIterator[Steps]:
    async with running_steps(api, tmp_path) as running:
        yield running


@pytest.mark.parametrize("was_made", [True, False])
async def test_a_job_whose_creation_is_in_doubt_runs_once(api: K8sApi, steps: Steps, was_made: bool) -> None:
    api.faults.append(Fault("POST", "jobs$", 0, after=was_made))
    with pytest.raises(TemporaryError, match="whether the change was made is not known"):
        await steps.run(RUN)
    assert len(api.store.all("Job")) == was_made

    made = await steps.again(RUN)

    assert made["already"] is was_made and made["succeeded"] == 1
    assert len(api.store.all("Job")) == 1 and len(api.store.all("Pod")) == 1


async def test_a_server_that_is_away_when_the_job_is_there_leaves_it_for_the_next_attempt(
    api: K8sApi, steps: Steps
) -> None:
    api.faults.append(Fault("GET", "jobs", 503, times=6))
    with pytest.raises(TemporaryError):
        await steps.run(RUN)
    api.faults.clear()

    assert (await steps.again(RUN))["already"] is True
    assert len(api.store.all("Job")) == 1
