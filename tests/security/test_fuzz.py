"""Whatever somebody sends is answered or put among the dead letters: nothing raises, and no input costs much work."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.adapters import api, delay
from consumer.adapters.api.message import Answer, Request
from consumer.adapters.api.urls import parse_url
from consumer.adapters.shell import ShellAdapter
from consumer.audit import checkpoint
from consumer.engine.incoming import Understood, Unreadable
from consumer.errors import AgentError, PermanentError, SettingsError
from consumer.intake.decode import RawRecord, decode
from consumer.outward import registry as packages
from consumer.policy import load, signatures
from consumer.policy.signatures import SignatureError
from consumer.settings import load as load_settings
from consumer.workflow import checks, conditions, documents
from schemas import registry
from schemas.commands import ExecuteCommand
from schemas.scalars import parse_duration, parse_quantity
from tests.security import hostile

#: CPU seconds that one input may cost; the slowest takes a fiftieth of it on a machine of its own.
MOST_WORK = 10.0
MAX_BYTES = 900_000
VARIABLES: dict[str, Any] = {"parameters": {"a": [1, "x"]}, "steps": {"a": {"output": {"b": 1}}}, "execution": {}}
ADAPTERS: dict[str, Any] = {"api": api.ApiAdapter(), "shell": ShellAdapter(), "delay": delay.build(None)}  # type: ignore[arg-type]


def _record(record: RawRecord) -> None:
    content = decode(record, MAX_BYTES).content
    assert not (isinstance(content, Unreadable) and content.reason == "internal"), content
    if isinstance(content, Understood) and isinstance(content.command, ExecuteCommand):
        command = content.command
        if isinstance(command.wpk_content, dict):
            _check(command.wpk_content, command.parameters)


def _package(text: str) -> None:
    try:
        document = documents.parse(text)
    except documents.DocumentError as error:
        assert error.problems
        return
    _check(document.value, {})


def _check(document: Any, parameters: Any) -> None:
    checked = checks.check_package(document, parameters if isinstance(parameters, dict) else {}, ADAPTERS)
    assert checked.package is not None or checked.problems


def _condition(text: str) -> None:
    try:
        conditions.compile_condition(text).evaluate(VARIABLES)
    except conditions.ConditionError as error:
        assert str(error)


def _policy(text: str) -> None:
    try:
        load.parse(text, "hostile")
    except documents.DocumentError as error:
        assert error.problems


def _scalar(value: Any) -> None:
    for parse in (parse_duration, parse_quantity):
        try:
            parse(value)
        except ValueError as error:
            assert len(str(error)) < 500


def _value(value: Any) -> None:
    for adapter in ADAPTERS.values():
        package = {
            "metadata": {"name": "a"},
            "spec": {"handlers": [{"name": "a", "type": adapter.name, "config": value}]},
        }
        _check(package, {})


def _settings(file: tuple[str, str]) -> None:
    ending, content = file
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"agent.{ending}"
        path.write_text(content, encoding="utf-8", errors="surrogatepass")
        try:
            load_settings(path, {})
        except SettingsError as error:
            assert len(str(error)) < 200_000


def _publication(value: bytes) -> None:
    try:
        registry.read(value)
    except ValueError as error:
        assert str(error)
    try:
        packages._content(_REQUEST, Answer(status=200, headers={}, body=value, complete=True, received=len(value)))
    except PermanentError as error:
        assert len(str(error)) < 2000


_REQUEST = Request(method="GET", url=parse_url("http://registry.example/packages/a"), headers=())


def _checkpoint(content: bytes) -> None:
    try:
        checkpoint.opened(content, _KEY)
    except (checkpoint.CheckpointError, SignatureError) as error:
        assert len(str(error)) < 2000


def _signature(text: str) -> None:
    package: dict[str, Any] = {"metadata": {"name": "a", "signature": text}, "spec": {"handlers": []}}
    found = signatures.verify(_SIGNING.file, package, at=None)
    assert not found.keys
    assert found.problems or not text.strip()


_KEY = (
    ec.derive_private_key(7, ec.SECP256R1())
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
_SIGNING = load.parse(json.dumps({"version": 1, "keys": [{"name": "k", "public_key": _KEY}], "rules": []}), "signing")


TARGETS: dict[str, tuple[Callable[[Random], Any], Callable[[Any], None]]] = {
    "command records": (hostile.record, _record),
    "packages": (hostile.package, _package),
    "configurations": (hostile.config, _value),
    "conditions": (hostile.text, _condition),
    "policies": (hostile.policy, _policy),
    "durations and quantities": (hostile.scalar, _scalar),
    "settings files": (hostile.settings_file, _settings),
    "answers of registries": (hostile.publication, _publication),
    "checkpoints": (hostile.checkpoint, _checkpoint),
    "signatures": (hostile.signature, _signature),
}


def attack(target: str, examples: int, record_property: Callable[[str, object], None]) -> None:
    made, body = TARGETS[target]
    count = 0

    @settings(max_examples=examples, deadline=None, database=None)
    @given(st.integers(0, 2**64))
    def each(seed: int) -> None:
        nonlocal count
        count += 1
        value = made(Random(seed))
        began = time.process_time()
        try:
            body(value)
        except AgentError as error:
            pytest.fail(f"not answered in order: {error!r}")
        assert time.process_time() - began < MOST_WORK

    each()
    record_property("measured", f"fuzz: {count} hostile {target}")


@pytest.mark.parametrize("target", TARGETS)
def test_hostile_input_is_answered(target: str, record_property: Callable[[str, object], None]) -> None:
    attack(target, 50, record_property)


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_ten_thousand_hostile_inputs_are_answered(target: str, record_property: Callable[[str, object], None]) -> None:
    attack(target, 1100, record_property)
