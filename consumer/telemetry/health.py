"""Whether the agent lives and whether it is ready: /healthz, /readyz and /metrics.

Alive means that its loop turns and that it polls Kafka: if it doesn't, only a restart helps. Where Kafka itself does
not answer a restart does not help, and costs what runs: such an agent is alive, and not ready. Ready means that it has
its place in the group, has restored what it owns, and that Kafka answers and takes what it writes; an agent that waits
for a partition's former owner is alive but not ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from prometheus_client.exposition import choose_encoder
from pydantic import JsonValue

from consumer.telemetry import http
from consumer.telemetry.http import Request, Response, json_response
from consumer.telemetry.metrics import Metrics
from consumer.telemetry.stages import Stage

#: How often the loop's delay is measured, and how long the longest one is shown.
_LAG_INTERVAL_SECONDS = 0.5
_LAG_WINDOW_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the agent tells of itself at a moment; collected by its composition root."""

    agent: str
    assigned: bool
    """Whether it has its place in the group (with no partition at all, where there are more agents than those)."""
    owned: int
    """Partitions that it owns and has restored."""
    restoring: int = 0
    """Partitions that it was given and has not restored yet."""
    active: int = 0
    """Executions that have not ended."""
    guarantee: str = ""
    sandbox: str = ""
    policy: str = ""
    """The digest of the policy in force; empty where it has no file."""
    policy_trouble: str = ""
    """Why the policy's file can't be used, so that the policy before is in force; empty: it can."""
    stage: Stage = Stage.RUNNING
    trouble: str = ""
    """What is wrong with Kafka, as the agent sees it; empty: nothing."""


class Health:
    """Keeps what its parts report and judges it. All times are seconds."""

    def __init__(
        self,
        facts: Callable[[], Facts],
        *,
        poll_limit: float = 60.0,
        lag_limit: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._facts = facts
        self._poll_limit = poll_limit
        self._lag_limit = lag_limit
        self._monotonic = monotonic
        self._polled = monotonic()
        self._excused = False
        self._lags: deque[tuple[float, float]] = deque()

    def polled(self) -> None:
        """The listener has just polled; it does so at least every few seconds, also while its partitions pause."""
        self._polled = self._monotonic()
        self._excused = False

    @property
    def poll_silence(self) -> float:
        """How long ago the listener last polled."""
        return self._monotonic() - self._polled

    def excuse(self, excused: bool) -> None:
        """Whether it does not poll because Kafka does not answer; ends with the next poll."""
        self._excused = excused

    def lagged(self, seconds: float) -> float:
        """The loop was late by so much; gives the longest recent delay."""
        now = self._monotonic()
        while self._lags and self._lags[-1][1] <= seconds:
            self._lags.pop()
        self._lags.append((now, seconds))
        while self._lags[0][0] < now - _LAG_WINDOW_SECONDS:
            self._lags.popleft()
        return self._lags[0][1]

    def live(self) -> tuple[list[str], dict[str, JsonValue]]:
        """What speaks against being alive, and the numbers."""
        silence = self.poll_silence
        lag = self._lags[-1][1] if self._lags else 0.0  # the newest: a block that is over is no reason to restart
        problems = []
        if silence > self._poll_limit and not self._excused:
            problems.append(f"the agent has not polled Kafka for {silence:.0f}s (limit {self._poll_limit:g}s)")
        if lag > self._lag_limit:
            problems.append(f"the event loop was late by {lag:.1f}s (limit {self._lag_limit:g}s)")
        return problems, {"last_poll_seconds": round(silence, 3), "event_loop_lag_seconds": round(lag, 3)}

    def ready(self) -> tuple[list[str], dict[str, JsonValue]]:
        """What speaks against being ready, and the facts."""
        facts = self._facts()
        problems = []
        if facts.stage is Stage.STARTING:
            problems.append("the agent is starting")
        elif facts.stage is not Stage.RUNNING:
            problems.append(f"the agent is stopping ({facts.stage.value})")
        if not facts.assigned:
            problems.append("the agent has no place in the consumer group yet")
        if facts.restoring:
            problems.append(f"{facts.restoring} partitions are being restored")
        if facts.trouble:
            problems.append(facts.trouble)
        return problems, {
            "agent": facts.agent,
            "stage": facts.stage.value,
            "active_executions": facts.active,
            "owned_partitions": facts.owned,
            "restoring_partitions": facts.restoring,
            "processing_guarantee": facts.guarantee,
            "sandbox": facts.sandbox,
            "policy": facts.policy,
            "policy_trouble": facts.policy_trouble,
        }


async def watch_loop(health: Health, metrics: Metrics) -> None:
    """Measures for ever how late the loop wakes its tasks."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_INTERVAL_SECONDS
        await asyncio.sleep(_LAG_INTERVAL_SECONDS)
        metrics.loop_lag(health.lagged(max(0.0, loop.time() - due)))


@contextlib.asynccontextmanager
async def serve(health: Health, metrics: Metrics, *, host: str, port: int) -> AsyncIterator[int]:
    """Serves the three paths while the block lasts; gives the port. Raises SettingsError where it can't listen."""

    async def answer(request: Request) -> Response:
        return _answer(request, health, metrics)

    async with http.serve(answer, host=host, port=port) as bound:
        yield bound


def _answer(request: Request, health: Health, metrics: Metrics) -> Response:
    if request.method not in ("GET", "HEAD"):
        return json_response({"error": f"{request.method} is not offered here; GET is"}, 405)
    match request.path:
        case "/metrics":
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
            return Response(body=encode(metrics.registry), content_type=content_type)
        case "/healthz":
            return _report(*health.live())
        case "/readyz":
            return _report(*health.ready())
        case _:
            return json_response({"error": "nothing here; there are /metrics, /healthz and /readyz"}, 404)


def _report(problems: list[str], facts: dict[str, JsonValue]) -> Response:
    status = "failing" if problems else "ok"
    return json_response({"status": status, "problems": list(problems), **facts}, 503 if problems else 200)
