"""The health endpoint: what it judges, and that no client can hurt it. Real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from consumer.errors import SettingsError
from consumer.telemetry import health, http
from consumer.telemetry.health import Facts, Health
from consumer.telemetry.http import Request, Response
from consumer.telemetry.metrics import Metrics
from consumer.telemetry.stages import Stage
from tests.support.eventually import eventually

READY = Facts(agent="a1", assigned=True, owned=4, active=2, guarantee="exactly_once", sandbox="bubblewrap")


class Clock:
    """A monotonic clock that the test turns."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Agent:
    """An agent's health with everything that a test may change."""

    def __init__(self) -> None:
        self.facts = READY
        self.clock = Clock()
        self.metrics = Metrics(CollectorRegistry())
        self.health = Health(lambda: self.facts, poll_limit=60, lag_limit=10, monotonic=self.clock)


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
async def client(agent: Agent) -> AsyncIterator[httpx.AsyncClient]:
    async with health.serve(agent.health, agent.metrics, host="127.0.0.1", port=0) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            yield client


async def report(client: httpx.AsyncClient, path: str) -> tuple[int, dict[str, Any]]:
    response = await client.get(path)
    assert response.headers["content-type"] == "application/json"
    return response.status_code, response.json()


# --- what it says ---


async def test_metrics_are_served_in_the_text_format(agent: Agent, client: httpx.AsyncClient) -> None:
    agent.metrics.executions(running=1, waiting=1)
    response = await client.get("/metrics?name[]=x")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert "\nactive_workflows 2.0\n" in response.text


async def test_metrics_are_served_as_openmetrics_where_the_scraper_asks(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
    assert "_created" not in response.text


async def test_an_agent_that_polls_is_alive(agent: Agent, client: httpx.AsyncClient) -> None:
    agent.clock.now += 59
    assert await report(client, "/healthz") == (
        200,
        {"status": "ok", "problems": [], "last_poll_seconds": 59.0, "event_loop_lag_seconds": 0.0},
    )


async def test_an_agent_that_does_not_poll_is_not_alive_until_it_polls_again(
    agent: Agent, client: httpx.AsyncClient
) -> None:
    agent.clock.now += 61
    status, said = await report(client, "/healthz")
    assert (status, said["status"]) == (503, "failing")
    assert said["problems"] == ["the agent has not polled Kafka for 61s (limit 60s)"]
    agent.health.polled()
    assert (await report(client, "/healthz"))[0] == 200


async def test_an_agent_that_does_not_poll_because_kafka_is_away_is_alive(
    agent: Agent, client: httpx.AsyncClient
) -> None:
    agent.clock.now += 61
    agent.health.excuse(True)
    assert (await report(client, "/healthz"))[0] == 200
    agent.health.polled()
    agent.clock.now += 61
    assert (await report(client, "/healthz"))[0] == 503, "the excuse ends with the next poll"


async def test_an_agent_whose_loop_is_late_is_not_alive_until_it_is_in_time_again(
    agent: Agent, client: httpx.AsyncClient
) -> None:
    agent.health.lagged(12.5)
    status, said = await report(client, "/healthz")
    assert (status, said["problems"]) == (503, ["the event loop was late by 12.5s (limit 10s)"])
    agent.health.lagged(0.001)
    assert (await report(client, "/healthz"))[0] == 200


async def test_an_agent_that_owns_and_has_restored_is_ready(agent: Agent, client: httpx.AsyncClient) -> None:
    assert await report(client, "/readyz") == (
        200,
        {
            "status": "ok",
            "problems": [],
            "agent": "a1",
            "stage": "running",
            "active_executions": 2,
            "owned_partitions": 4,
            "restoring_partitions": 0,
            "processing_guarantee": "exactly_once",
            "sandbox": "bubblewrap",
            "policy": "",
            "policy_trouble": "",
        },
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param({"assigned": False}, "the agent has no place in the consumer group yet", id="not assigned"),
        pytest.param({"restoring": 2}, "2 partitions are being restored", id="restoring"),
        pytest.param({"stage": Stage.STARTING}, "the agent is starting", id="starting"),
        pytest.param({"stage": Stage.DRAINING}, "the agent is stopping (draining)", id="stopping"),
        pytest.param({"trouble": "no answer from Kafka for 12s"}, "no answer from Kafka for 12s", id="Kafka away"),
    ],
)
async def test_an_agent_that_is_not_ready_says_why(
    agent: Agent, client: httpx.AsyncClient, change: dict[str, Any], problem: str
) -> None:
    agent.facts = replace(READY, **change)
    status, said = await report(client, "/readyz")
    assert (status, said["problems"]) == (503, [problem])
    assert (await report(client, "/healthz"))[0] == 200, "not ready is no reason to restart"


async def test_an_agent_with_no_partition_left_for_it_is_ready(agent: Agent, client: httpx.AsyncClient) -> None:
    agent.facts = replace(READY, owned=0)
    assert (await report(client, "/readyz"))[0] == 200


async def test_there_is_nothing_else(client: httpx.AsyncClient) -> None:
    for path in ("/", "/metrics/", "/healthz/x", "/%2e%2e/etc/passwd"):
        assert (await report(client, path))[0] == 404


