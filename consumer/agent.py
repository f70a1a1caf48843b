"""The composition root: builds the agent's parts from the settings, runs them, and stops them in order.

Opened in the order in which they depend on each other, closed in reverse: adapters, health endpoint, supervisor,
listener. A signal (or a part that failed) asks for the stop, which goes in stages (`telemetry.stages`); a second signal
ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import structlog

from consumer import tasks
from consumer.adapters import registry
from consumer.adapters.api.guard import AddressGuard
from consumer.adapters.api.transport import Transport
from consumer.adapters.registry import AdapterRegistry
from consumer.adapters.shell.adapter import ShellAdapter
from consumer.clock import SystemClock
from consumer.engine.keeper import PolicyKeeper
from consumer.engine.services import Limits, Services
from consumer.engine.supervisor import StateReader, Supervisor, supervising
from consumer.errors import SettingsError
from consumer.intake.listener import Listener, Options
from consumer.journal import diagnosis, guards, probe, reach, rights, topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.factory import OwnerFactory
from consumer.journal.owner import Identity
from consumer.journal.owner import Limits as OwnerLimits
from consumer.journal.probe import Guarantee
from consumer.journal.publications import Publications
from consumer.journal.topics import TopicNames, TopicReport
from consumer.outward.assembly import notifier_of
from consumer.outward.registry import Chain, HttpPackages
from consumer.outward.vault import vault_of
from consumer.policy import load
from consumer.policy.judge import Policy
from consumer.policy.reload import PolicyFile
from consumer.policy.secrets import SecretStore
from consumer.ports import Journal, Packages
from consumer.settings import Settings, unknown_variables
from consumer.telemetry import census, health, logs, tracing, watchdog
from consumer.telemetry.census import CensusCollector
from consumer.telemetry.health import Facts, Health
from consumer.telemetry.metrics import Metrics, process_registry
from consumer.telemetry.stages import Stage, Stages
from consumer.telemetry.watchdog import Watchdog
from consumer.workflow import conditions

_log = structlog.get_logger(__name__)
_READY_POLL_SECONDS = 0.02
#: What an event has around the command or the output that it carries.
_ENVELOPE_BYTES = 64 * 1024
#: What is left for the end of the process when the grace is over; with the default grace it is before 30 s (seconds).
_PARTING = 4.0
#: Objects by which the young ones may grow before the collector looks at them. With Python's 700 it took a fifth of a
#: busy agent's time, for cycles of a few tasks and exceptions each.
_COLLECT_EVERY = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What an agent that is about to work tells of itself."""

    agent: str
    bootstrap: str
    partitions: int
    guarantee: str
    sandbox: str
    policy: str
    """`open`, the policy's file, or `built-in`."""
    metrics_url: str


@dataclass(slots=True)
class _Parts:
    """What the health endpoint asks; filled in as the parts come to be."""

    stages: Stages
    guarantee: str = ""
    sandbox: str = ""
    supervisor: Supervisor | None = None
    listener: Listener | None = None
    trouble: str = ""
    """Why the agent can't start yet."""
    keeper: PolicyKeeper | None = None

    def facts(self, agent: str) -> Facts:
        listener, supervisor = self.listener, self.supervisor
        return Facts(
            agent=agent,
            assigned=listener is not None and listener.assigned,
            owned=listener.owned if listener else 0,
            restoring=len(listener.partitions) - listener.owned if listener else 0,
            active=supervisor.live if supervisor else 0,
            guarantee=self.guarantee,
            sandbox=self.sandbox,
            policy=self.keeper.digest if self.keeper else "",
            policy_trouble=self.keeper.trouble if self.keeper else "",
            stage=self.stages.stage,
            trouble=listener.trouble() if listener else self.trouble,
        )


async def run_agent(settings: Settings) -> int:
    """An agent as a process of its own, until SIGTERM or SIGINT: sets up the log and the signals. The exit code.

    Raises SettingsError where it can't start, and what ended it where it can't go on.
    """
    gc.freeze()  # what the imports made stays for good
    gc.set_threshold(_COLLECT_EVERY, *gc.get_threshold()[1:])
    secrets = SecretStore(prefix=settings.secrets_env_prefix, directory=settings.secrets_dir)
    logs.configure(settings.log_level, settings.log_format, redact=secrets.mask)
    for warning in unknown_variables(settings):
        _log.warning("settings.unknown", problem=warning)
    stop = asyncio.Event()

    def end(reason: str) -> None:
        watchdog.end_process(reason, settings.log_format)

    watch = Watchdog(settings.hang_timeout, end=end)
    with _signals(stop, settings), watch.watching():
        async with _beside(watch.beat_for_ever()), _beside(_limit_stop(stop, watch, settings)):
            await work(settings, stop, secrets=secrets)
    return 0


