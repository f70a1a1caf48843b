"""Jobs that a step runs on a real control plane: their end, their logs, and that none runs twice."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject
from schemas.wpk import ResourceLimits
from tests.support.control_plane import KubernetesCluster, Space
from tests.support.control_plane.kubectl import Object
from tests.support.control_plane.manifests import job, template
from tests.support.eventually import eventually
from tests.support.k8s_real import steps_on
from tests.support.k8s_steps import Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]


def run(manifest: Object, **more: object) -> JsonObject:
    """The config of a step that runs the Job."""
    return {"action": "job", "manifest": manifest, **more}


async def jobs(space: Space) -> list[Object]:
    return await space.kubectl.items("jobs", "--namespace", space.name)


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_a_job_is_run_to_its_end_and_its_lines_are_passed_on(steps: Steps, space: Space) -> None:
    made = await steps.run(run(job("once", wishes={"log": "first\nsecond"})))

    (pod,) = await space.pods("once")
    assert steps.output == ["first", "second"]
    assert made["resource"] == f"job {space.name}/once" and made["already"] is False
    assert made["succeeded"] == 1 and made["failed"] == 0
    assert made["pods"] == [pod["metadata"]["name"]] and made["lines"] == 2
    assert isinstance(made["duration"], float) and made["kept"] is None


async def test_the_lines_of_several_pods_and_containers_say_whose_they_are(steps: Steps, space: Space) -> None:
    manifest = job("many", wishes={"log": "from {container}"}, completions=2, parallelism=2)
    manifest["spec"]["template"]["spec"]["initContainers"] = [{"name": "first", "image": "app:1"}]

    made = await steps.run(run(manifest))

    names = sorted(item["metadata"]["name"] for item in await space.pods("many"))
    assert sorted(made["pods"]) == names and made["succeeded"] == 2
    wanted = {f"{name}/{container}: from {container}" for name in names for container in ("first", "main")}
    assert set(steps.output) == wanted and len(steps.output) == 4


async def test_lines_come_while_the_job_runs(steps: Steps, space: Space) -> None:
    running = asyncio.create_task(steps.run(run(job("long", wishes={"run-seconds": 600, "log-every": 0.1}))))
    try:
        await eventually(lambda: "tick 2" in steps.output)
        (pod,) = await space.pods("long")
        await space.wish(pod["metadata"]["name"], "run-seconds=0")
        await running
    finally:
        running.cancel()
    assert steps.output[:3] == ["main started", "tick 1", "tick 2"]
    assert len(steps.output) == len(set(steps.output))


async def test_lines_go_on_after_a_restart_of_the_api_server_and_none_comes_twice(
    steps: Steps, space: Space, control_plane: KubernetesCluster
) -> None:
    running = asyncio.create_task(steps.run(run(job("long", wishes={"run-seconds": 600, "log-every": 0.2}))))
    try:
        await eventually(lambda: "tick 1" in steps.output)
        await asyncio.to_thread(control_plane.restart)
        last = int(steps.output[-1].removeprefix("tick "))
        await eventually(lambda: f"tick {last + 5}" in steps.output)
        (pod,) = await space.pods("long")
        await space.wish(pod["metadata"]["name"], "run-seconds=0")
        made = await running
    finally:
        running.cancel()
    assert made["succeeded"] == 1
    assert steps.output[1:] == [f"tick {number}" for number in range(1, len(steps.output))]


async def test_a_container_that_is_started_again_is_followed_on(steps: Steps) -> None:
    manifest = job("again", wishes={"log": "run {restart}", "exit-code": 1}, backoffLimit=2)
    manifest["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure"
    with pytest.raises(PermanentError, match="BackoffLimitExceeded"):
        await steps.run(run(manifest))
    assert steps.output[:2] == ["run 0", "run 1"]


async def test_a_job_that_fails_says_why_and_how_its_pods_ended(steps: Steps) -> None:
    with pytest.raises(PermanentError, match=r"BackoffLimitExceeded.*container main ended with exit code 3") as caught:
        await steps.run(run(job("broken", wishes={"exit-code": 3, "log": "no disk"}, backoffLimit=0)))
    assert caught.value.code == "failed"
    assert caught.value.output is not None and caught.value.output["failed"] == 1
    assert steps.output == ["no disk"]


async def test_a_job_that_takes_longer_than_it_may_says_so(steps: Steps) -> None:
    with pytest.raises(PermanentError, match="DeadlineExceeded"):
        await steps.run(run(job("slow", wishes={"run-seconds": 600}, activeDeadlineSeconds=1)))


async def test_a_step_whose_time_is_over_leaves_the_job_running_and_a_further_attempt_waits_for_it(
    steps: Steps, space: Space
) -> None:
    config = run(job("long", wishes={"run-seconds": 600}), timeout="2s")
    with pytest.raises(TemporaryError, match="it goes on, a further attempt waits for it") as caught:
        await steps.run(config)
    assert caught.value.code == "timeout"

    (pod,) = await eventually(lambda: space.pods("long"))
    await space.wish(pod["metadata"]["name"], "run-seconds=0")
    made = await steps.again({**config, "timeout": "60s"})

    assert made["already"] is True and made["succeeded"] == 1
    assert len(await jobs(space)) == 1


async def test_a_job_that_is_suspended_is_waited_for_and_the_error_says_what_it_lacks(steps: Steps) -> None:
    config = run(job("held", suspend=True), timeout="1s")
    assert "suspended" in (await steps.plan(config)).summary
    with pytest.raises(TemporaryError, match="it is suspended, somebody must resume it"):
        await steps.run(config)


async def test_a_job_that_somebody_deletes_meanwhile_ends_the_step(steps: Steps, space: Space) -> None:
    running = asyncio.create_task(steps.run(run(job("long", wishes={"run-seconds": 600}))))
    try:
        await eventually(lambda: space.pods("long"))
        await space("delete", "job/long", "--wait=false")
        with pytest.raises(PermanentError, match="was deleted before it ended"):
            await running
    finally:
        running.cancel()


# --- once ------------------------------------------------------------------------------------------------------------


async def test_a_repeated_attempt_finds_the_job_and_runs_no_second_one(steps: Steps, space: Space) -> None:
    manifest = job("x", wishes={"log": "done"})
    manifest["metadata"] = {"generateName": "once-"}
    first = await steps.run(run(manifest))
    again = await steps.again(run(manifest))

    assert again["already"] is True and again["uid"] == first["uid"]
    assert len(await jobs(space)) == 1


async def test_a_job_of_that_name_that_is_not_the_steps_own_is_not_taken_for_it(steps: Steps, space: Space) -> None:
    await space.apply(job("once"))
    with pytest.raises(PermanentError, match="already exists"):
        await steps.run(run(job("once")))


@pytest.mark.parametrize("cleanup", ["always", "on_success"])
async def test_a_job_that_may_have_run_and_been_cleaned_up_is_not_run_again(
    steps: Steps, space: Space, cleanup: str
) -> None:
    config = run(job("once"), cleanup=cleanup)
    await steps.run(config)
    await space("delete", "job/once")
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    steps.records["step"] = {**steps.records["step"], "began": long_ago.isoformat()}

    with pytest.raises(PermanentError, match="not run again") as caught:
        await steps.again(config)

    assert caught.value.code == "unknown_outcome"
    assert await jobs(space) == []


@pytest.mark.parametrize("cleanup", ["never", "always"])
async def test_a_job_that_was_never_made_is_made_by_the_next_attempt(steps: Steps, space: Space, cleanup: str) -> None:
    """The first attempt ended after its record was durable, and before the API server heard of it."""
    config = run(job("once"), cleanup=cleanup)
    await steps.run(config)
    await space("delete", "job/once")

    assert (await steps.again(config))["already"] is False


# --- cleaning up and undo --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cleanup", "code", "ttl"),
    [
        ("never", 0, ""),
        ("always", 0, "600"),
        ("always", 1, "600"),
        ("on_success", 0, "600"),
        ("on_success", 1, ""),
    ],
)
async def test_a_job_is_left_to_kubernetes_to_clean_up_where_that_is_wanted(
    steps: Steps, space: Space, cleanup: str, code: int, ttl: str
) -> None:
    config = run(job("once", wishes={"exit-code": code}, backoffLimit=0), cleanup=cleanup)
    if code:
        with pytest.raises(PermanentError):
            await steps.run(config)
    else:
        assert (await steps.run(config))["kept"] == ("10m" if ttl else None)
    assert await space.field("job/once", "spec.ttlSecondsAfterFinished") == ttl


async def test_the_manifests_own_time_to_be_kept_counts_and_kubernetes_then_deletes_job_and_pods(
    steps: Steps, space: Space
) -> None:
    made = await steps.run(run(job("once", ttlSecondsAfterFinished=1), cleanup="always"))
    assert made["kept"] == "1s"

    async def gone() -> bool:
        return not await jobs(space) and not await space.pods("once")

    await eventually(gone)


async def test_undo_deletes_the_job_and_its_pods_also_while_it_runs(steps: Steps, space: Space) -> None:
    running = asyncio.create_task(steps.run(run(job("long", wishes={"run-seconds": 600}))))
    await eventually(lambda: space.pods("long"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(await jobs(space)) == 1, "a step that is ended ends no job"

    undone = await steps.undo()

    assert undone["restored"] == [f"job {space.name}/long deleted"]

    async def gone() -> bool:
        return not await jobs(space) and not await space.pods("long")

    await eventually(gone)


# --- from a CronJob --------------------------------------------------------------------------------------------------


def cron_job(name: str) -> Object:
    made = {"template": template(name, "app:1", {"log": "swept"}, restartPolicy="Never"), "backoffLimit": 1}
    metadata = {"labels": {"team": "a"}, "annotations": {"why": "sweep"}}
    spec = {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"metadata": metadata, "spec": made}}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize("kind", ["", "cronjob/"])
async def test_a_cron_jobs_job_is_the_one_that_kubectl_makes(steps: Steps, space: Space, kind: str) -> None:
    await space.apply(cron_job("sweep"))
    await space("create", "job", "theirs", "--from=cronjob/sweep")

    made = await steps.run({"action": "job", "template": f"{kind}sweep", "name": "ours"})

    assert made["succeeded"] == 1 and steps.output == ["swept"]
    await space.wait("job/theirs", "condition=Complete")
    theirs, ours = [_plain(await space.kubectl.json("get", "job", n, "-n", space.name)) for n in ("theirs", "ours")]
    assert ours == theirs


def _plain(item: Object) -> str:
    """A Job without what tells it from another one that was made the same way."""
    uid, metadata = item["metadata"]["uid"], item["metadata"]
    annotations = {k: v for k, v in metadata["annotations"].items() if k != "wpk-agent/created-by"}
    kept = {key: metadata.get(key) for key in ("labels", "ownerReferences")}
    text = json.dumps([kept, annotations, item["spec"]], sort_keys=True)
    return text.replace(uid, "UID").replace(f'"{metadata["name"]}"', '"NAME"')


async def test_a_cron_jobs_job_gets_a_name_that_is_the_same_for_every_attempt(steps: Steps, space: Space) -> None:
    await space.apply(cron_job("sweep"))
    first = await steps.run({"action": "job", "template": "sweep"})
    again = await steps.again({"action": "job", "template": "sweep"})
    assert str(first["name"]).startswith("sweep-") and again["uid"] == first["uid"]
    assert len(await jobs(space)) == 1


async def test_a_cron_job_that_is_not_there_is_named(steps: Steps) -> None:
    with pytest.raises(PermanentError, match=r"cronjob .*/absent not found"):
        await steps.run({"action": "job", "template": "absent"})


# --- plan and rights -------------------------------------------------------------------------------------------------


async def test_a_plan_makes_no_job_and_finds_what_the_server_would_refuse(steps: Steps, space: Space) -> None:
    plan = await steps.plan(run(job("once")))
    assert plan.changes and plan.summary == f"run job {space.name}/once"
    assert await jobs(space) == []

    wrong = job("once")
    wrong["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    with pytest.raises(PermanentError, match="restartPolicy"):
        await steps.plan(run(wrong))


async def test_more_pods_at_once_than_the_package_allows_are_not_begun(steps: Steps, space: Space) -> None:
    steps.limits = ResourceLimits(max_pods=2)
    with pytest.raises(PermanentError, match="max_pods is 2"):
        await steps.run(run(job("many", parallelism=3, completions=9)))
    assert await jobs(space) == []


async def test_who_may_not_read_logs_still_learns_the_jobs_end(
    control_plane: KubernetesCluster, space: Space, tmp_path: Path
) -> None:
    rules = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create"]}]
    kubeconfig = await control_plane.restricted(space.name, rules)
    async with steps_on(kubeconfig, space.name, tmp_path) as steps:
        made = await steps.run(run(job("once")))
    assert made["succeeded"] == 1 and steps.output == []
    assert any("pods can't be followed" in line and "not allowed to list pods" in line for _, line in steps.lines)
