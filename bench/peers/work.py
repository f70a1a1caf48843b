"""What the peers' workers share: the steps of a command, done without more ado, and the record that tells of the end.

Imports nothing of the project: it runs in the peers' own virtual environment.
"""

from __future__ import annotations

import os
import subprocess

from confluent_kafka import Producer

BOOTSTRAP = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
PREFIX = os.environ["WPK_TOPIC_PREFIX"]
#: About what the agent's own result has.
_RESULT = b'{"data":{"status":"completed"},"filler":"' + b"x" * 1000 + b'"}'
_producer = Producer({"bootstrap.servers": BOOTSTRAP, "acks": "all", "linger.ms": 1, "log_level": 0})


def steps(command: dict) -> list[dict]:
    """The steps of the package."""
    return command["wpk_content"]["spec"]["handlers"]


def perform(step: dict) -> str:
    """A shell step runs its program, in no sandbox; any other does nothing."""
    if step["type"] == "shell":
        subprocess.run(step["config"]["args"], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return step["name"]


def tell(execution_id: str) -> None:
    """Publishes the end; nobody waits for its acknowledgement, which favours the peers."""
    _producer.produce(f"{PREFIX}.events.results", _RESULT, key=execution_id)
    _producer.poll(0)


def done() -> None:
    """Before the process ends."""
    _producer.flush(5)
