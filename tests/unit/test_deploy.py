"""deploy/: what the kustomizations make, in step with the tables and settings of the code.

tests/kubernetes/test_deploy.py gives the same to a real API server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer import settings
from consumer.journal import strimzi
from consumer.journal.rights import KINDS, Kind, Right, rights_of
from consumer.journal.topics import REPLICATION, ROLES, TopicNames, wanted_settings
from consumer.policy import load
from consumer.ports import SharedTopic
from consumer.settings import Settings, variables
from consumer.settings.model import secret_files
from tests.support.kustomize import DEPLOY, built, sidecar

_STRIMZI = DEPLOY / "strimzi"
#: What Strimzi takes: AclOperation and AclRuleResource of its API reference.
_OPERATIONS = {"Read", "Write", "Create", "Delete", "Alter", "Describe", "ClusterAction", "AlterConfigs"}
_OPERATIONS |= {"DescribeConfigs", "IdempotentWrite", "All"}
_RESOURCES = {"topic": "topic", "group": "group", "transactionalId": "transactional-id"}


def one(objects: Iterable[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def environment(container: dict[str, Any], objects: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The variables of a container, with those of its ConfigMap."""
    (source,) = container["envFrom"]
    name = source["configMapRef"]["name"]
    (config,) = [each for each in objects if each["kind"] == "ConfigMap" and each["metadata"]["name"] == name]
    return config["data"] | {each["name"]: each["value"] for each in container["env"]}


@pytest.fixture(scope="module")
def example() -> list[dict[str, Any]]:
    return built(DEPLOY / "example")


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return sidecar(tmp_path_factory.mktemp("sidecar"))