async def work(
    settings: Settings,
    stop: asyncio.Event,
    *,
    on_start: Callable[[Started], None] = lambda started: None,
    ready: asyncio.Event | None = None,
    secrets: SecretStore | None = None,
) -> None:
    """An agent inside of a process, until `stop` is set. `ready` is set once it owns its partitions."""
    guard = tasks.Guard(stop)
    if secrets is None:
        secrets = SecretStore(prefix=settings.secrets_env_prefix, directory=settings.secrets_dir)
    tell = _Callbacks(on_start=on_start, ready=ready or asyncio.Event())
    try:
        async with asyncio.timeout(None) as starting, _beside(_abandon_start(stop, tell.started, starting)):
            await _run(settings, guard, tell, secrets)
    except TimeoutError:
        if not starting.expired():
            raise
        _log.info("agent.stopped", reason="it was told to stop while it started")
    guard.check()


async def _abandon_start(stop: asyncio.Event, started: asyncio.Event, starting: asyncio.Timeout) -> None:
    """What the agent asks Kafka before it starts may take long; nothing is lost where that is broken off."""
    await stop.wait()
    if not started.is_set():
        starting.reschedule(asyncio.get_running_loop().time())


async def _limit_stop(stop: asyncio.Event, watch: Watchdog, settings: Settings) -> None:
    await stop.wait()
    watch.stop_within(settings.shutdown_grace + _PARTING)


