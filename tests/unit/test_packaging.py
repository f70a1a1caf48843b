"""What is shipped beside the code: the lock, the image, the compose file, the entry points of CI."""

from __future__ import annotations

import contextlib
import http.server
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.kafka import KAFKA_VERSION, container
from tests.support.require import require

ROOT = Path(__file__).parents[2]
PYPROJECT = ROOT / "pyproject.toml"
PROJECT = tomllib.loads(PYPROJECT.read_text())
LOCK = (ROOT / "requirements.lock").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def declared() -> list[str]:
    extras = [text for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra]
    return [*PROJECT["project"]["dependencies"], *extras, *PROJECT["dependency-groups"]["dev"]]


def locked() -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.MULTILINE)}


def instructions(name: str) -> list[str]:
    """The arguments of every such instruction of the Dockerfile's last stage, where it has stages for it."""
    last = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    return re.findall(rf"^{name}\s+(.*)$", last, re.MULTILINE)


# --- the lock --------------------------------------------------------------------------------------------------------


def test_the_lock_names_packages_and_no_places() -> None:
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]

    assert not [line for line in lines if "/" in line or "@" in line or line.lstrip().startswith("--index")]
    assert not re.search(r"--(index-url|extra-index-url|find-links)|https?:", LOCK)


def test_every_locked_package_has_one_version_and_its_hashes() -> None:
    entries = re.split(r"\n(?=\S)", "\n".join(line for line in LOCK.splitlines() if not line.startswith("#")).strip())

    assert len(entries) > 50
    assert not [
        entry for entry in entries if not re.match(r"[\w.-]+==\S+( ; .+)? \\\n +--hash=sha256:[0-9a-f]{64}", entry)
    ]


@pytest.mark.parametrize("requirement", [Requirement(text) for text in declared()], ids=lambda each: each.name)
def test_what_the_project_asks_for_is_what_the_lock_gives(requirement: Requirement) -> None:
    version = locked().get(canonicalize_name(requirement.name))

    assert version is not None, f"requirements.lock lacks {requirement.name}: make lock"
    assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is not {version}: make lock"


def test_the_lock_brings_what_builds_the_project() -> None:
    assert {"hatchling", "editables"} <= locked().keys()


def test_every_dependency_says_what_it_is_for() -> None:
    text = PYPROJECT.read_text()

    assert [each for each in declared() if not re.search(rf'"{re.escape(each)}".*[,\]]\s+# \S', text)] == []


def test_the_project_can_be_installed_from_any_mirror() -> None:
    """No file names a registry's host: where packages come from is the surroundings' choice."""
    hosts = ["pypi{}org", "pythonhosted{}org", "npmjs{}org", "repo1{}maven", "repo{}maven", "proxy{}golang"]
    require(shutil.which("git") and (ROOT / ".git").exists(), "this is no git clone")
    found = subprocess.run(
        ["git", "grep", "-I", "-l", "-F", *(part for host in hosts for part in ("-e", host.format(".")))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.stdout.split() == []
    assert found.returncode == 1, found.stderr


# --- what is installed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["console_scripts", "wpk.adapters"])
def test_every_entry_point_leads_somewhere(group: str) -> None:
    ours = [each for each in importlib.metadata.distribution("wpk-agent").entry_points if each.group == group]

    assert ours
    assert [each.name for each in ours if not callable(each.load())] == []


def test_the_wheel_holds_every_package_of_the_agent() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    unshipped = {"tests", "bench"}

    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - unshipped == set(packages)


# --- CI and make -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".ci/run", ".ci/setup"])
def test_a_script_of_ci_is_executable_and_parses(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    assert subprocess.run(["bash", "-n", ROOT / name], check=False).returncode == 0


def test_make_alone_lists_every_target() -> None:
    require(shutil.which("make"), "there is no make")
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None

    assert [target for target in phony[1].split() if f"make {target} " not in listed] == []


# --- the image -------------------------------------------------------------------------------------------------------


def test_the_image_runs_the_agent_and_not_as_root() -> None:
    user, group = instructions("USER")[-1].split(":")

    assert int(user) > 0
    assert int(group) > 0
    assert json.loads(instructions("ENTRYPOINT")[-1]) == ["wpk"]
    assert json.loads(instructions("CMD")[-1]) == ["agent"]


def test_the_image_gets_every_file_that_it_copies() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)

    assert "*" in ignored
    assert {f"!{name}" for line in copied for name in line.split()} <= set(ignored)
    assert all((ROOT / name).exists() for line in copied for name in line.split())


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)], ids=["serves", "ails"])
def test_the_image_asks_the_agent_for_its_health(status: int, healthy: bool) -> None:
    command = json.loads(instructions("HEALTHCHECK")[-1].split(" CMD ", 1)[1])

    with health_server(status) as (port, asked):
        done = subprocess.run(
            [sys.executable, *command[1:]],
            env={**os.environ, "PROMETHEUS_PORT": str(port), "no_proxy": "127.0.0.1"},
            capture_output=True,
            check=False,
            timeout=60,
        )

    assert command[0] == "python"
    assert (done.returncode == 0) is healthy
    assert asked == ["/healthz"]


@contextlib.contextmanager
def health_server(status: int) -> Iterator[tuple[int, list[str]]]:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()
            serving.join()


# --- the compose file ------------------------------------------------------------------------------------------------


def test_compose_publishes_ports_on_loopback_only() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]

    assert ports
    assert [port for port in ports if not str(port).startswith("127.0.0.1:")] == []


def test_compose_pins_what_it_pulls_and_the_tests_use_the_same_kafka() -> None:
    images = {name: service["image"] for name, service in COMPOSE["services"].items() if "build" not in service}

    assert images["kafka"] == container.IMAGE == f"apache/kafka:{KAFKA_VERSION}"
    assert [image for image in images.values() if not re.search(r":v?\d+\.\d+\.\d+$", image)] == []


def test_compose_starts_the_agent_after_its_topics_and_these_after_kafka() -> None:
    services = COMPOSE["services"]

    assert services["agent"]["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}
    assert services["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert "healthcheck" in services["kafka"]
    assert services["topics"]["environment"] == {"KAFKA_BOOTSTRAP_SERVERS": "kafka:19092"}
    assert "INTERNAL://kafka:19092" in services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def test_prometheus_of_compose_asks_the_port_that_the_agent_serves() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (target,) = config["scrape_configs"][0]["dns_sd_configs"]

    assert target["names"] == ["agent"]
    assert [str(target["port"])] == instructions("EXPOSE")
    assert [port.rsplit(":", 1)[1] for port in COMPOSE["services"]["agent"]["ports"]] == instructions("EXPOSE")
