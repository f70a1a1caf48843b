"""Bytes become a command, a refusal that can be answered, or a dead letter; nothing else, whatever they are."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.engine.incoming import Incoming, Refused, Understood, Unreadable
from consumer.intake.decode import RawRecord, decode
from consumer.ports import CommandTopic
from schemas.commands import ControlCommand, ExecuteCommand, RollbackCommand

MAX = 900_000
PACKAGE = {"metadata": {"name": "w"}, "spec": {"handlers": [{"name": "a", "type": "api", "config": {}}]}}
STRUCTURED = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)


def read(value: Any, role: CommandTopic = CommandTopic.EXECUTE, limit: int = MAX, **more: Any) -> Incoming:
    if value is not None and not isinstance(value, bytes):
        value = json.dumps(value).encode()
    fields = {"topic": "t.commands", "partition": 3, "offset": 42, "timestamp_ms": 1_767_225_600_000, "key": None}
    return decode(RawRecord(**{**fields, **more}, role=role, value=value), limit)


def understood(incoming: Incoming) -> Understood:
    assert isinstance(incoming.content, Understood), incoming.content
    return incoming.content


def refused(incoming: Incoming) -> Refused:
    assert isinstance(incoming.content, Refused), incoming.content
    return incoming.content


def unreadable(incoming: Incoming) -> Unreadable:
    assert isinstance(incoming.content, Unreadable), incoming.content
    return incoming.content


def test_the_plain_form_is_a_json_object() -> None:
    found = understood(read({"execution_id": "e1", "wpk_content": PACKAGE, "dry_run": True}))
    assert isinstance(found.command, ExecuteCommand)
    assert (found.execution_id, found.command.dry_run, found.command.wpk_content) == ("e1", True, PACKAGE)


def test_the_id_is_the_bodys_else_the_keys_else_derived_from_the_place() -> None:
    body = {"wpk_content": PACKAGE}
    assert understood(read({**body, "execution_id": "e1"}, key=b"k1")).execution_id == "e1"
    assert understood(read({**body, "execution_id": None}, key=b"k1")).execution_id == "k1"
    for key in (None, b"", b"no id", b"\xff", b"e1\n", b"x" * 129):
        assert understood(read(body, key=key)).execution_id == "t.commands-3-42"
    assert len(understood(read(body, topic="t" * 200)).execution_id) == 128


@pytest.mark.parametrize("bad", ["", "a b", "e1\n", "a/b", 7, ["e1"], {}, "x" * 129, True])
def test_a_bad_id_is_refused_under_one_that_can_be_answered(bad: Any) -> None:
    for key, answered in ((b"k1", "k1"), (None, "t.commands-3-42"), (b"e1\n", "t.commands-3-42")):
        found = refused(read({"execution_id": bad, "wpk_content": PACKAGE}, key=key))
        assert found.execution_id == answered
        assert found.problems[0].path == "execution_id"


def test_rollback_and_control_have_no_derived_id() -> None:
    for role in (CommandTopic.ROLLBACK, CommandTopic.CONTROL):
        assert "which execution" in refused(read({"action": "cancel"}, role)).problems[0].message
    assert isinstance(understood(read({}, CommandTopic.ROLLBACK, key=b"e1")).command, RollbackCommand)
    control = understood(read({"action": "cancel"}, CommandTopic.CONTROL, key=b"e1")).command
    assert isinstance(control, ControlCommand)
    assert control.execution_id == "e1"


TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def test_cloudevents_in_binary_mode_are_the_plain_form_with_headers() -> None:
    headers = (("ce_specversion", b"1.0"), ("ce_type", b"x"), ("ce_traceparent", TRACE.encode()), ("odd", None))
    found = understood(read({"wpk_content": PACKAGE}, headers=headers))
    assert found.traceparent == TRACE


@pytest.mark.parametrize("headers", [STRUCTURED, (), (("content-type", b"application/json"),)])
def test_cloudevents_in_structured_mode_carry_the_command_also_where_the_header_was_lost(headers: Any) -> None:
    envelope = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "traceparent": TRACE}
    body = {"execution_id": "e1", "wpk_content": PACKAGE}
    coded = base64.b64encode(json.dumps(body).encode()).decode()
    for event in ({**envelope, "data": body}, {**envelope, "data_base64": coded}):
        found = understood(read(event, headers=headers))
        assert (found.execution_id, found.traceparent) == ("e1", TRACE)


@pytest.mark.parametrize("event", [{}, {"data": None}, {"data": "text"}, {"data": [1]}, {"data_base64": "%%"}])
def test_a_cloudevent_without_a_command_is_a_dead_letter(event: dict[str, Any]) -> None:
    assert unreadable(read({"specversion": "1.0", **event}, headers=STRUCTURED)).reason in ("no_object", "not_json")


def test_trace_contexts_that_are_none_are_left_out() -> None:
    for value in (b"", b"x", TRACE.encode() + b"\n", b"\xff"):
        assert understood(read({"wpk_content": PACKAGE}, headers=(("traceparent", value),))).traceparent is None


def test_a_package_as_yaml_is_what_it_says_and_its_errors_have_lines() -> None:
    text = "metadata: {name: w}\nspec:\n  handlers:\n    - {name: a, type: api, config: {}}\n"
    written = understood(read({"execution_id": "e", "wpk_content": text})).command
    given = understood(read({"execution_id": "e", "wpk_content": PACKAGE})).command
    assert isinstance(written, ExecuteCommand)
    assert isinstance(given, ExecuteCommand)
    assert written.content_digest() == given.content_digest()

    broken = refused(read({"wpk_content": "a: [1\nb"}))
    assert broken.problems[0].path.startswith("wpk_content")
    assert broken.problems[0].line is not None
    assert "not list" in refused(read({"wpk_content": "- 1"})).problems[0].message


def test_every_error_of_a_command_is_told_with_whose_it_is() -> None:
    found = refused(read({"workflow_id": "w-1", "requested_by": "alice", "dry_run": "maybe", "timout": 1}))
    assert {problem.path for problem in found.problems} == {"dry_run", "timout"}
    assert (found.kind, found.workflow_id, found.requested_by) == ("execute", "w-1", "alice")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"\x00\xff", "not_json"),
        (b'{"a": "\\ud800"}', "not_json"),
        (b"[1]", "no_object"),
        (b'"text"', "no_object"),
        (b"null", "no_object"),
        (b"{" + b" " * 2000 + b"}", "too_large"),
    ],
)
def test_what_is_no_command_goes_to_the_dead_letters_as_it_came(value: bytes | None, reason: str) -> None:
    incoming = read(value, key=b"\xff key", headers=(("h", b"\xff"), ("none", None)), limit=1000)
    assert unreadable(incoming).reason == reason
    assert (incoming.key, incoming.value, incoming.headers) == (b"\xff key", value, (("h", b"\xff"),))


def test_a_text_that_says_more_than_its_own_length_is_measured_by_what_it_says() -> None:
    text = (
        'metadata: {name: w, description: "' + "\\0" * 2000 + '"}\nspec: {handlers: [{name: a, type: api, config: {}}]}'
    )
    body = json.dumps({"wpk_content": text})
    assert unreadable(read(body.encode(), limit=len(body) + 500)).reason == "too_large"
    assert isinstance(understood(read(body.encode())).command, ExecuteCommand)


@pytest.mark.parametrize(
    "body",
    [
        b'{"workflow_id":"w","deadline":"0001-01-01T00:00:00+14:00"}',
        b'{"workflow_id":"w","timeout":1' + b"0" * 300 + b"}",
        b'{"workflow_id":"w","parameters":{"a":10000000000000000000}}',
        b'{"workflow_id":"w","parameters":' + b'{"a":' * 900 + b"1" + b"}" * 901,
        b'{"workflow_id":"w","parameters":{"a":' + b"[" * 200 + b"]" * 200 + b"}}",
    ],
)
def test_values_at_the_edges_are_refused_and_never_raise(body: bytes) -> None:
    assert isinstance(read(body).content, Refused | Understood | Unreadable)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
fields = ["execution_id", "workflow_id", "wpk_content", "parameters", "dry_run", "deadline", "timeout", "labels"]


@given(
    body=st.dictionaries(st.sampled_from([*fields, "action", "specversion", "data"]) | st.text(), json_values),
    role=st.sampled_from(list(CommandTopic)),
    key=st.none() | st.binary(max_size=20),
)
def test_any_json_object_is_read_without_raising(body: dict[str, Any], role: CommandTopic, key: bytes | None) -> None:
    incoming = read(body, role, key=key)
    assert not (isinstance(incoming.content, Unreadable) and incoming.content.reason == "internal")


@given(st.binary(max_size=100), st.integers(-(2**62), 2**62))
def test_any_bytes_at_any_time_are_read_without_raising(value: bytes, time: int) -> None:
    incoming = read(value, timestamp_ms=time)
    assert not (isinstance(incoming.content, Unreadable) and incoming.content.reason == "internal")