@dataclass(frozen=True, slots=True)
class _Callbacks:
    on_start: Callable[[Started], None]
    ready: asyncio.Event
    started: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the agent begins to consume: from then on its stop has an order."""


async def _run(settings: Settings, guard: tasks.Guard, tell: _Callbacks, secrets: SecretStore) -> None:
    policy, file = await asyncio.to_thread(_policy, settings)
    connection = KafkaConnection.of(settings, client_id=settings.agent_name)
    names = TopicNames(settings.topic_prefix)
    metrics, options = Metrics(process_registry()), _options(settings)
    stages = Stages(metrics)
    stages.enter(Stage.STARTING)
    parts = _Parts(stages)
    # The listener itself mends what hangs; only where it does not get to that must the agent be ended from outside.
    vitals = Health(lambda: parts.facts(settings.agent_name), poll_limit=2 * options.poll_limit)
    async with AsyncExitStack() as stack:
        closing = stack.enter_context(ExitStack())
        secrets.beyond = vault_of(settings, closing)
        adapters = await stack.enter_async_context(registry.open(settings))
        parts.sandbox = await _sandbox(adapters)
        await asyncio.to_thread(conditions.compile_condition, "true")  # the library's import takes up to a second
        metrics.sandbox(parts.sandbox)
        port = await stack.enter_async_context(
            health.serve(vitals, metrics, host=settings.prometheus_host, port=settings.prometheus_port)
        )
        report, guarantee = await _asked(connection, names, settings, parts, vitals)
        parts.guarantee = guarantee.mode
        factory = _factory(settings, connection, names, guarantee, report, metrics)
        packages = _packages(settings, connection, names, closing)
        services = _services(settings, adapters, metrics, secrets, policy, packages)
        services.partitions = report.partitions or 0  # 0: nothing signed counts
        metrics.partitions(report.partitions or settings.partitions)
        keeper = parts.keeper = PolicyKeeper(services, file)
        services.traces = await stack.enter_async_context(tracing.sending(settings.agent_name))
        supervisor = parts.supervisor = await stack.enter_async_context(supervising(services, _state_reader(factory)))
        CensusCollector(lambda: census.take(supervisor.states(), services.clock.now()), metrics.registry)
        listener = parts.listener = Listener(factory, supervisor, options, metrics, vitals, stages)
        tell.on_start(_announce(settings, guarantee, parts, report, port))
        tell.started.set()
        if (notifier := notifier_of(settings, connection, secrets, metrics, closing)) is not None:
            await stack.enter_async_context(_beside(notifier.run()))
        async with (
            _beside(health.watch_loop(vitals, metrics)),
            _beside(keeper.follow()),
            _beside(_tell_ready(listener, stages, tell.ready)),
        ):
            await guard.run(listener.run(guard.stop, settings.shutdown_grace, guard), "listener")
    _log.info("agent.stopped")


async def _tell_ready(listener: Listener, stages: Stages, ready: asyncio.Event) -> None:
    """Looks from time to time, at the start only: an event would have to be set from several parts."""
    while not (listener.assigned and listener.owned == len(listener.partitions)):  # noqa: ASYNC110
        await asyncio.sleep(_READY_POLL_SECONDS)
    ready.set()
    if not stages.stopping:
        stages.enter(Stage.RUNNING)
    _log.info("agent.ready", partitions=listener.partitions)


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Runs something beside the block, and ends it with it."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await tasks.cancel_and_wait(task)


@contextmanager
def _signals(stop: asyncio.Event, settings: Settings) -> Iterator[None]:
    """The first SIGTERM or SIGINT asks for the stop; the second ends the process by the signal's own effect.

    Handlers of the interpreter, not of the loop: the second signal ends an agent whose loop is blocked too.
    """
    loop = asyncio.get_running_loop()
    asked = False

    def ask(number: signal.Signals) -> None:
        _log.info("agent.signal", signal=number.name)
        stop.set()

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        named = signal.Signals(number)
        if asked:
            watchdog.say("agent.killed", form=settings.log_format, signal=named.name, reason="a second signal came")
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            os._exit(128 + number)  # as PID 1 of a container: the kernel ignores such a signal (pid_namespaces(7))
        asked = True
        # Not in the context of the execution that happened to run when the signal came.
        loop.call_soon_threadsafe(ask, named, context=contextvars.Context())

    former = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


# --- the parts ---


def _policy(settings: Settings) -> tuple[Policy, PolicyFile | None]:
    """The policy in force, and its file where it has one. Raises SettingsError."""
    named = settings.policy_file
    file = PolicyFile(Path(named)) if named is not None and named != "open" else None  # before it is read: no gap
    policy = load.policy_of(settings.policy_file)
    if policy.open:
        _log.warning("policy.open", problem="whoever may write to the command topics may run anything")
    elif settings.policy_file is None:
        hint = "only reads of Kubernetes and delays run; to allow more, set WPK_POLICY_FILE (docs/security.md)"
        _log.warning("policy.none", problem=hint)
    else:
        _log.info("policy.loaded", file=policy.origin, digest=policy.digest, rules=len(policy.file.rules))
    return policy, file


async def _sandbox(adapters: AdapterRegistry) -> str:
    shell = adapters.adapters.get("shell")
    if not isinstance(shell, ShellAdapter):
        return "none"
    report = await shell.report()
    if report.level is None:
        _log.warning("sandbox.unavailable", detail=report.detail)
    else:
        _log.info("sandbox.decided", level=report.level, mode=report.mode, limits=report.limits, detail=report.detail)
    return report.level or "unavailable"


async def _asked(
    connection: KafkaConnection, names: TopicNames, settings: Settings, parts: _Parts, vitals: Health
) -> tuple[TopicReport, Guarantee]:
    """What Kafka says of the topics and of itself, once it answers."""

    async def ask() -> tuple[TopicReport, Guarantee]:
        await diagnosis.check_rights(connection, names.prefix, settings.group_id)
        return await _checked_topics(connection, names, settings), await _guarantee(connection, names, settings)

    def on_trouble(reason: str) -> None:
        parts.trouble = reason
        vitals.excuse(True)  # a restart would not help

    answers = await reach.patiently(ask, within=settings.start_timeout, on_trouble=on_trouble)
    vitals.polled()
    return answers


async def _checked_topics(connection: KafkaConnection, names: TopicNames, settings: Settings) -> TopicReport:
    report = await topics.check(connection, names, partitions=settings.partitions)
    for problem in report.problems:
        if not problem.fatal:
            _log.warning("topics.problem", problem=str(problem))
    if report.fatal:
        raise SettingsError("; ".join(str(problem) for problem in report.fatal))
    for variable, size in (
        ("WPK_MAX_COMMAND_BYTES", settings.max_command_bytes),
        ("WPK_MAX_OUTPUT_BYTES", settings.max_output_bytes),
    ):
        if size + _ENVELOPE_BYTES > report.record_limit:
            raise SettingsError(
                f"{variable} is {size}, but the topics take records of {report.record_limit} bytes: set it to "
                f"{report.record_limit - _ENVELOPE_BYTES} at most, or raise max.message.bytes of the topics"
            )
    return report


async def _guarantee(connection: KafkaConnection, names: TopicNames, settings: Settings) -> Guarantee:
    transactional_id = (
        f"{rights.transactional_ids(names.prefix, settings.group_id)}{rights.PROBE}-{settings.agent_name}"
    )
    guarantee = await probe.decide(connection, settings.processing_guarantee, transactional_id)
    _log.info("guarantee.decided", mode=guarantee.mode, reason=guarantee.reason)
    return guarantee


def _factory(
    settings: Settings,
    connection: KafkaConnection,
    names: TopicNames,
    guarantee: Guarantee,
    report: TopicReport,
    metrics: Metrics,
) -> OwnerFactory:
    return OwnerFactory(
        connection=connection,
        names=names,
        identity=Identity(agent=settings.agent_name, group=settings.group_id),
        mode=guarantee.mode,
        limits=OwnerLimits(record_bytes=report.record_limit, write_seconds=settings.write_timeout),
        on_write=metrics.committed,
        on_recovery=metrics.recovered,
        transaction_timeout=settings.transaction_timeout,
    )


def _packages(settings: Settings, connection: KafkaConnection, names: TopicNames, stack: ExitStack) -> Packages:
    """Where packages are found that commands only name. The operator chose the HTTP registry's address: none is
    forbidden."""
    topic = Publications(connection, names)
    if settings.registry_url is None:
        return topic
    transport = Transport(AddressGuard(("*",)))
    stack.callback(transport.close)
    token = settings.registry_token.get_secret_value() if settings.registry_token else None
    return Chain((topic, HttpPackages(settings.registry_url, transport, token=token)))


def _services(
    settings: Settings,
    adapters: AdapterRegistry,
    metrics: Metrics,
    secrets: SecretStore,
    policy: Policy,
    packages: Packages,
) -> Services:
    return Services(
        agent=settings.agent_name,
        clock=SystemClock(),
        adapters=adapters.adapters,
        secrets=secrets.load,
        policy=policy,
        metrics=metrics,
        draw=random.random,
        environment={name: os.environ[name] for name in settings.allowed_env if name in os.environ},
        limits=Limits(
            max_executions=settings.max_executions,
            max_waiting=settings.max_waiting,
            step_timeout=settings.step_timeout,
            approval_timeout=settings.approval_timeout,
            state_retention=settings.state_retention,
            max_output_bytes=settings.max_output_bytes,
            max_log_bytes=settings.max_log_bytes,
            max_command_bytes=settings.max_command_bytes,
            registry_timeout=settings.registry_timeout,
            alerts=settings.alerts,
        ),
        packages=packages,
    )


def _state_reader(factory: OwnerFactory) -> StateReader:
    async def read(journal: Journal) -> Mapping[str, bytes]:
        records = await factory.read_state(journal.partition)
        return {key.decode(): value for key, value in records.items()}

    return read


def _options(settings: Settings) -> Options:
    return Options(
        session_timeout=settings.session_timeout,
        fetch_max_wait_ms=settings.fetch_max_wait_ms,
        max_command_bytes=settings.max_command_bytes,
        hang_timeout=settings.hang_timeout,
        start_timeout=OwnerLimits().start_seconds,
    )


def _announce(settings: Settings, guarantee: Guarantee, parts: _Parts, report: TopicReport, port: int) -> Started:
    if not guards.has_extension():
        _log.warning("kafka.slow", reason="aiokafka's C extension is not there; install its wheel")
    shown = "127.0.0.1" if settings.prometheus_host in ("0.0.0.0", "::") else settings.prometheus_host  # noqa: S104
    started = Started(
        agent=settings.agent_name,
        bootstrap=settings.kafka_bootstrap_servers,
        partitions=report.partitions or settings.partitions,
        guarantee=guarantee.mode,
        sandbox=parts.sandbox,
        policy=str(settings.policy_file or "built-in"),
        metrics_url=f"http://{shown}:{port}/metrics",
    )
    _log.info(
        "agent.started",
        agent=started.agent,
        kafka=started.bootstrap,
        partitions=started.partitions,
        guarantee=started.guarantee,
        sandbox=started.sandbox,
        policy=started.policy,
        metrics=started.metrics_url,
    )
    return started
