"""The examples as a team would run them: an agent, a broker, an API server, and the services they talk to."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.dev import service
from consumer.dev.service import DemoService
from consumer.settings import Settings
from schemas.events import Status
from tests.support import agents, http_server
from tests.support.agents import Topics
from tests.support.eventually import eventually
from tests.support.http_server import Exchange, Server
from tests.support.k8s_api import K8sApi, k8s_api
from tests.support.k8s_steps import job, rolled_out
from tests.support.kafka import KafkaBroker
from tests.support.require import require

pytestmark = pytest.mark.timeout(240)

EXAMPLES = Path(__file__).parents[2] / "examples"
OLD, NEW, TOKEN = "old-passw0rd", "new-passw0rd", "vault-t0ken-4711"


def example(name: str) -> dict[str, Any]:
    """The package, with its backoffs cut down, which are made for the real world."""
    package: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.wpk.yaml").read_text(encoding="utf-8"))
    spec = package["spec"]
    for handler in [*spec["handlers"], *spec.get("rollback", {}).get("handlers", [])]:
        if "retry" in handler:
            handler["retry"]["backoff"] = "20ms"
    return package


@pytest.fixture
async def api() -> AsyncIterator[K8sApi]:
    async with k8s_api() as server:
        yield server


@pytest.fixture
async def web() -> AsyncIterator[Server]:
    async with http_server.serve() as server:
        yield server


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    directory = tmp_path / "secrets"
    directory.mkdir()
    for name, value in {"DB_PASSWORD": OLD, "DB_PASSWORD_NEXT": NEW, "VAULT_TOKEN": TOKEN}.items():
        (directory / name).write_text(f"{value}\n")
    return directory


@pytest.fixture
def config(embedded_kafka: KafkaBroker, prefix: str, api: K8sApi, secrets: Path, tmp_path: Path) -> Settings:
    kubeconfig = str(api.kubeconfig(tmp_path / "kubeconfig"))
    return agents.settings(
        embedded_kafka,
        prefix,
        sandbox="preferred",
        kubeconfig=kubeconfig,
        secrets_dir=secrets,
        partitions=1,
        session_timeout=3,
    )


@asynccontextmanager
async def agent_and_user(config: Settings) -> AsyncIterator[Topics]:
    await agents.create_topics(config)
    async with agents.running(config), agents.user(config) as topics:
        yield topics


async def approved(topics: Topics, execution_id: str) -> None:
    await topics.until(execution_id, lambda state: state.status is Status.AWAITING_APPROVAL)
    await topics.control(execution_id, "approve", requested_by="bob")


def statuses(topics: Topics, execution_id: str) -> dict[str, str]:
    """Each step of the run with its end."""
    state = topics.trails[execution_id].state
    assert state is not None
    return {name: step.status.value for name, step in state.steps.items()}


# --- the demo ---------------------------------------------------------------------------------------------------


async def test_greet_and_check_completes_in_spite_of_a_flaky_service(config: Settings) -> None:
    async with service.serve() as url, agent_and_user(config) as topics:
        await topics.execute("e1", example("greet-and-check"), parameters={"service_url": url})
        state = await topics.over("e1")
        assert state.status is Status.COMPLETED, state.error
        assert state.steps["flaky-service"].attempt == 3
        assert set(state.outputs) == {"disk", "memory"}
        assert all(isinstance(used, int) and 0 <= used <= 100 for used in state.outputs.values())
        await eventually(lambda: _read(topics, "e1", "report"))
        assert topics.log("e1", "report")[0] == "hello from a service that works"


async def _read(topics: Topics, execution_id: str, step: str) -> list[str]:
    await topics.read()
    return topics.log(execution_id, step)


async def test_risky_change_restores_the_limit_that_it_read(config: Settings) -> None:
    demo = DemoService()
    async with service.serve(demo) as url, agent_and_user(config) as topics:
        await topics.execute("e1", example("risky-change"), parameters={"service_url": url})
        state = await topics.over("e1")
        assert state.status is Status.ROLLED_BACK
        assert state.error is not None
        assert (state.error.type, state.error.step) == ("http_status", "check-service")
        assert demo.calls.count(("PUT", "/limit")) == 2
        assert demo.limit.limit == 10


# --- the runbooks -----------------------------------------------------------------------------------------------


async def test_restart_unhealthy_saves_logs_and_restarts_after_approval(config: Settings, api: K8sApi) -> None:
    await rolled_out(api)
    before = {pod["metadata"]["uid"] for pod in api.store.all("Pod")}
    async with agent_and_user(config) as topics:
        await topics.execute(
            "e1",
            example("restart-unhealthy"),
            parameters={"namespace": "payments", "deployment": "api"},
            requested_by="alice",
        )
        await approved(topics, "e1")
        state = await topics.over("e1")
        assert state.status is Status.COMPLETED, state.error
        assert state.outputs == {"ready": 3}
        assert before.isdisjoint(pod["metadata"]["uid"] for pod in api.store.all("Pod"))


async def test_restart_unhealthy_undoes_a_restart_that_does_not_help(config: Settings, api: K8sApi) -> None:
    await rolled_out(api)
    template = api.get("Deployment", "api")["spec"]["template"]
    package = example("restart-unhealthy")
    wait = next(step for step in package["spec"]["handlers"] if step["name"] == "wait-for-rollout")
    wait["config"]["timeout"] = "500ms"
    async with agent_and_user(config) as topics:
        await topics.execute(
            "e1", package, parameters={"namespace": "payments", "deployment": "api"}, requested_by="alice"
        )
        await topics.until("e1", lambda state: state.status is Status.AWAITING_APPROVAL)
        api.controllers.broken_images.add("api:1")  # pods that are started from now on crash
        await topics.control("e1", "approve", requested_by="bob")
        state = await topics.over("e1")
        assert state.status is Status.ROLLED_BACK, state.error
        assert api.get("Deployment", "api")["spec"]["template"] == template


def prometheus(*values: float) -> http_server.Handler:
    """Answers each query with the next value; the last for ever."""
    left = list(values)

    async def handler(exchange: Exchange) -> None:
        value = left.pop(0) if len(left) > 1 else left[0]
        result = [{"metric": {}, "value": [1_700_000_000, str(value)]}]
        await exchange.reply_json({"status": "success", "data": {"resultType": "vector", "result": result}})

    return handler


async def test_scale_on_latency_scales_only_what_is_slow_and_keeps_only_what_helps(
    config: Settings, api: K8sApi, web: Server
) -> None:
    cases = {  # the deployment's name; the latencies one after the other; the end, and the replicas then
        "fast-enough": ((0.2,), Status.COMPLETED, 3),
        "more-helps": ((0.9, 0.3), Status.COMPLETED, 5),
        "more-does-not-help": ((0.9, 0.8), Status.ROLLED_BACK, 3),
    }
    async with agent_and_user(config) as topics:
        for name, (latencies, status, replicas) in cases.items():
            await rolled_out(api, name)
            web.route("/api/v1/query", prometheus(*latencies))
            parameters = {
                "namespace": "payments",
                "deployment": name,
                "prometheus_url": web.url("").rstrip("/"),
                "threshold": 0.5,
                "settle": "10ms",
            }
            await topics.execute(name, example("scale-on-latency"), parameters=parameters)
            state = await topics.over(name)
            assert state.status is status, (name, state.error)
            assert api.get("Deployment", name)["spec"]["replicas"] == replicas, name
            assert statuses(topics, name)["scale-up"] == ("succeeded" if len(latencies) > 1 else "skipped")


@pytest.fixture
def vault(web: Server) -> list[tuple[str | None, Any]]:
    """A vault; gives what was written to it: token and password."""
    written: list[tuple[str | None, Any]] = []

    async def store(exchange: Exchange) -> None:
        request = exchange.request
        written.append((request.headers.get("x-vault-token"), json.loads(request.body)["data"]["password"]))
        await exchange.reply_json({"data": {"version": len(written), "created_time": "2026-11-24T00:00:00Z"}})

    async def health(exchange: Exchange) -> None:
        await exchange.reply_json({"initialized": True, "sealed": False, "standby": False})

    web.route("/v1/sys/health", health)
    web.route("/v1/secret/data/payments/db", store)
    return written


def password(api: K8sApi) -> str:
    return base64.b64decode(api.get("Secret", "db-credentials")["data"]["password"]).decode()


@pytest.mark.parametrize(
    ("health", "status", "now", "stored"),
    [
        pytest.param([503, 200], Status.COMPLETED, NEW, [NEW], id="it works"),
        pytest.param([503], Status.ROLLED_BACK, OLD, [NEW, OLD], id="it does not, and the old one comes back"),
    ],
)
async def test_rotate_secret(
    config: Settings,
    api: K8sApi,
    web: Server,
    vault: list[tuple[str | None, Any]],
    health: list[int],
    status: Status,
    now: str,
    stored: list[str],
) -> None:
    await rolled_out(api)
    api.create("Secret", "payments", {"metadata": {"name": "db-credentials"}, "stringData": {"password": OLD}})
    web.answer("/healthz", *health)
    parameters = {
        "namespace": "payments",
        "deployment": "api",
        "secret": "db-credentials",
        "vault_url": web.url("").rstrip("/"),
        "vault_path": "payments/db",
        "health_url": web.url("/healthz"),
    }
    async with agent_and_user(config) as topics:
        await topics.execute("e1", example("rotate-secret"), parameters=parameters, requested_by="alice")
        await approved(topics, "e1")
        state = await topics.over("e1")
        assert state.status is status, state.error
        assert password(api) == now
        assert vault == [(TOKEN, value) for value in stored]
        assert state.outputs == ({"vault_version": 1} if status is Status.COMPLETED else {})
        everything = b"\n".join(topics.raw["e1"])
        assert not [value for value in (OLD, NEW, TOKEN) if value.encode() in everything]


async def test_requeue_failed_job_makes_the_job_again_from_its_own_template(config: Settings, api: K8sApi) -> None:
    api.controllers.broken_images.add("job:1")
    api.create("Job", "payments", job(name="invoices"))

    def failed() -> bool:
        conditions = api.get("Job", "invoices").get("status", {}).get("conditions", [])
        return any(condition["type"] == "Failed" for condition in conditions)

    await eventually(failed)
    first = api.get("Job", "invoices")
    api.controllers.broken_images.clear()
    async with agent_and_user(config) as topics:
        await topics.execute(
            "e1", example("requeue-failed-job"), parameters={"namespace": "payments", "job": "invoices"}
        )
        state = await topics.over("e1")
        assert state.status is Status.COMPLETED, state.error
    second = api.get("Job", "invoices")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert second["spec"]["template"]["spec"]["containers"] == first["spec"]["template"]["spec"]["containers"]
    assert second["metadata"]["annotations"]["wpk-agent/requeued-by"] == "e1"


async def test_requeue_failed_job_leaves_a_job_alone_that_did_not_fail(config: Settings, api: K8sApi) -> None:
    api.create("Job", "payments", job(name="invoices"))
    uid = api.get("Job", "invoices")["metadata"]["uid"]
    package = example("requeue-failed-job")
    package["spec"]["handlers"][0]["config"]["timeout"] = "100ms"
    async with agent_and_user(config) as topics:
        await topics.execute("e1", package, parameters={"namespace": "payments", "job": "invoices"})
        state = await topics.over("e1")
        assert state.status is Status.FAILED
        assert api.get("Job", "invoices")["metadata"]["uid"] == uid


async def test_verify_backup_reports_either_way(config: Settings, web: Server) -> None:
    require(shutil.which("curl") is not None, "the example needs curl")
    archive = _archive()
    reports: list[dict[str, Any]] = []

    async def report(exchange: Exchange) -> None:
        reports.append(json.loads(exchange.request.body))
        await exchange.reply_json({})

    web.route("/reports", report)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in (("good", archive), ("bad", b"other"))}
    ends = {}
    async with agent_and_user(config) as topics:
        for name, digest in digests.items():
            web.route(f"/{name}.tar.gz", _bytes(archive))
            web.route(f"/{name}.tar.gz.sha256", _bytes(f"{digest}  db.tar.gz\n".encode()))
            parameters = {"backup_url": web.url(f"/{name}.tar.gz"), "report_url": web.url("/reports")}
            await topics.execute(name, example("verify-backup"), parameters=parameters)
            ends[name] = await topics.over(name)
    facts = {"sha256": digests["good"], "bytes": len(archive), "files": 2}
    assert {name: state.status for name, state in ends.items()} == {"good": Status.COMPLETED, "bad": Status.FAILED}
    assert ends["good"].outputs == {"backup": facts}
    assert [(told["execution"], told["ok"], told.get("details")) for told in reports] == [
        ("good", True, facts),
        ("bad", False, None),
    ]


def _bytes(data: bytes) -> http_server.Handler:
    async def handler(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Length": str(len(data)), "Connection": "close"})
        await exchange.send(data)

    return handler


def _archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("dump.sql", "globals.sql"):
            info = tarfile.TarInfo(name)
            info.size = 5
            archive.addfile(info, io.BytesIO(b"hello"))
    return buffer.getvalue()
