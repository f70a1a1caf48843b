"""The command line as a user starts it: what it prints, where, and with which exit code."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker
from tests.support.processes import PATIENCE, ROOT, agent, create_topics, environment, wpk

pytestmark = pytest.mark.timeout(300)

NOWHERE = "127.0.0.1:9"
Variables = dict[str, str]


@pytest.fixture
def offline() -> Variables:
    """An environment whose broker is not there."""
    return environment(NOWHERE, "wpk", USER="alice", LOGNAME="alice")


@pytest.fixture
def variables(embedded_kafka: KafkaBroker, prefix: str) -> Variables:
    return environment(embedded_kafka, prefix, USER="alice", LOGNAME="alice")


@pytest.fixture
async def served(variables: Variables) -> AsyncIterator[Variables]:
    """The environment of topics that an agent works on."""
    await create_topics(variables)
    async with agent(variables):
        yield variables


def package(path: Path, *handlers: dict[str, Any], **spec: Any) -> str:
    """A package in a file (JSON is YAML); the file's path."""
    document = {"metadata": {"name": "greet", "version": "1.0.0"}, "spec": {"handlers": list(handlers), **spec}}
    path.write_text(json.dumps(document), encoding="utf-8")
    return str(path)


def shell(name: str, command: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "shell", "config": {"command": command}, **more}


def documents(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


# --- without a broker ---


async def test_the_help_names_every_verb_and_the_exit_codes(offline: Variables) -> None:
    done = await wpk(offline, "--help")
    assert done.code == 0
    for word in ("agent", "dev", "submit", "plan", "rollback", "approve", "reject", "cancel", "status", "logs", "list"):
        assert f"\n  {word} " in done.stdout
    assert "Exit codes: 0" in done.stdout


def test_the_help_needs_neither_kafka_nor_kubernetes_nor_the_models() -> None:
    code = (
        "import sys; from consumer.cli.main import application; application();"
        "print(sorted({'aiokafka', 'kubernetes_asyncio', 'pydantic', 'rich.live', 'httpx'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_checking_a_package_loads_no_kafka_no_kubernetes_and_no_adapter_that_it_does_not_name() -> None:
    code = (
        "import sys; from consumer.cli.main import application\n"
        "try: application()()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "unwanted = {'aiokafka', 'kubernetes_asyncio', 'prompt_toolkit', 'consumer.adapters.k8s', 'schemas.events'}\n"
        "print(sorted(unwanted & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "validate", "examples/greet-and-check.wpk.yaml"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.splitlines() == ["examples/greet-and-check.wpk.yaml: valid", "[]"]


async def test_the_help_of_the_agent_shows_every_setting(offline: Variables) -> None:
    done = await wpk(offline, "agent", "--help")
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "WPK_TOPIC_PREFIX", "WPK_PROCESSING_GUARANTEE", "PROMETHEUS_PORT"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("submit",), "FILE"),
        (("frobnicate",), "frobnicate"),
        (("status", "x", "--frobnicate"), "--frobnicate"),
        (("status", "x", "-w", "--timeout", "soon"), '--timeout: "soon" is no duration; write 500ms, 30s'),
        (("list", "--status", "splendid"), "no such status; there are: pending"),
        (("list", "--since", "yore"), "write a span like 2h or 7d"),
        (("cancel", "an id with spaces"), "execution_id"),
        (("submit", "no-such-file.yaml"), "no-such-file.yaml: can't be read: No such file"),
        (("submit", "-", "-p", "novalue"), "write -p NAME=VALUE"),
        (("status", "x", "--config", "no-such.yaml"), "no-such.yaml can't be read"),
    ],
)
async def test_wrong_usage_is_exit_code_2_with_a_remedy_on_stderr(
    offline: Variables, arguments: tuple[str, ...], told: str
) -> None:
    done = await wpk(offline, *arguments)
    assert done.code == 2, done.stderr
    assert told in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["status", "list", "submit", "topics create", "agent"])
