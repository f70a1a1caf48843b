"""A secret that every step tries to let out is found nowhere: not in a record of any topic, not in a log line, a
metric, an error, an answer of the health endpoint, nor in a process that is none of the step's own."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from consumer.settings import Settings
from schemas.events import Event
from tests.security.detector import Detector, ways_of_writing
from tests.security.leaks import TEMPLATES, Leak, api, leaks, shell
from tests.security.readers import receivers, search_readers
from tests.support import agents, http_server, otlp, processes
from tests.support.agents import Topics
from tests.support.eventually import eventually
from tests.support.http_server import Exchange
from tests.support.k8s_api import K8sApi, k8s_api
from tests.support.kafka import KafkaBroker
from tests.support.processes import AgentProcess

pytestmark = pytest.mark.timeout(300)


def made(directory: Path) -> dict[str, str]:
    """Secrets of this run, as files in the directory."""
    values = {name: text.replace("{random}", secrets.token_hex(6)) for name, text in TEMPLATES.items()}
    directory.mkdir()
    for name, value in values.items():
        (directory / name).write_text(value)
    return values


def test_the_detector_finds_a_secret_however_it_is_written() -> None:
    secret = TEMPLATES["ODD"].replace("{random}", "0123456789ab")
    for way, text in ways_of_writing(secret).items():
        detector = Detector({"ODD": secret})
        detector.search("text", way, f"before {text} behind")
        assert detector.found, way
    nothing = Detector({"ODD": secret})
    nothing.search("text", "masked", "before *** behind, c4n… and vK2m")
    assert not nothing.found


def ids_of(wanted: Mapping[str, Leak]) -> dict[str, str]:
    """The execution of each."""
    return {name: f"leak-{number}" for number, name in enumerate(wanted)}


async def run_all(topics: Topics, wanted: Mapping[str, Leak]) -> dict[str, str]:
    """Runs them all at once; how each ended, and what its steps did before."""
    ids = ids_of(wanted)
    for name, leak in wanted.items():
        package = {"metadata": {"name": "leaky", "version": "1.0.0"}, "spec": {"handlers": leak.handlers, **leak.spec}}
        await topics.execute(ids[name], package, **leak.command)
    ended = {name: (await topics.over(ids[name])).status.value for name in wanted}
    for name, leak in wanted.items():
        if leak.roll_back:
            await topics.rollback(ids[name])
            await topics.event(ids[name], "execution.rolled_back")
    return ended


async def every_partition(config: Settings) -> list[TopicPartition]:
    """Of the agent's topics, which have not all the same number of them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=config.kafka_bootstrap_servers)
    await admin.start()
    try:
        names = [name for name in await admin.list_topics() if name.startswith(f"{config.topic_prefix}.")]
        found = await admin.describe_topics(names)
    finally:
        await admin.close()
    return [TopicPartition(each["topic"], part["partition"]) for each in found for part in each["partitions"]]