async def test_only_reading_is_offered(client: httpx.AsyncClient) -> None:
    assert (await client.post("/healthz", json={})).status_code == 405
    assert (await client.delete("/metrics")).status_code == 405
    head = await client.head("/healthz")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0


# --- the loop ---


def test_the_longest_recent_delay_is_shown_and_forgotten_in_time(agent: Agent) -> None:
    assert agent.health.lagged(0.1) == 0.1
    agent.clock.now += 5
    assert agent.health.lagged(0.8) == 0.8
    agent.clock.now += 5
    assert agent.health.lagged(0.2) == 0.8
    agent.clock.now += 11
    assert agent.health.lagged(0.0) == 0.2
    agent.clock.now += 20
    assert agent.health.lagged(0.0) == 0.0


async def test_a_blocked_loop_shows_in_the_metrics(agent: Agent) -> None:
    def lag() -> float:
        return agent.metrics.registry.get_sample_value("wpk_event_loop_lag_seconds") or 0.0

    watcher = asyncio.create_task(health.watch_loop(agent.health, agent.metrics))
    try:
        for _ in range(3):
            await asyncio.sleep(0)
        time.sleep(1.0)  # noqa: ASYNC251 - blocking the loop is the point
        await eventually(lambda: lag() > 0.2)
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


# --- clients that misbehave ---


@contextlib.asynccontextmanager
async def serving(timeout: float = 30.0, handler: http.Handler | None = None) -> AsyncIterator[int]:
    async def echo(request: Request) -> Response:
        return http.json_response({"method": request.method, "path": request.path, "size": len(request.body)})

    async with http.serve(handler or echo, host="127.0.0.1", port=0, timeout=timeout) as port:
        yield port


async def exchange(port: int, data: bytes, *, end: bool = False) -> bytes:
    """All that the server answers to these bytes until it closes; empty where it only closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
            if end:
                writer.write_eof()
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                while piece := await reader.read(65536):
                    answer += piece
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"hello\r\n\r\n", 400, id="no HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400, id="TLS"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431, id="large head"),
        pytest.param(
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\nContent-Length: 1\r\n\r\n", 400, id="two lengths"
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000, 413, id="large body"
        ),
    ],
)
async def test_a_request_that_is_none_is_refused_and_the_next_one_served(data: bytes, status: int) -> None:
    async with serving() as port:
        answer = await exchange(port, data)
        # Closing on a client that still sends may reset the connection before the answer is read.
        assert answer == b"" or answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b'"path":"/next"' in await exchange(port, b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")


async def test_a_client_that_goes_away_early_leaves_nothing_behind() -> None:
    async with serving() as port:
        with capture_logs() as logs:
            assert (await exchange(port, b"GET / HTT", end=True)).startswith(b"HTTP/1.1 400 ")
            assert await exchange(port, b"", end=True) == b""
        assert logs == []


async def test_a_slow_client_is_cut_off() -> None:
    async with serving(timeout=0.2) as port:
        assert await exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\n") == b""


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def large(request: Request) -> Response:
        return Response(body=b"x" * 50_000_000)

    async with serving(timeout=0.5, handler=large) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await writer.drain()

        async def cut_off() -> bool:
            writer.write(b"\r\n")
            await asyncio.sleep(0)
            return writer.transport.is_closing() or reader.exception() is not None

        await eventually(cut_off)
        writer.transport.abort()


async def test_one_connection_too_many_is_closed_and_room_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 2)
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    async with serving() as port:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                stack.callback(writer.close)
                writer.write(b"GET /")
                await writer.drain()
            await eventually(lambda: _refused(port, request))

        async def served() -> bool:
            return (await exchange(port, request)).startswith(b"HTTP/1.1 200 ")

        await eventually(served)


async def _refused(port: int, request: bytes) -> bool:
    return await exchange(port, request) == b""


async def test_a_defect_of_ours_is_a_500_and_a_line_in_the_log() -> None:
    async def broken(request: Request) -> Response:
        raise ValueError("a secret detail")

    with capture_logs() as logs:
        async with serving(handler=broken) as port:
            answer = await exchange(port, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in answer
    assert [(line["event"], line["path"]) for line in logs] == [("http.handler_failed", "/x")]


async def test_a_request_in_pieces_is_one_request() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in (b"PUT /a?b=c HT", b"TP/1.1\r\nHost: a\r\nContent-Le", b"ngth: 5\r\n\r\nab", b"cde"):
            writer.write(piece)
            await writer.drain()
            for _ in range(3):
                await asyncio.sleep(0)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body) == {"method": "PUT", "path": "/a", "size": 5}


async def test_the_end_does_not_wait_for_clients() -> None:
    async with serving() as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HT")
        await writer.drain()
    writer.transport.abort()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_port_that_is_taken_is_an_error_with_the_remedy() -> None:
    async with serving() as port:
        with pytest.raises(SettingsError, match=rf"can't listen on 127.0.0.1:{port}: .*; choose another port, or 0"):
            async with http.serve(_never, host="127.0.0.1", port=port):
                pass


async def _never(request: Request) -> Response:
    raise AssertionError("nobody asks")
