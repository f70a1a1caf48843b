"""DBOS: each step a `@DBOS.step`, recorded in PostgreSQL; commands by its own Kafka consumer, polled every 20 ms."""

from __future__ import annotations

import json
import os
import signal
import threading

from dbos import DBOS, DBOSConfig, KafkaMessage
from work import BOOTSTRAP, PREFIX, done, perform, steps, tell

config: DBOSConfig = {
    "name": "peer",
    "system_database_url": os.environ["PEER_DATABASE"],
    "kafka_queue_polling_interval_sec": 0.02,
    "run_admin_server": False,
}
DBOS(config=config)


@DBOS.step()
def attempt(step: dict) -> str:
    """One step."""
    return perform(step)


@DBOS.kafka_consumer(
    {"bootstrap.servers": BOOTSTRAP, "group.id": f"{PREFIX}-dbos", "auto.offset.reset": "earliest"},
    [f"{PREFIX}.commands.execute"],
)
@DBOS.workflow()
def run(message: KafkaMessage) -> None:
    """One command."""
    command = json.loads(message.value)
    for step in steps(command):
        attempt(step)
    tell(command["execution_id"])


if __name__ == "__main__":
    DBOS.launch()
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    print("ready", flush=True)
    over.wait()
    done()
    os._exit(0)
