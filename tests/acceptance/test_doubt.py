"""Agents that die at the worst moment of a step: its effect is there, and nobody has told the trail.

Each test ends a real agent when the outside world has been changed and the answer is still kept back, lets another one
go on, and looks at the world and at the trail: nothing is done twice, and what is not known is said to be unknown.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from consumer.workflow.attempts import MAX_INTERRUPTIONS
from tests.support import http_server, processes
from tests.support.agents import PLUGINS
from tests.support.eventually import eventually
from tests.support.foreign import ForeignUser, foreign_user
from tests.support.held_api import HeldApi, held_api
from tests.support.http_server import Exchange
from tests.support.k8s_api import K8sApi, k8s_api
from tests.support.k8s_steps import available, deployment, job, rolled_out, set_image
from tests.support.kafka import KafkaBroker

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

Json = dict[str, Any]
#: How long a pause or a wait lasts in these tests: long enough that its agent dies within it (seconds).
LASTS = 15


@pytest.fixture
def variables(apache_kafka: KafkaBroker, prefix: str) -> dict[str, str]:
    return processes.environment(apache_kafka, prefix, WPK_PROCESSING_GUARANTEE="exactly_once")


@pytest.fixture
async def topics(variables: dict[str, str]) -> None:
    await processes.create_topics(variables)


@pytest.fixture
def user(topics: None, apache_kafka: KafkaBroker, prefix: str) -> Iterator[ForeignUser]:
    with foreign_user(apache_kafka.bootstrap, prefix) as user:
        yield user


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory outside of the agent, in which shell steps leave marks."""
    with tempfile.TemporaryDirectory(prefix="wpk-doubt-") as directory:
        Path(directory).chmod(0o777)  # an agent of root gives its steps another user
        yield Path(directory)


@dataclass(frozen=True)
class Cluster:
    """A Kubernetes API whose answers a test can keep back, and how an agent reaches it."""

    api: K8sApi
    door: HeldApi
    variables: dict[str, str]


@pytest.fixture
async def cluster(variables: dict[str, str], tmp_path: Path) -> AsyncIterator[Cluster]:
    async with k8s_api() as api, held_api(api.url) as door:
        path = door.kubeconfig(api.kubeconfig(tmp_path / "server"), tmp_path / "config")
        yield Cluster(api, door, {**variables, "KUBECONFIG": str(path)})


def package(*handlers: Json, **spec: Any) -> Json:
    return {"metadata": {"name": "doubt", "version": "1.0.0"}, "spec": {"handlers": list(handlers), **spec}}


def k8s(action: str, name: str | None = None, *, rule: str | None = None, **config: Any) -> Json:
    """A step `it` of type k8s."""
    target = {} if name is None else {"resource_type": "deployment", "name": name}
    more = {} if rule is None else {"on_interrupt": rule}
    return {"name": "it", "type": "k8s", "config": {"action": action, **target, **config}, **more}


@asynccontextmanager
async def killed_when(
    user: ForeignUser, variables: dict[str, str], commands: dict[str, Json], worst: Callable[[], Any]
) -> AsyncIterator[None]:
    """Runs the commands on an agent that is killed at that moment; in the block it is dead, after it another one lives
    until all of them have their results."""
    async with processes.agent(variables) as agent:
        for name, command in commands.items():
            user.publish("execute", command, key=name)
        await user.until(worst, lambda: agent.output[-3000:])
        await agent.kill()
    yield
    async with processes.agent(variables):
        for name in commands:
            await user.result(name)
    user.read()
    for name in commands:
        assert len([r for r in user.results(name) if not r.get("rollback_follows")]) == 1
        user.assert_whole(name)


def assert_made_again(user: ForeignUser, name: str, step: str = "it", phase: str = "run") -> None:
    """The trail says that the step was in doubt, and that the same attempt was made again."""
    resumed = user.named(name, "execution.resumed")
    assert [data["in_doubt"] for data in resumed] == [[step]], (name, resumed)
    assert not resumed[0]["handed_over"]
    started = [d for d in user.named(name, "step.started") if (d["step"], d["phase"]) == (step, phase)]
    assert [data["attempt"] for data in started] == [1, 1], (name, started)
    assert started[0]["started_at"] == started[1]["started_at"]
    assert started[0]["attempt_epoch"] < started[1]["attempt_epoch"]


