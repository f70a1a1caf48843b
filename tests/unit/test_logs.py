"""The agent's own log: its form, its levels, and that no secret is in it."""

from __future__ import annotations

import io
import json
import logging
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from consumer.telemetry import logs
from schemas.events import Status
from schemas.execution import ExecutionState, RollbackState, StepState, StepStatus
from schemas.failure import Failure

START = datetime(2026, 11, 24, 4, tzinfo=UTC)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves the process's logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    show = warnings.showwarning
    with structlog.contextvars.bound_contextvars():
        yield
    logging.captureWarnings(False)
    warnings.showwarning = show
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("httpx", "httpcore", "kubernetes_asyncio", "aiohttp", "urllib3", "aiokafka", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_and_event_first(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream=stream)
    structlog.get_logger("consumer.x").info("partition.owned", partition=3, text="two\nlines")
    (line,) = lines(stream)
    assert list(line)[:3] == ["time", "level", "event"]
    assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert line["event"] == "partition.owned"
    assert (line["level"], line["partition"], line["text"], line["logger"]) == ("info", 3, "two\nlines", "consumer.x")


def test_execution_and_step_are_on_every_line_logged_for_them(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream=stream)
    with structlog.contextvars.bound_contextvars(execution="e1", step="a"):
        structlog.get_logger("consumer.x").info("one")
        logging.getLogger("a.library").warning("two")
    structlog.get_logger("consumer.x").info("three")
    one, two, three = lines(stream)
    assert (one["execution"], one["step"]) == ("e1", "a")
    assert (two["execution"], two["step"]) == ("e1", "a")
    assert "execution" not in three


def test_less_severe_lines_are_left_out(stream: io.StringIO) -> None:
    logs.configure("warning", "json", stream=stream)
    structlog.get_logger("consumer.x").info("no")
    logging.getLogger("a.library").info("no")
    structlog.get_logger("consumer.x").warning("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_libraries_log_in_the_same_form_and_talk_less(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream=stream)
    logging.getLogger("aiokafka.consumer").info("joined the group")
    logging.getLogger("aiokafka.consumer").error("no broker at %s", "kafka:9092", extra={"node": 1})
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["node"]) == ("no broker at kafka:9092", "aiokafka.consumer", 1)


def test_the_kafka_client_says_the_same_once_in_a_while_and_how_often_it_did_not(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    logs.configure("info", "json", stream=stream)
    for _ in range(1000):
        logging.getLogger("aiokafka").error("Unable connect to node with id %s: %s", 1, "refused")
        logging.getLogger("aiokafka.consumer").error("Failed fetch messages from %s", 1)
    structlog.get_logger("consumer.x").warning("partition.lost")
    structlog.get_logger("consumer.x").warning("partition.lost")
    now[0] += 31
    logging.getLogger("aiokafka").error("Unable connect to node with id %s: %s", 2, "refused")
    said = [(line["event"], line.get("left_out")) for line in lines(stream)]
    assert said == [
        ("Unable connect to node with id 1: refused", None),
        ("Failed fetch messages from 1", None),
        ("partition.lost", None),
        ("partition.lost", None),
        ("Unable connect to node with id 2: refused", 999),
    ]


def test_clients_that_log_requests_and_bodies_do_not_even_at_debug(stream: io.StringIO) -> None:
    logs.configure("debug", "json", stream=stream)
    for name in ("httpx", "httpcore.http11", "kubernetes_asyncio.client.rest", "aiohttp.client"):
        logging.getLogger(name).info("GET http://host/?token=1")
        logging.getLogger(name).debug("Authorization: Bearer 1")
    assert stream.getvalue() == ""
    logging.getLogger("aiokafka").info("joined")
    assert [line["event"] for line in lines(stream)] == ["joined"]


def test_exceptions_are_rendered_in_their_line(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream=stream)
    try:
        raise ValueError("broken")
    except ValueError as error:
        structlog.get_logger("consumer.x").exception("task.failed")
        structlog.get_logger("consumer.x").warning("again", exc_info=error)
        logging.getLogger("a.library").exception("library failed")
    for line in lines(stream):
        assert line["exception"].endswith("ValueError: broken")
        assert "Traceback" in line["exception"]
    assert len(lines(stream)) == 3


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_masked_in_every_part_of_every_line(stream: io.StringIO, form: logs.Format) -> None:
    logs.configure("info", form, stream=stream, redact=lambda text: text.replace("hunter2", "***"))
    log = structlog.get_logger("consumer.x")
    log.info("about hunter2", password="hunter2", nested={"hunter2": ["hunter2", {"deep": ("hunter2",)}]})
    log.info("objects", error=ValueError("hunter2"), data=b"hunter2")
    logging.getLogger("a.library").warning("got %s", "hunter2")
    try:
        raise ValueError("hunter2")
    except ValueError:
        log.exception("failed")
    text = stream.getvalue()
    assert text.count("***") >= 8
    assert "hunter2" not in text.replace('raise ValueError("hunter2")', "")


def test_a_value_that_is_no_json_does_not_cost_the_line(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream=stream)
    structlog.get_logger("consumer.x").info("odd", huge=2**80, lone="\ud800", thing=object(), keys={1: {2, 3}})
    (line,) = lines(stream)
    assert line["huge"] == 2**80
    assert line["thing"].startswith("<object object")
    assert line["keys"] == {"1": [2, 3]}


def test_a_text_that_is_too_long_is_cut_with_a_mark(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream=stream)
    structlog.get_logger("consumer.x").info("long", text="x" * (logs.MAX_TEXT + 5))
    (line,) = lines(stream)
    assert line["text"] == "x" * logs.MAX_TEXT + "… (5 more characters)"


def test_foreign_text_can_neither_steer_the_terminal_nor_forge_a_line(stream: io.StringIO) -> None:
    logs.configure("info", "console", stream=stream)
    structlog.get_logger("consumer.x").info("line", text="\x1b[2J\nforged \x9b31m")
    logging.getLogger("a.library").warning("one\ntwo\x07")
    text = stream.getvalue()
    assert len(text.splitlines()) == 2
    assert not set(text) & {"\x1b", "\x07", "\x9b"}


def test_the_console_has_no_colours_where_there_is_no_terminal(stream: io.StringIO) -> None:
    logs.configure("info", "console", stream=stream)
    structlog.get_logger("consumer.x").info("agent.started", port=9464)
    assert "agent.started" in stream.getvalue()
    assert "port=9464" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_warnings_of_python_come_as_lines(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old ways", UserWarning, stacklevel=1)
    (line,) = lines(stream)
    assert "old ways" in line["event"]


def test_setting_up_twice_does_not_log_twice(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream=io.StringIO())
    logs.configure("info", "json", stream=stream)
    structlog.get_logger("consumer.x").info("once")
    assert len(lines(stream)) == 1


def test_the_end_of_an_execution_is_one_line_with_all_its_facts(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream=stream)
    state = ExecutionState(
        execution_id="e1",
        workflow_id="greet-1.0.0",
        status=Status.ROLLED_BACK,
        requested_by="alice",
        approved_by="bob",
        labels={"team": "payments"},
        accepted_at=START,
        started_at=START + timedelta(seconds=2),
        completed_at=START + timedelta(seconds=9.5),
        steps={
            "a": StepState(step="a", adapter="shell", status=StepStatus.SUCCEEDED, attempt=3),
            "b": StepState(step="b", adapter="api", status=StepStatus.FAILED, attempt=1),
        },
        rollback_steps={"a": StepState(step="a", adapter="shell", status=StepStatus.SUCCEEDED, attempt=1)},
        error=Failure(type="http_status", message="expected 200, got 500", step="b"),
        rollback=RollbackState(
            trigger="automatic", mode="compensation", previous=Status.FAILED, started_at=START + timedelta(seconds=9)
        ),
        seq=12,
        epoch=3,
    )
    logs.log_execution_end(state)
    (line,) = lines(stream)
    assert {name: line[name] for name in line if name not in ("time", "logger")} == {
        "level": "warning",
        "event": "execution.ended",
        "execution": "e1",
        "workflow": "greet-1.0.0",
        "status": "rolled_back",
        "requested_by": "alice",
        "approved_by": "bob",
        "labels": {"team": "payments"},
        "waited": 2.0,
        "duration": 7.5,
        "steps": {"succeeded": 2, "failed": 1},
        "retries": 2,
        "error_type": "http_status",
        "error_step": "b",
        "error": "expected 200, got 500",
        "rollback": "automatic",
        "seq": 12,
        "epoch": 3,
    }


def test_a_completed_execution_is_no_warning(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream=stream)
    logs.log_execution_end(ExecutionState(execution_id="e1", status=Status.COMPLETED, seq=4))
    (line,) = lines(stream)
    assert (line["level"], line["status"]) == ("info", "completed")
    assert "error" not in line
