"""`wpk dev` and `wpk demo`: a broker and an agent on this machine, and the examples run on them."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import structlog
from pydantic import JsonValue

from consumer import tasks
from consumer.cli import execute, watching
from consumer.cli.execute import CliError
from consumer.cli.options import DevOptions, Options
from consumer.cli.output import Output
from consumer.cli.render.watch import WatchView
from consumer.cli.watching import Look, Outcome
from consumer.client import Client
from consumer.dev import service
from consumer.dev.trial import Trial, trial
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.settings import load
from consumer.telemetry import logs
from consumer.workflow import documents
from schemas.commands import ExecuteCommand
from schemas.events import Status

_SUFFIX = ".wpk.yaml"
#: The demo's runs take about a second each; on a machine under load a little more.
_RUN_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """One example, and how it should end."""

    example: str
    execution_id: str
    goal: Status
    parameters: dict[str, JsonValue] = field(default_factory=dict)


async def dev(options: DevOptions) -> int:
    """Runs until it is told to stop; with an example, that is run first."""
    output = Output()
    settings = load(options.config)
    logs.configure("debug" if options.verbose else "warning", "console")
    async with _interruptible() as stopped, trial(settings, port=options.port or 0) as running:
        _banner(running, output)
        output.lines(
            [
                "  publish to it   export KAFKA_BOOTSTRAP_SERVERS=" + running.settings.kafka_bootstrap_servers,
                "  for instance    wpk submit FILE --watch",
                "  everything is in memory and gone when this ends; Ctrl-C ends it",
                "",
            ]
        )
        if options.example is None:
            await _first(running.working, stopped.wait())
            return execute.OK
        async with service.serve() as url:
            show = Show(example=options.example, execution_id="dev-1", goal=Status.COMPLETED)
            shown = asyncio.create_task(_show(running, output, show, url), name="show")
            await _first(running.working, stopped.wait(), shown)
            code = shown.result() if shown.done() and not shown.cancelled() else execute.INTERRUPTED
            await _first(running.working, stopped.wait())
    return code


async def _first(
    working: asyncio.Task[None], interrupt: Coroutine[None, None, bool], *others: asyncio.Task[int]
) -> None:
    """Waits until the agent has ended, somebody interrupts, or another task is done; ends what then is not."""
    interrupted = asyncio.create_task(interrupt, name="interrupt")
    try:
        await asyncio.wait([working, interrupted, *others], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await tasks.cancel_and_wait(interrupted, *(task for task in others if not task.done()))


async def demo(options: Options) -> int:
    """Runs two examples to their end: one that completes, one that fails and is rolled back."""
    output = Output()
    settings = load(options.config).model_copy(update={"partitions": 3})
    if options.verbose:
        logs.configure("debug", "console")
    else:
        _silence()
    shows = (
        Show(example="greet-and-check", execution_id="demo-1", goal=Status.COMPLETED),
        Show(example="risky-change", execution_id="demo-2", goal=Status.ROLLED_BACK),
    )
    async with service.serve() as url, trial(settings) as running:
        _banner(running, output)
        codes = [await _show(running, output, show, url) for show in shows]
    output.lines(
        [
            "Both runs, every step and every line of output went over Kafka topics and are gone with the broker.",
            "Keep one running:   wpk dev      then:   wpk submit FILE --watch · wpk list · wpk status ID · wpk logs ID",
        ]
    )
    return max(codes)


def _silence() -> None:
    """The demo shows executions, not the agent's log; what ends the demo is still told as an error."""
    nothing = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=nothing)
    logging.disable(logging.CRITICAL)


@asynccontextmanager
async def _interruptible() -> AsyncIterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _banner(running: Trial, output: Output) -> None:
    started = running.started
    policy = "open (everything is allowed)" if started.policy == "open" else started.policy
    output.lines(
        [
            f"● broker    embedded (in memory) at {running.settings.kafka_bootstrap_servers}",
            f"● agent     ready, {started.partitions} partitions, {started.guarantee}, sandbox: {started.sandbox}, "
            f"policy: {policy}        metrics {started.metrics_url}",
            "",
        ]
    )


async def _show(running: Trial, output: Output, show: Show, service_url: str) -> int:
    """Submits the example and looks on until it is over; the exit code."""
    client = Client(KafkaConnection.of(running.settings, client_id="wpk"), TopicNames(running.settings.topic_prefix))
    document = documents.parse(_example(show.example)).value
    assert isinstance(document, dict), "an example is a package"
    declared = document["spec"]
    takes_service = isinstance(declared, dict) and "service_url" in str(declared.get("parameters"))
    command = ExecuteCommand(
        execution_id=show.execution_id,
        wpk_content=document,
        parameters={**show.parameters, **({"service_url": service_url} if takes_service else {})},
        requested_by="demo",
    )
    async with watching.sent(client, command, known=False) as (follower, published, after):
        look = Look(answer_to=published, after=after, timeout=_RUN_SECONDS, view=WatchView())
        outcome: Outcome = await watching.look_on(follower, output, look)
    output.lines([""])
    return outcome.code(frozenset({show.goal}))


def _example(name: str) -> str:
    """The text of an example, from the checkout or from what is installed. Raises CliError."""
    for folder in (Path(__file__).parents[2] / "examples", Path(str(files("consumer"))) / "examples"):
        path = folder / f"{name}{_SUFFIX}"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        known = sorted(file.name.removesuffix(_SUFFIX) for file in folder.glob(f"*{_SUFFIX}"))
        if known:
            raise CliError(f'"{name}" is no example; there are: {", ".join(known)}')
    raise CliError("the examples are not installed; take one from the project's folder examples/ and use wpk submit")