def assert_interrupted(user: ForeignUser, name: str, *told: str, step: str = "it", phase: str = "run") -> Json:
    """The trail says that the step's outcome is not known, and what to look at; it was begun once."""
    assert user.named(name, "execution.resumed")[0]["in_doubt"] == [step]
    started = [d for d in user.named(name, "step.started") if (d["step"], d["phase"]) == (step, phase)]
    assert len(started) == 1, (name, started)
    [failed] = [d for d in user.named(name, "step.failed") if (d["step"], d["phase"]) == (step, phase)]
    assert failed["error"]["type"] == "interrupted", failed
    for text in ("whether it took effect is not known", "look at", *told):
        assert text in failed["error"]["message"], failed
    return failed


def output(user: ForeignUser, name: str, step: str = "it") -> Json:
    [succeeded] = [data for data in user.named(name, "step.succeeded") if data["step"] == step]
    found: Json = succeeded["output"]
    return found


# --- Kubernetes -------------------------------------------------------------------------------------------------


async def test_changes_of_a_cluster_whose_answers_died_with_the_agent_are_there_once(
    user: ForeignUser, cluster: Cluster
) -> None:
    api = cluster.api
    plain = ("restart", "factor", "scale", "patch", "tested", "listed", "note", "count", "recount", "label", "planned")
    for name in (*plain, "back", "pods"):
        api.create("Deployment", "payments", deployment(name))
    for name in ("old", "given"):
        api.create("ConfigMap", "payments", {"metadata": {"name": name}, "data": {"a": "1"}})
    await eventually(lambda: all(available(api, name) for name in (*plain, "back", "pods")))
    set_image(api, "api:2", "back")
    await eventually(lambda: available(api, "back") and len(revisions(api, "back")) == 2)
    set_image(api, "api:3", "back")
    await eventually(lambda: available(api, "back") and len(revisions(api, "back")) == 3)
    pods = {pod["metadata"]["uid"] for pod in of_deployment(api, "pods")}
    before = {name: generation(api, name) for name in plain}
    replicas = {"op": "replace", "path": "/spec/replicas", "value": 5}
    tested = [{"op": "test", "path": "/spec/replicas", "value": 3}, replicas]
    listed = [{"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "side", "image": "side:1"}}]
    counted = {"annotation": "n", "value": "increment"}
    steps = {
        "restart": k8s("restart", "restart"),
        "factor": k8s("scale", "factor", scale_factor=2),
        "scale": k8s("scale", "scale", replicas=4),
        "patch": k8s("patch", "patch", data={"spec": {"minReadySeconds": 7}}),
        "tested": k8s("patch", "tested", data=tested),
        "listed": k8s("patch", "listed", data=listed),
        "note": k8s("annotate", "note", annotation="n", value="1"),
        "count": k8s("annotate", "count", **counted),
        "recount": k8s("annotate", "recount", rule="retry", **counted),
        "label": k8s("label", "label", labels={"tier": "gold"}),
        "back": k8s("rollback", "back"),
        "create": k8s("create", manifest=job(generateName="made-")),
        "delete": k8s("delete", resource_type="configmap", name="old"),
        "forbidden": k8s("delete", rule="fail", resource_type="configmap", name="given"),
        "pods": k8s("restart", resource_type="pod", selector="app=pods"),
        "planned": k8s("annotate", "planned", **counted),
    }
    commands = {name: {"wpk_content": package(step), "dry_run": name == "planned"} for name, step in steps.items()}
    cluster.door.holds = lambda request: (
        request.method != "GET" and ("dryRun" not in request.query or request.path.endswith("/planned"))
    )
    async with killed_when(user, cluster.variables, commands, lambda: len(cluster.door.held) == len(steps)):
        cluster.door.holds = lambda request: False
        api.create("ConfigMap", "payments", {"metadata": {"name": "old"}, "data": {"new": "yes"}})

    statuses = {name: user.results(name)[-1]["status"] for name in steps}
    unknown = {"listed", "count", "forbidden"}
    assert statuses == {name: "failed" if name in unknown else "completed" for name in steps}
    for name in steps.keys() - unknown:
        assert_made_again(user, name)
    for name in unknown - {"forbidden"}:
        assert_interrupted(user, name, "on_interrupt: retry would allow it", name)  # the record names the object
    assert_interrupted(user, "forbidden", "on_interrupt: fail")

    raised = {name: generation(api, name) - before[name] for name in plain}
    marked = {"note", "count", "recount", "label", "planned"}  # metadata raises no generation
    assert raised == {name: 0 if name in marked else 1 for name in plain}
    assert output(user, "restart")["already"] is True
    assert output(user, "factor")["to"] == api.get("Deployment", "factor")["spec"]["replicas"] == 6
    assert api.get("Deployment", "tested")["spec"]["replicas"] == 5
    assert len(api.get("Deployment", "listed")["spec"]["template"]["spec"]["containers"]) == 2
    counts = {name: annotations(api, name).get("n") for name in ("note", "count", "recount", "planned")}
    assert counts == {"note": "1", "count": "1", "recount": "1", "planned": None}
    image = api.get("Deployment", "back")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert (image, output(user, "back")["to_revision"]) == ("api:2", 2)
    [made] = api.store.all("Job")
    assert output(user, "create")["already"] is True
    assert output(user, "create")["uid"] == made["metadata"]["uid"]
    assert api.get("ConfigMap", "old")["data"] == {"new": "yes"}  # another object of that name is spared
    deleted = {seen.body["preconditions"]["uid"] for seen in api.sent("DELETE", "/pods/")}
    assert deleted == pods
    assert "plan" in output(user, "planned")


def generation(api: K8sApi, name: str) -> int:
    found: int = api.get("Deployment", name)["metadata"]["generation"]
    return found


def annotations(api: K8sApi, name: str) -> Json:
    found: Json = api.get("Deployment", name)["metadata"].get("annotations", {})
    return found


def of_deployment(api: K8sApi, name: str) -> list[Json]:
    return [pod for pod in api.store.all("Pod") if pod["metadata"].get("labels", {}).get("app") == name]


def revisions(api: K8sApi, name: str) -> list[Json]:
    return [each for each in api.store.all("ReplicaSet") if each["metadata"].get("labels", {}).get("app") == name]


async def test_an_undo_whose_answer_died_with_the_agent_is_done_again_without_harm(
    user: ForeignUser, cluster: Cluster, outside: Path
) -> None:
    api = cluster.api
    await rolled_out(api, "api")
    api.create("ConfigMap", "payments", {"metadata": {"name": "gone"}, "data": {"a": "1"}})
    fails = {"name": "fails", "type": "shell", "config": {"command": "exit 1"}}
    undone = {"safety": {"rollback_enabled": True}, "rollback": {"enabled": True}}
    own = {"name": "own", "type": "shell", "config": {"command": f"echo x >> {outside}/own; sleep 600"}}
    again = {"name": "own", "type": "shell", "on_interrupt": "retry"}
    command = f"echo x >> {outside}/again; while [ ! -e {outside}/go ]; do sleep 0.1; done"
    steps = {
        "scaled": package(k8s("scale", "api", replicas=5), fails, **undone),
        "created": package(k8s("create", manifest=job(name="made")), fails, **undone),
        "deleted": package(k8s("delete", resource_type="configmap", name="gone"), fails, **undone),
        "own": package(fails, safety={"rollback_enabled": True}, rollback={"enabled": True, "handlers": [own]}),
        "again": package(
            fails,
            safety={"rollback_enabled": True},
            rollback={"enabled": True, "handlers": [{**again, "config": {"command": command}}]},
        ),
    }
    undoing: set[str] = set()

    def holds(request: Any) -> bool:
        """The second change of each object is its undo."""
        if request.method == "GET" or "dryRun" in request.query:
            return False
        kind = request.path.split("/")[6 if request.path.startswith("/apis") else 5]
        known = kind in undoing
        undoing.add(kind)
        return known

    cluster.door.holds = holds
    commands = {name: {"wpk_content": wpk} for name, wpk in steps.items()}
    marks = (outside / "own", outside / "again")
    worst = lambda: len(cluster.door.held) == 3 and all(mark.exists() for mark in marks)  # noqa: E731
    async with killed_when(user, cluster.variables, commands, worst):
        cluster.door.holds = lambda request: False
        (outside / "go").touch()

    statuses = {name: user.results(name)[-1]["status"] for name in steps}
    assert statuses == {**dict.fromkeys(steps, "rolled_back"), "own": "rollback_failed"}
    for name in ("scaled", "created", "deleted"):
        assert_made_again(user, name, phase="rollback")
    assert_made_again(user, "again", step="own", phase="rollback")
    assert_interrupted(user, "own", "on_interrupt: retry would allow it", step="own", phase="rollback")
    assert [mark.read_text().count("x") for mark in marks] == [1, 2]
    assert api.get("Deployment", "api")["spec"]["replicas"] == 3
    assert api.store.all("Job") == []
    assert api.get("ConfigMap", "gone")["data"] == {"a": "1"}
    made = [sent for sent in api.sent("POST", "configmaps") if "dryRun" not in sent.query]
    assert len(made) == 1


# --- HTTP -------------------------------------------------------------------------------------------------------


async def test_requests_whose_answers_died_with_the_agent_are_sent_again_only_where_twice_is_as_good_as_once(
    user: ForeignUser, variables: dict[str, str]
) -> None:
    async with http_server.serve() as server:
        answers = {"delete": 404}
        keeping = [True]

        def route(name: str) -> None:
            async def handler(exchange: Exchange) -> None:
                if keeping[0]:
                    await exchange.gone()
                else:
                    await exchange.reply_json({}, answers.get(name, 200))

            server.route(f"/{name}", handler)

        def step(name: str, method: str, rule: str | None = None, **config: Any) -> Json:
            route(name)
            more = {} if rule is None else {"on_interrupt": rule}
            request = {"url": server.url(f"/{name}"), "method": method, **config}
            return {"name": "it", "type": "api", "config": request, **more}

        steps = {
            "get": step("get", "GET"),
            "put": step("put", "PUT", payload={"a": 1}),
            "delete": step("delete", "DELETE"),
            "declared": step("declared", "POST", headers={"Idempotency-Key": "${execution.id}-7"}),
            "post": step("post", "POST", payload={"a": 1}),
            "patch": step("patch", "PATCH", payload={"a": 1}),
            "anyway": step("anyway", "POST", "retry", payload={"a": 1}),
            "never": step("never", "GET", "fail"),
        }
        commands = {name: {"wpk_content": package(each)} for name, each in steps.items()}
        async with killed_when(user, variables, commands, lambda: len(server.requests) == len(steps)):
            keeping[0] = False
        seen = {name: server.seen(f"/{name}") for name in steps}

    unknown = {"post", "patch", "never"}
    assert {name: len(requests) for name, requests in seen.items()} == {n: 1 if n in unknown else 2 for n in steps}
    statuses = {name: user.results(name)[-1]["status"] for name in steps}
    assert statuses == {name: "failed" if name in {*unknown, "delete"} else "completed" for name in steps}
    for name in steps.keys() - unknown:
        assert_made_again(user, name)
    for name in ("post", "patch"):
        assert_interrupted(user, name, "on_interrupt: retry would allow it")
    assert_interrupted(user, "never", "on_interrupt: fail")
    keys = {name: {request.headers.get("idempotency-key") for request in requests} for name, requests in seen.items()}
    assert keys["declared"] == {"declared-7"}
    assert keys["anyway"] == {"anyway/run/it"}
    assert keys["post"] == {"post/run/it"}
    assert keys["get"] == {None}
    [failed] = user.named("delete", "step.failed")
    assert failed["error"]["type"] == "http_status"
    assert "look whether the first request already did it" in failed["error"]["message"]


# --- commands ---------------------------------------------------------------------------------------------------


async def test_a_command_that_died_with_the_agent_runs_again_only_if_its_package_says_so(
    user: ForeignUser, variables: dict[str, str], outside: Path
) -> None:
    def shell(name: str, **more: Any) -> Json:
        said = '"$WPK_ATTEMPT $WPK_IDEMPOTENCY_KEY"'
        command = f"echo {said} >> {outside}/{name}; while [ ! -e {outside}/go ]; do sleep 0.1; done"
        return {"name": "it", "type": "shell", "config": {"command": command}, **more}

    undo = {"name": "undo", "type": "shell", "config": {"command": f"echo x >> {outside}/undone"}}
    rollback = {"enabled": True, "handlers": [undo]}
    steps = {
        "plain": package(shell("plain"), safety={"rollback_enabled": False}, rollback=rollback),
        "undone": package(shell("undone-run"), safety={"rollback_enabled": True}, rollback=rollback),
        "again": package(shell("again", on_interrupt="retry", retry={"max_attempts": 1})),
        "goes-on": package(shell("goes-on", on_failure="continue"), {**undo, "name": "next"}),
    }
    marks = [outside / name for name in ("plain", "undone-run", "again", "goes-on")]
    commands = {name: {"wpk_content": wpk} for name, wpk in steps.items()}
    async with killed_when(user, variables, commands, lambda: all(mark.exists() for mark in marks)):
        await eventually(lambda: not processes.processes_with(f"{outside}/go"))
        (outside / "go").touch()

    statuses = {name: user.results(name)[-1]["status"] for name in steps}
    assert statuses == {"plain": "failed", "undone": "rolled_back", "again": "completed", "goes-on": "completed"}
    for name in ("plain", "undone", "goes-on"):
        assert_interrupted(user, name, "on_interrupt: retry would allow it")
    assert [result["status"] for result in user.results("undone")] == ["failed", "rolled_back"]
    assert user.results("undone")[0]["error"]["type"] == "interrupted"
    assert_made_again(user, "again")
    assert [mark.read_text().splitlines() for mark in marks] == [
        ["1 plain/run/it"],
        ["1 undone/run/it"],
        ["1 again/run/it"] * 2,
        ["1 goes-on/run/it"],
    ]
    assert (outside / "undone").read_text().count("x") == 2  # of the rollback, and of the step that came next


# --- waiting ----------------------------------------------------------------------------------------------------


async def test_pauses_and_waits_go_on_with_the_time_that_is_left(user: ForeignUser, cluster: Cluster) -> None:
    api = cluster.api
    await rolled_out(api, "api")
    never = {"condition": "jsonpath={.metadata.annotations.never}"}
    later = {"condition": "jsonpath={.metadata.annotations.later}"}
    limit = f"{LASTS}s"
    steps = {
        "pause": {"name": "it", "type": "delay", "config": {"duration": limit}},
        "own": k8s("wait", "api", timeout=limit, **never),
        "steps": {**k8s("wait", "api", **never), "timeout": limit},
        "meanwhile": k8s("wait", "api", timeout=limit, **later),
    }
    commands = {name: {"wpk_content": package(step)} for name, step in steps.items()}
    watching = lambda: (  # noqa: E731
        all(user.named(name, "step.started") for name in steps)
        and len([seen for seen in api.requests if seen.query.get("watch")]) >= 3
    )
    async with killed_when(user, cluster.variables, commands, watching):
        api.store.touch(api.get("Deployment", "api"), metadata={"annotations": {"later": "yes"}})
        begun = max(moment(user.named(name, "step.started")[0]["started_at"]) for name in steps)
        over = begun + timedelta(seconds=LASTS)
        await eventually(lambda: datetime.now(UTC) > over, timeout=2 * LASTS, because="their time passes")

    statuses = {name: user.results(name)[-1]["status"] for name in steps}
    assert statuses == {"pause": "completed", "own": "failed", "steps": "failed", "meanwhile": "completed"}
    for name in steps:
        assert_made_again(user, name)
        again = next(event for event in reversed(user.events(name)) if event["type"] == "wpk.step.started.v1")
        end = next(event for event in user.events(name) if event["data"]["seq"] == again["data"]["seq"] + 1)
        assert end["type"] in ("wpk.step.succeeded.v1", "wpk.step.failed.v1")
        took = moment(end["time"]) - moment(again["time"])
        assert took < timedelta(seconds=LASTS), f"{name} began anew: {took}"
        assert end["data"]["duration"] >= LASTS
    for name in ("own", "steps"):
        [failed] = user.named(name, "step.failed")
        assert failed["error"]["type"] == "timeout"
        # A wait whose attempt may take no longer gives up a moment before, so that it can say what it waited for.
        assert re.search(f"after ({LASTS}|{LASTS - 1})s", failed["error"]["message"])


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


# --- again and again --------------------------------------------------------------------------------------------


async def test_a_step_that_ends_its_agent_is_not_made_again_for_ever(
    user: ForeignUser, variables: dict[str, str], outside: Path
) -> None:
    variables = {**variables, "PYTHONPATH": f"{variables['PYTHONPATH']}:{PLUGINS}"}
    mark = outside / "deaths"
    deadly = {"name": "it", "type": "deadly", "config": {"mark": str(mark)}, "on_interrupt": "retry"}
    undo = {"name": "undo", "type": "shell", "config": {"command": f"echo x >> {outside}/undone"}}
    rollback = {"enabled": True, "handlers": [undo]}
    user.publish(
        "execute", {"wpk_content": package(deadly, safety={"rollback_enabled": True}, rollback=rollback)}, key="deadly"
    )
    beside = {"name": "it", "type": "delay", "config": {"duration": "20s"}}
    user.publish("execute", {"wpk_content": package(beside)}, key="beside")
    for _ in range(MAX_INTERRUPTIONS):
        async with processes.agent(variables, ready=False) as dying:
            assert await dying.ended() == -9
    async with processes.agent(variables) as survivor:
        result = await user.result("deadly")
        assert (await user.result("beside"))["status"] == "completed"
        assert survivor.code is None

    assert result["status"] == "rolled_back"
    assert (outside / "undone").read_text().count("x") == 1
    assert [line.split()[0] for line in mark.read_text().splitlines()] == ["1"] * MAX_INTERRUPTIONS
    user.read()
    [failed] = user.named("deadly", "step.failed")
    assert failed["error"]["type"] == "interrupted"
    assert f"lost {MAX_INTERRUPTIONS} times" in failed["error"]["message"]
    assert "look at" in failed["error"]["message"]
    assert [data["in_doubt"] for data in user.named("deadly", "execution.resumed")] == [["it"]] * MAX_INTERRUPTIONS
    user.assert_whole("deadly")


async def test_agents_that_hand_over_in_order_do_not_use_up_the_patience_with_a_long_step(
    user: ForeignUser, cluster: Cluster
) -> None:
    api = cluster.api
    await rolled_out(api, "api")
    wait = k8s("wait", "api", condition="jsonpath={.metadata.annotations.go}", timeout="10m")
    resumed = lambda: user.named("long", "execution.resumed")  # noqa: E731
    user.publish("execute", {"wpk_content": package(wait)}, key="long")
    async with AsyncExitStack() as stack:
        former = await stack.enter_async_context(processes.agent(cluster.variables))
        await user.until(lambda: user.named("long", "step.started"))
        for least in range(MAX_INTERRUPTIONS + 1):  # rolling updates: the next is there before the former leaves
            new = await stack.enter_async_context(processes.agent(cluster.variables))
            assert await former.stop() == 0
            await user.until(lambda least=least: len(resumed()) > least, lambda: former.output[-2000:])  # noqa: B023
            await user.until(lambda: len(user.named("long", "step.started")) == len(resumed()) + 1)
            former = new
        api.store.touch(api.get("Deployment", "api"), metadata={"annotations": {"go": "yes"}})
        result = await user.result("long")

    assert result["status"] == "completed", result
    user.read()
    assert all(data["handed_over"] for data in resumed() if data["in_doubt"])
    user.assert_whole("long")
