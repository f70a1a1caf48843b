"""A load of every kind of workflow, one agent, no faults: what the chaos suite asks after faults holds without them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import invariants, marks, reading, workload
from tests.support import processes
from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
PARTITIONS = 4
PATIENCE = 180.0


@pytest.fixture
def file() -> Iterator[Path]:
    """Where steps leave their marks; an agent of root gives its steps another user."""
    with tempfile.TemporaryDirectory(prefix="wpk-marks-") as directory:
        Path(directory).chmod(0o755)
        yield marks.prepare(Path(directory) / "marks")


async def test_a_load_of_every_kind_keeps_every_promise(apache_kafka: KafkaBroker, prefix: str, file: Path) -> None:
    variables = processes.environment(
        apache_kafka, prefix, WPK_PROCESSING_GUARANTEE="exactly_once", WPK_PARTITIONS=PARTITIONS
    )
    variables["PYTHONPATH"] += f":{marks.PLUGIN}"
    await processes.create_topics(variables)
    load = workload.Load(apache_kafka.bootstrap, prefix, partitions=PARTITIONS, seed=2, marks=file, pace=0.4)
    try:
        async with processes.agent(variables):
            load.start(rate=10.0, limit=50)
            await eventually(lambda: load.open() and not load.drawing, timeout=PATIENCE, because="all is sent")
            left = await asyncio.to_thread(load.settled, PATIENCE)
            assert not left, left
            history = await reading.read(
                apache_kafka.bootstrap, prefix, partitions=PARTITIONS, group=variables["WPK_GROUP_ID"]
            )
    finally:
        load.close()
    seen = marks.read(file)
    found = invariants.violations(history, seen, load.published, "exactly_once")
    assert found == [], "\n".join(map(str, found))
    assert len(load.published.plans) == 50
    assert len(seen) > 50
