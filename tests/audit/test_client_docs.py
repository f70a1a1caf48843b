"""The examples of docs/client.md, run as they stand, against an agent on the embedded broker."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from consumer.client import Client
from schemas.events import Status
from tests.support import agents
from tests.support.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(120)

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


async def run(example: str, names: dict[str, Any]) -> None:
    """The example, which may await at its top level as in `python -m asyncio`."""
    code = compile(example, PAGE.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result


async def test_every_example_does_what_the_page_says(
    embedded_kafka: KafkaBroker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = agents.settings(embedded_kafka, prefix)
    await agents.create_topics(config)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", embedded_kafka.bootstrap)
    monkeypatch.setenv("WPK_TOPIC_PREFIX", prefix)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    names: dict[str, Any] = {"pem": pem, "public_pem": public}
    async with agents.running(config):
        for example in EXAMPLES:
            await run(example, names)
    assert names["published"].execution_id in names["started"]
    assert names["names"][0] == "execution.accepted"
    assert names["names"][-1] == "execution.completed"
    assert (names["state"].status, names["history"].missing) == (Status.COMPLETED, 0)
    assert {state.execution_id for state in names["listing"].executions} == {*names["started"]}
    assert names["answer"].name in ("command.duplicate", "command.rejected")  # it had ended already
    assert names["report"].holds, names["report"].broken
    assert (names["report"].executions, names["report"].attested) == (3, 3)


def test_the_page_names_all_that_the_client_can_do() -> None:
    """A method that is added must be shown, or it is not there for who reads."""
    text = "".join(EXAMPLES)
    public = [name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")]
    assert [name for name in public if f"client.{name}(" not in text] == ["beginning"]
