"""Notices of real agents, from a run's end to a real receiver: none is lost, and nothing waits for them."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from structlog.testing import capture_logs

from consumer.errors import SettingsError
from consumer.journal.connection import KafkaConnection
from consumer.journal.feed import Feed, open_feed
from consumer.outward import notifier
from consumer.outward.assembly import own_alerts
from consumer.settings import Settings
from schemas.events import Status
from tests.support import agents, http_server, mail_server, processes
from tests.support.eventually import eventually
from tests.support.http_server import Exchange, Server
from tests.support.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(240)
PATIENCE = agents.PATIENCE
Write = Callable[[Iterable[int]], Awaitable[None]]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with http_server.serve() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "_PAUSES", (0.05, 0.1))


def package(*, fails: bool = True, **monitoring: Any) -> dict[str, Any]:
    """With `fails` its step finds nobody at the address that it asks."""
    config = {"url": "http://127.0.0.1:1/"}
    step = {"name": "only", "type": "api", "config": config}
    if not fails:
        step = {"name": "only", "type": "delay", "config": {"duration": "0s"}}
    return {
        "metadata": {"name": "small", "version": "1.0.0"},
        "spec": {"handlers": [step], "monitoring": monitoring},
    }


@pytest.fixture
def told() -> Iterator[list[Any]]:
    """The log lines of agents in this process."""
    with capture_logs() as lines:
        yield lines


async def sent(told: list[Any], count: int) -> None:
    """Waits until the agents themselves know that so many notices were taken."""

    def look() -> bool:
        return len([line for line in told if line["event"] == "notice.sent"]) == count

    await eventually(look, timeout=PATIENCE)


def bodies(server: Server, path: str) -> list[dict[str, Any]]:
    return [json.loads(request.body) for request in server.seen(path)]


async def test_all_that_is_to_be_told_is_told_once_to_each(
    apache_kafka: KafkaBroker, prefix: str, server: Server, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer("/own", 503, 429, 200)
    server.answer("/hook", 204)
    server.fallback = lambda exchange: exchange.reply(200)
    monkeypatch.setenv("WPK_SECRET_HOOK", "hook")
    async with mail_server.serve() as mail:
        config = agents.settings(
            apache_kafka,
            prefix,
            alerts=True,
            notify_webhook=server.url("/own"),
            notify_email=("oncall@example.com",),
            smtp_server=f"127.0.0.1:{mail.port}",
            smtp_security="none",
            registry_url=server.url("/registry"),
            registry_callback=True,
        )
        await agents.create_topics(config)
        async with agents.running(config), agents.user(config) as user:
            hook = {"type": "webhook", "url": server.url("/${secrets.HOOK}"), "on_failure": True}
            await user.execute("bad", package(alerts=[hook]))
            await user.execute("good", package(fails=False, alerts=[hook]))
            assert (await user.over("bad")).status is Status.FAILED
            await user.over("good")
            await sent(told, 5)
        first = len(server.requests)
        async with agents.running(config), agents.user(config) as user:  # what was told is not told again
            await user.execute("next", package())
            await sent(told, 8)

    assert [body["execution_id"] for body in bodies(server, "/own")] == ["bad", "bad", "bad", "next"]
    assert len({body["id"] for body in bodies(server, "/own")[:3]}) == 1
    assert [body["execution_id"] for body in bodies(server, "/hook")] == ["bad"]
    assert len(mail.mails) == 2
    assert {request.path for request in server.requests[first:]} == {"/own", "/registry/executions/next/result"}


async def test_a_receiver_that_does_not_answer_holds_up_neither_runs_nor_others_nor_the_stop(
    apache_kafka: KafkaBroker, prefix: str, server: Server
) -> None:
    server.route("/silent", http_server.ROUTES["/silent"])
    server.answer("/own", 200)
    config = agents.settings(apache_kafka, prefix, alerts=True, notify_webhook=server.url("/own"))
    await agents.create_topics(config)
    silent = {"type": "slack", "webhook": server.url("/silent"), "on_failure": True}
    async with agents.running(config) as agent, agents.user(config) as user:
        for number in range(6):
            await user.execute(f"e{number}", package(alerts=[silent]))
        for number in range(6):
            await user.over(f"e{number}")
        await eventually(lambda: len(server.seen("/own")) == 6 and server.seen("/silent"), timeout=PATIENCE)
        await asyncio.wait_for(agent.end(), PATIENCE)


async def test_what_can_not_be_sent_is_given_up_and_said(
    apache_kafka: KafkaBroker, prefix: str, server: Server
) -> None:
    server.answer("/gone", 410)
    server.answer("/busy", 503)
    config = agents.settings(
        apache_kafka,
        prefix,
        notify_slack=server.url("/busy"),
        notify_webhook=server.url("/gone"),
        notify_timeout=0.2,
    )
    await agents.create_topics(config)
    with capture_logs() as told:
        async with agents.running(config), agents.user(config) as user:
            await user.execute("bad", package())
            failed = await eventually(
                lambda: (found := [line for line in told if line["event"] == "notice.failed"])[1:] and found,
                timeout=PATIENCE,
            )
    assert {(line["to"], line["execution"]) for line in failed} == {("slack", "bad"), ("webhook", "bad")}
    assert server.base not in str(failed), "an address may be a secret"


async def test_a_receiver_is_asked_again_no_sooner_than_it_says(
    apache_kafka: KafkaBroker, prefix: str, server: Server, told: list[Any]
) -> None:
    asked: list[float] = []

    async def soon(exchange: Exchange) -> None:
        asked.append(time.monotonic())
        await exchange.reply(503 if len(asked) == 1 else 200, headers={"Retry-After": "1"})

    server.route("/soon", soon)
    server.answer("/never", 503, headers={"Retry-After": "600"})
    config = agents.settings(
        apache_kafka, prefix, notify_slack=server.url("/soon"), notify_webhook=server.url("/never"), notify_timeout=300
    )
    await agents.create_topics(config)
    async with agents.running(config), agents.user(config) as user:
        await user.execute("bad", package())
        await sent(told, 1)
        await eventually(lambda: any(line["event"] == "notice.failed" for line in told), timeout=PATIENCE)
    assert asked[1] - asked[0] >= 1, "much later than the pause of 0.1 s"
    assert len(server.seen("/never")) == 1, "it puts it off beyond the time in which it may be told"


@pytest.mark.long
async def test_a_notice_survives_the_agent_s_kill(apache_kafka: KafkaBroker, prefix: str, server: Server) -> None:
    taking = False

    async def handler(exchange: Exchange) -> None:
        await exchange.reply(200 if taking else 503)

    server.route("/own", handler)
    variables = processes.environment(apache_kafka, prefix, WPK_NOTIFY_WEBHOOK=server.url("/own"))
    await processes.create_topics(variables)
    config = agents.settings(apache_kafka, prefix)
    async with processes.agent(variables) as first, agents.user(config) as user:
        await user.execute("bad", package())
        await user.over("bad")
        await eventually(lambda: server.seen("/own"), timeout=PATIENCE)
        first.signal(signal.SIGKILL)
        await first.ended()
        taking = True
        before = len(server.requests)
        async with processes.agent(variables) as second:
            entry = await second.logged("notice.sent")
    ids = {body["id"] for body in bodies(server, "/own")}
    assert ids == {entry["notice"]}
    assert len(server.requests) > before


def test_settings_that_contradict_each_other_end_the_start() -> None:
    with pytest.raises(SettingsError, match="WPK_SMTP_SERVER"):
        own_alerts(Settings(notify_email=("a@example.com",)))
    with pytest.raises(SettingsError, match="WPK_REGISTRY_URL"):
        own_alerts(Settings(registry_callback=True))
    with pytest.raises(SettingsError, match="WPK_NOTIFY_SLACK has the scheme"):
        own_alerts(Settings(notify_slack="ftp://hooks.example.com"))


@pytest.fixture
async def feed_topic(apache_kafka: KafkaBroker, prefix: str) -> AsyncIterator[Write]:
    """Writes numbers, in turn to both partitions of the results topic."""
    await agents.create_topics(agents.settings(apache_kafka, prefix))
    producer = AIOKafkaProducer(bootstrap_servers=apache_kafka.bootstrap)
    await producer.start()

    async def write(numbers: Iterable[int]) -> None:
        for number in numbers:
            await producer.send_and_wait(f"{prefix}.events.results", b"%d" % number, partition=number % 2)

    yield write
    await producer.stop()


@dataclass
class Reader:
    """One reader of the feed, and what it was given."""

    feed: Feed
    came: list[int] = field(default_factory=list)

    async def read(self, done: Callable[[int], bool]) -> None:
        for place, value, _ in await self.feed.poll(more=True):
            self.came.append(int(value))
            if done(int(value)):
                self.feed.done(place)
        await self.feed.commit()


@asynccontextmanager
async def reading(kafka: KafkaBroker, prefix: str) -> AsyncIterator[Reader]:
    connection = KafkaConnection.of(agents.settings(kafka, prefix), client_id="test")
    topic, group = f"{prefix}.events.results", f"{prefix}-g"
    async with open_feed(connection, topic, group, lambda lost: None, fetch_wait_ms=50, session_timeout=6) as feed:
        yield Reader(feed)


async def test_what_was_given_out_and_is_not_done_is_given_out_again(
    apache_kafka: KafkaBroker, prefix: str, feed_topic: Write
) -> None:
    async def read(done: set[int]) -> list[int]:
        """What a reader is given, which then says that some of it is done, and is gone."""

        async def look() -> bool:
            await reader.read(lambda number: number in done)
            return 6 in reader.came

        async with reading(apache_kafka, prefix) as reader:
            await eventually(look, timeout=PATIENCE)
        return sorted(reader.came)

    await feed_topic([0, 2, 4, 6])
    assert await read({0, 4}) == [0, 2, 4, 6]
    assert await read({2, 4}) == [2, 4, 6]
    assert await read({6}) == [6]


@pytest.mark.long
async def test_a_reader_that_joins_neither_loses_a_record_nor_what_was_done(
    apache_kafka: KafkaBroker, prefix: str, feed_topic: Write
) -> None:
    await feed_topic(range(20))

    async def first_alone() -> bool:
        await first.read(lambda number: number < 6)
        return len(set(first.came)) == 20

    async def both() -> bool:
        await asyncio.gather(first.read(lambda number: True), second.read(lambda number: True))
        return {*first.came, *second.came} >= set(range(6, 20)) and bool(second.came)

    async def third_alone() -> bool:
        await third.read(lambda number: True)
        return {20, 21} <= set(third.came)

    async with reading(apache_kafka, prefix) as first:
        await eventually(first_alone, timeout=PATIENCE)
        first.came.clear()
        async with reading(apache_kafka, prefix) as second:
            await eventually(both, timeout=PATIENCE)
    assert not {*first.came, *second.came} & set(range(6)), "what was done is not given out again"
    await feed_topic([20, 21])
    async with reading(apache_kafka, prefix) as third:
        await eventually(third_alone, timeout=PATIENCE)
    assert sorted(third.came) == [20, 21]