async def test_no_broker_is_exit_code_3_in_one_sentence(offline: Variables, tmp_path: Path, verb: str) -> None:
    rest = {"submit": (package(tmp_path / "a.yaml", shell("one", "true")),), "list": (), "agent": ()}
    impatient = {**offline, "WPK_START_TIMEOUT": "0s"}
    done = await wpk(impatient, *verb.split(), *rest.get(verb, () if " " in verb else ("some-id",)))
    assert done.code == 3, done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith(f"cannot reach Kafka at {NOWHERE}: the connection was refused")
    assert "Set KAFKA_BOOTSTRAP_SERVERS, or try it locally with: wpk dev" in sentence
    assert "Traceback" not in done.stderr


async def test_verbose_shows_the_cause(offline: Variables) -> None:
    done = await wpk(offline, "status", "x", "--verbose")
    assert done.code == 3
    assert "KafkaConnectionError" in done.stderr


async def test_validation_finds_every_error_with_its_line_and_remedy(offline: Variables, tmp_path: Path) -> None:
    good, bad = package(tmp_path / "good.yaml", shell("one", "true")), tmp_path / "bad.yaml"
    bad.write_text(
        "metadata: {name: broken}\n"
        "spec:\n"
        "  handlers:\n"
        "    - name: one\n"
        "      type: shel\n"
        "      config: {command: 'true'}\n"
        "      needs: [tow]\n"
        "    - name: two\n"
        "      type: shell\n"
        "      config: {command: 'echo ${nme}', tiemout: 3}\n",
        encoding="utf-8",
    )
    done = await wpk(offline, "validate", good, str(bad))
    assert done.code == 2
    assert f"{good}: valid\n" in done.stdout
    for place, told in (("5:", "shel"), ("7:", "tow"), ("10:", "nme"), ("10:", "tiemout")):
        assert any(line.strip().startswith(place) and told in line for line in done.stdout.splitlines()), told
    found = documents((await wpk(offline, "validate", "--json", good, str(bad))).stdout)
    assert [each["valid"] for each in found] == [True, False]
    assert {problem["severity"] for problem in found[1]["problems"]} == {"error"}
    assert (await wpk(offline, "validate", good)).code == 0


async def test_an_invalid_package_is_not_sent(offline: Variables, tmp_path: Path) -> None:
    done = await wpk(offline, "submit", package(tmp_path / "a.yaml", {"name": "x", "type": "nope", "config": {}}))
    assert done.code == 2
    assert "spec.handlers[0].type" in done.stderr
    assert "nothing was sent" in done.stderr


async def test_the_schemas_are_written_or_printed(offline: Variables, tmp_path: Path) -> None:
    done = await wpk(offline, "schema", str(tmp_path / "out"))
    assert done.code == 0
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.json")}
    [printed] = documents((await wpk(offline, "schema")).stdout)
    assert written == set(printed)
    assert json.loads((tmp_path / "out" / "package.json").read_text()) == printed["package.json"]


# --- with a broker ---


async def test_topics_are_checked_created_and_right(variables: Variables) -> None:
    before = await wpk(variables, "topics", "check")
    assert before.code == 2
    assert "does not exist; run `wpk topics create`" in before.stdout
    first = await wpk(variables, "topics", "create")
    assert (first.code, first.stdout.count("created ")) == (0, 9)
    assert "are there" in (await wpk(variables, "topics", "create")).stdout
    [report] = documents((await wpk(variables, "topics", "check", "--json")).stdout)
    assert (report["ok"], report["partitions"]) == (True, 2)


async def test_without_an_agent_a_watch_times_out_with_exit_code_4(variables: Variables, tmp_path: Path) -> None:
    file = package(tmp_path / "a.yaml", shell("one", "true"))
    early = await wpk(variables, "submit", file)
    assert early.code == 2
    assert "create with: wpk topics create" in early.stderr
    await create_topics(variables)
    done = await wpk(variables, "submit", file, "--watch", "--timeout", "1s")
    assert done.code == 4
    assert "no agent took the command" in done.stderr
    assert (await wpk(variables, "status", "no-such-run")).code == 2


