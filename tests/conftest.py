"""Fixtures of all tests: the brokers, names of one's own, and a watch on tasks that outlive their test."""

from __future__ import annotations

import asyncio
import inspect
import os
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from consumer.errors import SettingsError
from tests.support import control_plane as kubernetes
from tests.support import oracle
from tests.support.kafka import KafkaBroker, KafkaCluster, Unavailable, any_apache, apache_cluster, embedded_broker
from tests.support.require import require

_PARTING = 2.0
_ON_A_CONTROL_PLANE = ("tests/kubernetes/", "tests/integration/test_control_plane")

# The same examples in every run, so that a landing does not depend on luck; HYPOTHESIS_PROFILE=explore looks for more.
settings.register_profile("default", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs Apache Kafka, so that `-m "not kafka"` is what runs without Java and Docker."""
    for item in items:
        if {"apache_kafka", "kafka_cluster"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)


class _OneControlPlane(LoadScopeScheduling):
    """Gives each test to the process that is free, but all that need a control plane to the same one: it is large."""

    def _split_scope(self, nodeid: str) -> str:
        return "a control plane" if nodeid.startswith(_ON_A_CONTROL_PLANE) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _OneControlPlane:
    """Which of several processes runs a test; their number says the Makefile."""
    return _OneControlPlane(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests measured (`record_property("measured", TEXT)`), and the oracle's table: for each verb and kind,
    whether kubectl and the adapter do the same.

    It is here, since of several processes that run the tests only this file is read by the one that prints.
    """
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    measured = [
        value
        for report in reports
        for name, value in report.user_properties
        if name == "measured" and report.when == "call"
    ]
    measured += _escapes(reports)
    if measured:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(map(str, measured)))
    entries = [
        (oracle.Entry(*value), report.passed)
        for report in reports
        for name, value in report.user_properties
        if name == oracle.PROPERTY and report.when == "call"
    ]
    if entries:
        terminalreporter.section(f"kubectl as the oracle: {len(entries)} rows")
        for line in oracle.table(entries):
            terminalreporter.line(line)


def _escapes(reports: list[pytest.TestReport]) -> list[str]:
    """How many ways out of a shell step were tried at each level (`record_property("escape", [LEVEL, HELD])`)."""
    tried: dict[str, list[bool]] = {}
    for report in reports:
        for name, value in report.user_properties:
            if name == "escape" and report.when == "call":
                tried.setdefault(value[0], []).append(value[1])
    return [
        f"escapes: {len(held)} tried at level {level}, {sum(held)} held, {len(held) - sum(held)} not held by design"
        for level, held in sorted(tried.items())
    ]


@pytest.fixture(scope="session")
def embedded_session() -> Iterator[KafkaBroker]:
    """The embedded broker of the whole run; tests ask for `embedded_kafka`."""
    with embedded_broker() as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_session() -> Iterator[KafkaBroker]:
    """The Apache Kafka of the whole run; tests ask for `apache_kafka`."""
    with any_apache() as broker:
        yield broker


@pytest.fixture
def embedded_kafka(request: pytest.FixtureRequest) -> KafkaBroker:
    """A running embedded broker, shared by all tests: take topics, groups and ids that begin with `prefix`."""
    try:
        broker: KafkaBroker = request.getfixturevalue("embedded_session")
    except SettingsError as error:
        require(False, str(error))
        raise
    return _running(broker)


@pytest.fixture
def apache_kafka(request: pytest.FixtureRequest) -> KafkaBroker:
    """A running Apache Kafka, shared by all tests: take topics, groups and ids that begin with `prefix`."""
    try:
        broker: KafkaBroker = request.getfixturevalue("apache_session")
    except Unavailable as error:
        require(False, f"there is no Apache Kafka: {error}")
        raise
    return _running(broker)


@pytest.fixture(scope="session")
def cluster_session() -> Iterator[KafkaCluster]:
    """The three nodes of the whole run; tests ask for `kafka_cluster`."""
    with apache_cluster(("a", "b", "c")) as cluster:
        yield cluster


@pytest.fixture
def kafka_cluster(request: pytest.FixtureRequest) -> Iterator[KafkaCluster]:
    """Three nodes without a fault, shared by all tests, to be broken: what is broken after a test is healed.

    Clients of the sets a, b and c reach it by proxies, observers directly. Where the test fails, it is described.
    """
    try:
        cluster: KafkaCluster = request.getfixturevalue("cluster_session")
    except Unavailable as error:
        require(False, f"there is no Apache Kafka: {error}")
        raise
    cluster.heal()
    failed = request.session.testsfailed
    yield cluster
    if request.session.testsfailed > failed:
        print(f"{cluster.describe()}\nall that the nodes wrote: {cluster.keep_logs()}")  # noqa: T201 - pytest shows it


@pytest.fixture(scope="session")
def kubernetes_session() -> Iterator[kubernetes.KubernetesCluster]:
    """The Kubernetes of the whole run; tests ask for `control_plane`."""
    with kubernetes.any_cluster() as cluster:
        yield cluster


@pytest.fixture
def control_plane(request: pytest.FixtureRequest) -> Iterator[kubernetes.KubernetesCluster]:
    """A running Kubernetes, shared by all tests: take namespaces whose names begin with `prefix`, as `space` does.

    What is broken after a test is mended before the next. Where the test fails, the cluster is described.
    """
    try:
        cluster: kubernetes.KubernetesCluster = request.getfixturevalue("kubernetes_session")
    except kubernetes.Unavailable as error:
        require(False, f"there is no Kubernetes: {error}")
        raise
    cluster.mend()
    failed = request.session.testsfailed
    yield cluster
    if request.session.testsfailed > failed:
        print(cluster.describe())  # noqa: T201 - pytest shows it


@pytest.fixture
def played_pods(control_plane: kubernetes.KubernetesCluster) -> None:
    """Skips a test whose images only tests.support.kubelet has, where `control_plane` has real nodes."""
    control_plane.simulated()


@pytest.fixture
async def space(control_plane: kubernetes.KubernetesCluster, prefix: str) -> AsyncIterator[kubernetes.Space]:
    """A namespace of the test's own on `control_plane`."""
    async with kubernetes.space_of(control_plane.kubectl, prefix) as made:
        yield made


@pytest.fixture(params=["embedded", pytest.param("apache", marks=pytest.mark.kafka)])
def kafka(request: pytest.FixtureRequest) -> KafkaBroker:
    """Each broker in turn: what the agent promises it promises on both."""
    broker: KafkaBroker = request.getfixturevalue(f"{request.param}_kafka")
    return broker


def _running(broker: KafkaBroker) -> KafkaBroker:
    if not broker.alive:
        broker.restart()
    return broker


@pytest.fixture
def prefix() -> str:
    """A topic prefix that no other test has, in this run or in another on the same broker."""
    return f"t-{secrets.token_hex(5)}"


@pytest.fixture(autouse=True)
def no_task_left_behind(request: pytest.FixtureRequest) -> None:
    """Fails a test of coroutines after which a task still runs: a task has an owner who awaits it."""
    if inspect.iscoroutinefunction(inspect.unwrap(getattr(request, "function", None) or (lambda: None))):
        request.getfixturevalue("task_watch")


@pytest.fixture
async def task_watch() -> AsyncIterator[None]:
    """What `no_task_left_behind` uses, in the test's own loop. Tasks that are just ending get a moment for it."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=_PARTING)
    if left:
        pytest.fail(f"{len(left)} task(s) outlive the test: " + "; ".join(sorted(repr(task) for task in left)))
