"""examples/consumers/follow.py as somebody starts it who has no code of ours."""

from __future__ import annotations

import asyncio
import sys

from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from tests.audit.trail import Trail, completed, lay_down, undone
from tests.support.kafka import KafkaBroker
from tests.support.processes import PATIENCE, ROOT, environment


async def test_the_example_consumer_follows_an_execution_to_its_end(embedded_kafka: KafkaBroker, prefix: str) -> None:
    connection = KafkaConnection(bootstrap_servers=embedded_kafka.bootstrap)
    variables = environment(embedded_kafka, prefix)
    stories = {"good": completed("good"), "bad": undone("bad")}
    await lay_down(connection, TopicNames(prefix), Trail.of([*stories.values(), completed("other")]))
    del variables["PYTHONPATH"]
    for name, code in (("good", 0), ("bad", 1)):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "examples" / "consumers" / "follow.py"),
            name,
            stdout=asyncio.subprocess.PIPE,
            env=variables,
            cwd="/",
        )
        async with asyncio.timeout(PATIENCE):
            told, _ = await process.communicate()
        lines = told.decode().splitlines()
        assert [line.split("  ")[1] for line in lines] == [each.event.name for each in stories[name]]
        assert process.returncode == code