async def test_a_run_is_submitted_watched_and_read_again(served: Variables, tmp_path: Path) -> None:
    file = package(
        tmp_path / "a.yaml",
        shell("greet", "echo hello ${who}; echo hmm >&2"),
        parameters={"type": "object", "properties": {"who": {"type": "string"}}},
        outputs={"said": "${steps.greet.output.stdout}"},
    )
    arguments = (file, "-p", "who=world", "--id", "run-1", "--label", "team=x")
    done = await wpk(served, "submit", *arguments, "--watch")
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "▶ greet 1.0.0   execution run-1   requested by alice"
    assert "      greet │ hello world" in lines
    assert lines[-1].startswith("  completed in ")
    assert "outputs: said=hello world" in lines[-1]
    assert "\x1b" not in done.stdout

    status = await wpk(served, "status", "run-1", "--json")
    [document] = documents(status.stdout)
    assert status.code == 0
    assert document["status"] == "completed"
    assert (document["steps_completed"], document["total_steps"], document["current_step"]) == (1, 1, None)
    assert (document["requested_by"], document["labels"]) == ("alice", {"team": "x"})
    page = (await wpk(served, "status", "run-1")).stdout
    assert page.startswith("greet 1.0.0  completed in ")

    logs = documents((await wpk(served, "logs", "run-1", "greet", "--json")).stdout)
    assert {(line["stream"], line["text"]) for line in logs} == {("stdout", "hello world"), ("stderr", "hmm")}
    wrong = await wpk(served, "logs", "run-1", "gret")
    assert (wrong.code, 'did you mean "greet"?' in wrong.stderr) == (2, True)

    listed = documents((await wpk(served, "list", "--status", "completed", "--since", "1h", "--json")).stdout)
    assert [each["execution_id"] for each in listed] == ["run-1"]
    assert (await wpk(served, "list", "--workflow", "another")).stdout == "no executions\n"

    again = await wpk(served, "submit", *arguments, "--watch")
    assert again.code == 0
    assert "taken before; nothing is done twice" in again.stdout
    other = await wpk(served, "submit", file, "-p", "who=moon", "--id", "run-1", "--watch")
    assert other.code == 1
    assert "accepted with other content" in other.stdout


async def test_the_events_of_a_watch_are_one_json_document_per_line(served: Variables, tmp_path: Path) -> None:
    file = package(tmp_path / "a.yaml", shell("one", "exit 3"))
    done = await wpk(served, "submit", file, "--watch", "--json")
    assert done.code == 1
    found = documents(done.stdout)
    assert [event["data"]["seq"] for event in found] == list(range(1, len(found) + 1))
    assert found[-1]["type"] == "wpk.execution.failed.v1"
    [status] = documents((await wpk(served, "status", found[0]["subject"], "--json")).stdout)
    assert status["error_message"] == found[-1]["data"]["error_message"]
    assert (await wpk(served, "status", found[0]["subject"])).code == 1
    sent = await wpk(served, "submit", file, "--json")
    [published] = documents(sent.stdout)
    assert set(published) == {"execution_id", "topic", "partition", "offset"}