# --- Strimzi ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["topics", "users"])
def test_strimzis_resources_are_those_that_the_code_makes(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    strimzi.main([what])
    assert (_STRIMZI / f"{what}.yaml").read_text() == capsys.readouterr().out


def test_strimzi_makes_the_topics_that_the_agent_would_make() -> None:
    names, found = TopicNames("wpk"), {}
    for each in yaml.safe_load_all((_STRIMZI / "topics.yaml").read_text()):
        assert (each["apiVersion"], each["kind"]) == ("kafka.strimzi.io/v1", "KafkaTopic")
        assert each["spec"].keys() == {"topicName", "partitions", "replicas", "config"}
        assert each["spec"]["replicas"] == REPLICATION
        found[each["spec"]["topicName"]] = each["spec"]["partitions"], each["spec"]["config"]
    partitions = Settings.model_fields["partitions"].default
    assert found == {
        names.name(role): (1 if role in SharedTopic else partitions, wanted_settings(role, replication=REPLICATION))
        for role in ROLES
    }


@pytest.mark.parametrize("kind", KINDS)
def test_strimzi_gives_a_user_its_least_rights_and_no_more(kind: Kind) -> None:
    users = {each["metadata"]["name"]: each for each in yaml.safe_load_all((_STRIMZI / "users.yaml").read_text())}
    assert len(users) == len(KINDS)
    spec = users[f"wpk-{kind}"]["spec"]
    assert spec.keys() == {"authentication", "authorization"}
    assert spec["authentication"] == {"type": "scram-sha-512"}
    assert spec["authorization"].keys() == {"type", "acls"}
    assert spec["authorization"]["type"] == "simple"
    given = set()
    for acl in spec["authorization"]["acls"]:
        assert acl.keys() == {"resource", "operations"} and acl["resource"].keys() == {"type", "name", "patternType"}
        assert acl["resource"]["patternType"] in ("prefix", "literal") and set(acl["operations"]) <= _OPERATIONS
        resource, name = _RESOURCES[acl["resource"]["type"]], acl["resource"]["name"]
        prefixed = acl["resource"]["patternType"] == "prefix"
        given |= {Right(resource=resource, name=name, operation=each, prefixed=prefixed) for each in acl["operations"]}
    assert given == set(rights_of(kind, "wpk", "wpk-agent"))


def test_strimzis_resources_follow_other_settings(capsys: pytest.CaptureFixture[str]) -> None:
    strimzi.main(["topics", "--prefix", "Team_A", "--partitions", "6", "--cluster", "events"])
    topic = next(yaml.safe_load_all(capsys.readouterr().out))
    assert topic["metadata"] == {"name": "team-a.commands.execute", "labels": {"strimzi.io/cluster": "events"}}
    assert topic["spec"]["topicName"] == "Team_A.commands.execute" and topic["spec"]["partitions"] == 6
    page = (DEPLOY.parent / "docs" / "deploy.md").read_text()
    commands = re.findall(r"^python -m consumer.journal.strimzi (.*) > (topics|users).yaml$", page, re.MULTILINE)
    assert len(commands) == 2
    for arguments, what in commands:
        strimzi.main(arguments.split())
        made = list(yaml.safe_load_all(capsys.readouterr().out))
        assert {each["kind"] for each in made} == {"KafkaTopic" if what == "topics" else "KafkaUser"}
        assert "wpk." not in str([each["spec"] for each in made]) and "team-a." in str(made)


# --- the example -----------------------------------------------------------------------------------------------------


def test_the_example_has_settings_that_the_agent_takes_and_keeps_what_it_does_not_change(
    example: list[dict[str, Any]], tmp_path: Path
) -> None:
    pod = one(example, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    named = environment(container, example)
    assert named.keys() <= variables().keys() | secret_files().keys()
    assert named["LOG_LEVEL"] == "info"
    mounted = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert mounted[str(Path(named["KAFKA_SASL_PASSWORD_FILE"]).parent)] == "kafka"
    assert mounted[str(Path(named["KAFKA_SSL_CAFILE"]).parent)] == "kafka"
    (tmp_path / "password").write_text("s3cret")
    settings.load(environ=named | {"KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "password")})


def test_the_policies_are_no_open_ones(example: list[dict[str, Any]]) -> None:
    files = list(DEPLOY.rglob("policy.yaml"))
    assert len(files) == 3
    assert not [path for path in files if load.load(path).open]
    (policy,) = [each for each in example if each["metadata"]["name"] == "wpk-agent-policy"]
    assert policy["data"] == {"policy.yaml": (DEPLOY / "example" / "policy.yaml").read_text()}


def test_every_object_of_the_example_has_its_namespace(example: list[dict[str, Any]]) -> None:
    named = {(each["kind"], each["metadata"].get("namespace")) for each in example if each["kind"] != "ClusterRole"}
    assert {namespace for kind, namespace in named if kind != "RoleBinding"} == {"wpk"}
    assert {namespace for kind, namespace in named if kind == "RoleBinding"} == {"wpk", "shop"}


def test_agents_are_scaled_by_what_waits_for_them_and_never_to_none(example: list[dict[str, Any]]) -> None:
    deployment, scaled = one(example, "Deployment"), one(example, "ScaledObject")
    named = environment(deployment["spec"]["template"]["spec"]["containers"][0], example)
    assert "replicas" not in deployment["spec"]
    assert scaled["spec"]["scaleTargetRef"] == {"name": deployment["metadata"]["name"]}
    assert scaled["spec"]["minReplicaCount"] >= 2
    assert scaled["spec"]["maxReplicaCount"] == Settings.model_fields["partitions"].default
    kafka, prometheus = scaled["spec"]["triggers"]
    assert kafka["type"] == "kafka"
    assert kafka["metadata"]["bootstrapServers"] == named["KAFKA_BOOTSTRAP_SERVERS"]
    assert kafka["metadata"]["consumerGroup"] == Settings.model_fields["group_id"].default
    assert kafka["metadata"]["topic"] in {TopicNames("wpk").name(role) for role in ROLES}
    assert prometheus["metadata"]["query"] == 'sum(wpk_executions{job="wpk-agent",state="running"})'
    assert kafka["authenticationRef"]["name"] == one(example, "TriggerAuthentication")["metadata"]["name"]


def test_the_monitor_scrapes_the_port_that_the_agents_serve(example: list[dict[str, Any]]) -> None:
    service, monitor = one(example, "Service"), one(example, "ServiceMonitor")
    pod = one(example, "Deployment")["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (endpoint,), (port,) = monitor["spec"]["endpoints"], service["spec"]["ports"]
    assert endpoint["port"] == port["name"]
    assert port["targetPort"] in {each["name"] for each in pod["spec"]["containers"][0]["ports"]}


def test_the_alerts_of_the_operator_are_those_of_prometheus(example: list[dict[str, Any]]) -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    assert len(rules["groups"]) >= 1
    assert one(example, "PrometheusRule")["spec"] == rules  # else: make manifests


def test_alerts_and_dashboard_look_for_the_job_that_the_monitor_makes(example: list[dict[str, Any]]) -> None:
    """The operator's job is the Service's name, unless `jobLabel` says otherwise."""
    assert "jobLabel" not in one(example, "ServiceMonitor")["spec"]
    job = one(example, "Service")["metadata"]["name"]
    (dashboard,) = [each for each in example if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
    for text in (dashboard["data"]["wpk-agent.json"], (DEPLOY / "prometheus" / "rules.yml").read_text()):
        jobs = set(re.findall(r'job=\\?"([^"\\]*)', text))
        assert jobs and jobs <= {job, "$job"}


# --- the sidecar -----------------------------------------------------------------------------------------------------


def test_a_sidecar_is_the_agent_of_the_deployment(beside: list[dict[str, Any]]) -> None:
    pod = one(beside, "Deployment")["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["containers"]] == ["app"]
    (container,) = pod["initContainers"]
    base = one(built(DEPLOY / "kubernetes"), "Deployment")["spec"]["template"]["spec"]
    (agent,) = base["containers"]
    for part in ("env", "image", "resources"):
        assert container[part] == agent[part], part
    port = {"port": "wpk-metrics"}
    assert container["livenessProbe"] == agent["livenessProbe"] | {"httpGet": agent["livenessProbe"]["httpGet"] | port}
    assert "readinessProbe" not in container  # the application's readiness does not hang on Kafka
    whole = {**base["securityContext"], **agent["securityContext"]}
    del whole["fsGroup"]  # is the pod's
    assert container["securityContext"] == whole
    assert container["restartPolicy"] == "Always"  # without it, the pod would wait for its end
    assert [each["mountPath"] for each in container["volumeMounts"]] == [
        each["mountPath"] for each in agent["volumeMounts"]
    ]
    assert pod["terminationGracePeriodSeconds"] > base["terminationGracePeriodSeconds"]


def test_a_sidecar_does_not_join_the_agents_of_the_cluster(beside: list[dict[str, Any]]) -> None:
    pod = one(beside, "Deployment")["spec"]["template"]["spec"]
    named = environment(pod["initContainers"][0], beside)
    loaded = settings.load(environ=named)
    assert loaded.topic_prefix != Settings.model_fields["topic_prefix"].default
    assert loaded.group_id != Settings.model_fields["group_id"].default