async def search_topics(detector: Detector, config: Settings) -> None:
    """Every record of every topic of the agent, also those of transactions that were given up."""
    consumer = AIOKafkaConsumer(bootstrap_servers=config.kafka_bootstrap_servers, enable_auto_commit=False)
    await consumer.start()
    try:
        places = await every_partition(config)
        assert {place.topic.removeprefix(f"{config.topic_prefix}.") for place in places} >= {"state", "dead-letter"}
        ends = await consumer.end_offsets(places)
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)

        async def read() -> bool:
            for place, records in (await consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    where = f"{place.topic}/{place.partition}@{record.offset}"
                    detector.search(f"record of {place.topic.removeprefix(config.topic_prefix)}", where, record.value)
                    detector.search("key", where, record.key)
                    for header, value in record.headers:
                        detector.search("header", f"{where} {header}", value)
            return all([await consumer.position(place) >= ends[place] for place in places])

        await eventually(read, timeout=agents.PATIENCE, because="all topics are read")
    finally:
        await consumer.stop()


def search_processes(detector: Detector, agent: AgentProcess) -> int:
    """The command lines of all processes, and the environments of those that are none of a step's; how many steps'."""
    own = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            detector.search("command line", entry.name, command)
            if b"WPK_STEP=" in environment:
                own += 1
            else:
                detector.search("environment", entry.name, environment)
    assert processes.processes_with("consumer"), f"the agent {agent.pid} was not looked at"
    return own


async def search_agent(detector: Detector, agent: AgentProcess) -> None:
    """What it says of itself."""
    for path in ("/healthz", "/readyz", "/metrics", "/nowhere"):
        _, body = await agent.get(path)
        for line in body.splitlines():
            detector.search("line of the health endpoint", path, line)
    search_log(detector, agent)


def search_log(detector: Detector, agent: AgentProcess) -> None:
    """What it wrote on its standard streams."""
    for line in agent.output.splitlines():
        detector.search("line of the agent's log", str(agent.pid), line)


def search_events(detector: Detector, topics: Topics) -> None:
    """The texts as their readers see them: a log's lines one by one and as a whole."""
    for name, trail in topics.trails.items():
        for event in trail.events:
            _search_error(detector, name, event)
        detector.search("whole log", name, "\n".join(topics.log(name)))
        for line in topics.log(name):
            detector.search("line of a step", name, line)


def _search_error(detector: Detector, name: str, event: Event) -> None:
    error = getattr(event.data, "error", None)
    if error is not None:
        detector.search("error", name, error.message)


def search_traces(detector: Detector, traced: otlp.Receiver) -> None:
    """What a receiver of traces got: as it came, and the texts of each span."""
    assert any(span.failed for span in traced.spans), "no trace tells of a failure"
    for body in traced.bodies:
        detector.search("request with traces", "otlp", body)
    for span in traced.spans:
        for text in (span.name, span.message, *map(str, span.attributes.values())):
            detector.search("text of a trace", span.name, text)


def told(detector: Detector, record_property: Callable[[str, object], None]) -> None:
    counts = ", ".join(f"{count} of {kind}" for kind, count in sorted(detector.searched.items()))
    record_property("measured", f"canary: {detector.places} places searched, {len(detector.found)} leaks: {counts}")
    assert not detector.found, "\n".join(detector.found)


def variables(
    kafka: KafkaBroker, prefix: str, directory: Path, api: K8sApi | None = None, **others: object
) -> dict[str, str]:
    more = others if api is None else {"KUBECONFIG": api.kubeconfig(directory.parent / "kubeconfig"), **others}
    settings = {"WPK_SECRETS_DIR": directory, "WPK_SANDBOX": "required", "LOG_LEVEL": "debug", **more}
    return processes.environment(kafka, prefix, **settings)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_no_way_that_a_step_has_lets_a_secret_out(
    embedded_kafka: KafkaBroker, prefix: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    values = made(tmp_path / "secrets")
    detector, config = Detector(values), agents.settings(embedded_kafka, prefix)
    async with http_server.serve() as server, k8s_api() as api, receivers() as told_of, otlp.receiver() as traced:
        for name in ("settings", "doomed", "other"):
            api.create("ConfigMap", "payments", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
        sent = {**told_of.variables(), "OTEL_EXPORTER_OTLP_ENDPOINT": traced.endpoint}
        environment = variables(embedded_kafka, prefix, tmp_path / "secrets", api, **sent)
        await processes.create_topics(environment)
        wanted = leaks(server.base, "http://127.0.0.1:1")
        async with processes.agent(environment) as agent, agents.user(config) as topics:
            ended = await run_all(topics, wanted)
            await topics.publish("execute", b"no JSON")
            real = (name for name, leak in wanted.items() if not leak.command.get("dry_run"))
            await told_of.search(detector, (ids_of(wanted)[name] for name in real), agents.PATIENCE)
            await search_agent(detector, agent)
            search_events(detector, topics)
            errors = {name: topics.trails[f"leak-{n}"].state.error_message for n, name in enumerate(wanted)}
        search_traces(detector, traced)
        await search_topics(detector, config)
        exports = tmp_path / "exports"
        exports.mkdir()
        await search_readers(detector, environment, exports, ids_of(wanted)["exit error"])
    told(detector, record_property)
    others = [f"{name}: {ended[name]}, {errors[name]}" for name, leak in wanted.items() if ended[name] != leak.status]
    assert not others, "not as expected, so that the secret may not have been there:\n" + "\n".join(others)


class Memory:
    """A server's page that gives back what was last sent to it."""

    def __init__(self) -> None:
        self._kept = b""

    async def __call__(self, exchange: Exchange) -> None:
        self._kept = exchange.request.body or self._kept
        await exchange.reply(200, self._kept)


@pytest.mark.long
async def test_no_process_shows_a_secret_and_the_next_agent_masks_what_the_last_one_used(
    apache_kafka: KafkaBroker, prefix: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    values = made(tmp_path / "secrets")
    detector, config = Detector(values), agents.settings(apache_kafka, prefix)
    environment = variables(apache_kafka, prefix, tmp_path / "secrets")
    await processes.create_topics(environment)
    async with http_server.serve() as server, agents.user(config) as topics:
        server.route("/memory", Memory())
        sent = api(f"{server.base}/memory", name="send", method="POST", payload="it is ${secrets.PLAIN}")
        read = api(f"{server.base}/memory", name="read")
        package = {"metadata": {"name": "leaky", "version": "1.0.0"}}
        async with processes.agent(environment) as agent:
            spec = {"handlers": [sent], "rollback": {"enabled": True, "handlers": [read]}}
            await topics.execute("kept", {**package, "spec": spec})
            assert (await topics.over("kept")).status.value == "completed"
            waiting = shell('echo "$S"; echo "$S" >&2; sleep 600', timeout="20m")
            await topics.execute("waits", {**package, "spec": {"handlers": [waiting]}})
            await topics.until("waits", lambda state: len(topics.log("waits")) == 2)
            assert search_processes(detector, agent) > 0, "no process of the step was there"
            await agent.kill()
            search_log(detector, agent)
        async with processes.agent(environment) as agent:
            await topics.rollback("kept")
            await topics.event("kept", "execution.rolled_back")
            outputs = [event.data.output for event in topics.events("kept") if event.name == "step.succeeded"]
            assert [output["body"] for output in outputs if output] == ["it is ***", "it is ***"]
            await search_agent(detector, agent)
            search_events(detector, topics)
        await search_topics(detector, config)
    told(detector, record_property)