async def test_a_plan_shows_what_would_be_done_and_does_nothing(served: Variables, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = package(
        tmp_path / "a.yaml",
        shell("touch", f"touch {mark}"),
        {"name": "rest", "type": "delay", "config": {"duration": "1h"}},
    )
    done = await wpk(served, "plan", file)
    assert done.code == 0, done.stderr
    assert "nothing was changed" in done.stdout
    assert re.search(r"~ touch +shell +run", done.stdout)
    assert re.search(r"· rest +delay +wait 1h", done.stdout)
    [document] = documents((await wpk(served, "plan", file, "--json")).stdout)
    assert [step["changes"] for step in document["steps"]] == [True, False]
    assert not mark.exists()


async def test_approval_cancellation_and_rollback_are_steered(served: Variables, tmp_path: Path) -> None:
    undo = {"enabled": True, "handlers": [shell("undo", "echo undone")]}
    file = package(
        tmp_path / "a.yaml", shell("long", "echo begun; sleep 600"), safety={"approval_required": True}, rollback=undo
    )
    assert (await wpk(served, "submit", file, "--id", "run-1")).code == 0

    async def status() -> str:
        done = await wpk(served, "status", "run-1", "--json")
        return str(documents(done.stdout)[0]["status"]) if done.code in (0, 1) else "unknown"

    async def waits() -> bool:
        return await status() == "awaiting_approval"

    async def runs() -> bool:
        return "begun" in (await wpk(served, "logs", "run-1")).stdout

    await eventually(waits, timeout=PATIENCE)
    assert "wpk approve run-1   (not by alice)" in (await wpk(served, "status", "run-1")).stdout
    own = await wpk(served, "approve", "run-1", "--watch")
    assert (own.code, own.stdout.count("alice asked for this execution and can't approve it")) == (1, 1)
    assert (await wpk(served, "approve", "run-1", "--requested-by", "bob", "--reason", "fine")).code == 0
    await eventually(runs, timeout=PATIENCE)
    assert "run-1" in (await wpk(served, "status")).stdout
    cancelled = await wpk(served, "cancel", "run-1", "--watch", "--reason", "enough")
    assert cancelled.code == 0, cancelled.stdout
    assert "approved by bob: fine" in cancelled.stdout
    assert "cancelled by alice: enough" in cancelled.stdout
    assert "undo │ undone" in cancelled.stdout
    assert await status() == "rolled_back"
    refused = await wpk(served, "rollback", "run-1", "--watch")
    assert refused.code == 1
    assert "the rollback command was refused" in refused.stdout
    unknown = await wpk(served, "reject", "no-such-run", "--watch", "--timeout", "60s")
    assert unknown.code == 1
    assert "is not known" in unknown.stdout


async def test_an_interrupt_ends_the_watch_and_not_the_run(served: Variables, tmp_path: Path) -> None:
    file = package(tmp_path / "a.yaml", shell("long", "echo begun; sleep 600"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer", "submit", file, "--watch", "--id", "run-1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=served, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while "begun" not in (await process.stdout.readline()).decode():
                assert not process.stdout.at_eof(), "the watch ended before the step spoke"
            process.send_signal(signal.SIGINT)
            _, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 130
    assert "the execution goes on: wpk status run-1 · wpk cancel run-1" in stderr.decode()
    assert "Traceback" not in stderr.decode()
    [document] = documents((await wpk(served, "status", "run-1", "--json")).stdout)
    assert (document["status"], document["current_step"]) == ("running", "long")


async def test_on_a_terminal_the_picture_is_drawn_again_and_no_color_is_respected(
    served: Variables, tmp_path: Path
) -> None:
    file = package(tmp_path / "a.yaml", shell("one", "echo hello; sleep 1"))
    coloured = await _on_terminal({**served, "TERM": "xterm-256color"}, "submit", file, "--watch")
    assert "\x1b[32m" in coloured
    assert "\x1b[2K" in coloured
    assert "completed" in coloured
    plain = await _on_terminal({**served, "TERM": "xterm-256color", "NO_COLOR": "1"}, "submit", file, "--watch")
    assert "\x1b[32m" not in plain
    assert "✔ one" in plain


async def _on_terminal(variables: Variables, *arguments: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "consumer", *arguments,
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=variables, cwd=ROOT,
        )  # fmt: skip
    finally:
        os.close(theirs)
    try:
        async with asyncio.timeout(PATIENCE):
            written = await asyncio.to_thread(_drain, ours)
            assert await process.wait() == 0, written
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
    return written


def _drain(terminal: int) -> str:
    """All that is written to the terminal until nobody has it open any more."""
    chunks = []
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while chunk := os.read(terminal, 65_536):
            chunks.append(chunk)
    return b"".join(chunks).decode(errors="replace")


async def test_a_reader_that_has_enough_ends_the_command_quietly(served: Variables, tmp_path: Path) -> None:
    file = package(tmp_path / "a.yaml", shell("talk", "seq 1 4000"))
    assert (await wpk(served, "submit", file, "--id", "run-1", "--watch")).code == 0
    line = f"{sys.executable} -m consumer logs run-1 | head -n 1"
    process = await asyncio.create_subprocess_shell(
        line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=served, cwd=ROOT
    )
    async with asyncio.timeout(PATIENCE):
        stdout, stderr = await process.communicate()
    assert stdout.decode().count("\n") == 1
    assert stderr == b""


async def test_the_version_is_the_installed_packages(offline: Variables) -> None:
    done = await wpk(offline, "--version")
    assert (done.code, done.stdout) == (0, f"wpk {importlib.metadata.version('wpk-agent')}\n")
