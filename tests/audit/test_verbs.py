"""`wpk audit …` and `wpk explain` as a user starts them, on a trail in a real broker."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from consumer.audit.columns import EVENTS, EXECUTIONS
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from schemas import events
from schemas.events import Source
from tests.audit.trail import Trail, completed, fields, lay_down, undone
from tests.support.kafka import KafkaBroker
from tests.support.processes import environment, wpk
from tests.support.stories import Story

pytestmark = [pytest.mark.timeout(240), pytest.mark.long]

Variables = dict[str, str]


def payments(name: str = "pay-1") -> Story:
    """Alice restarts payments/api, Bob approves; a check fails, and the restart is undone."""
    config = {"action": "restart", "namespace": "${namespace}", "name": "api"}
    handler = {"name": "restart", "type": "k8s", "config": config}
    package = {"metadata": {"name": "restart", "version": "2.0.0"}, "spec": {"handlers": [handler]}}
    story = Story(name, workflow_id="restart-2.0.0").tell(
        events.ExecutionAccepted(
            workflow_name="restart",
            command={"wpk_content": package, "parameters": {"namespace": "payments"}},  # type: ignore[dict-item]
            command_digest="sha256:0",
            requested_by="alice",
            labels={"incident": "4711"},
            source=Source(topic="wpk.commands.execute", partition=0, offset=0),
        ),
        events.ExecutionAwaitingApproval(),
    )
    story.tell(events.ExecutionApproved(approved_by="bob", reason="go ahead"), after=60).started("restart", "verify")
    story.step_started("restart")
    story.tell(
        events.StepCaptured(step="restart", adapter="k8s", attempt=1, summary="deployment payments/api: revision 41")
    )
    story.step_succeeded("restart", duration=4).step_started("verify")
    story.said("verify", "pod api-1: ImagePullBackOff", stream="stderr").step_failed("verify", "1 of 3 pods not ready")
    failed = {**fields(story), "error_message": "verify: 1 of 3 pods not ready", "rollback_follows": True}
    story.tell(events.ExecutionFailed.model_validate(failed)).rolling_back("restart")
    story.step_started("restart", phase="rollback").step_succeeded(
        "restart", phase="rollback", output={"restored": ["revision 41"]}
    )
    return story.tell(events.ExecutionRolledBack.model_validate(fields(story)))


@pytest.fixture
def variables(embedded_kafka: KafkaBroker, prefix: str) -> Variables:
    return environment(embedded_kafka, prefix)


@pytest.fixture
async def served(embedded_kafka: KafkaBroker, prefix: str, variables: Variables) -> AsyncIterator[Variables]:
    """The environment of a trail of four executions."""
    connection = KafkaConnection(bootstrap_servers=embedded_kafka.bootstrap)
    stories = [completed("good-1"), completed("good-2"), undone("undone-1"), payments()]
    await lay_down(connection, TopicNames(prefix), Trail.of(stories))
    yield variables


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def documents(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


async def test_a_whole_trail_verifies_and_a_broken_one_names_the_record(
    served: Variables, embedded_kafka: KafkaBroker, prefix: str
) -> None:
    done = await wpk(served, "audit", "verify")
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("✔ 4 executions verify, ")
    trail = Trail.of([completed("bad-1"), completed("good-3")])
    row, index = trail.find("bad-1", "step.retrying")
    row.pop(index)
    await lay_down(KafkaConnection(bootstrap_servers=embedded_kafka.bootstrap), TopicNames(prefix), trail)
    done = await wpk(served, "audit", "verify")
    assert done.code == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "✘ 1 execution does not verify"
    assert lines[1].startswith(f"  bad-1  missing  seq 7 is missing between {prefix}.events.progress-")
    assert lines[2].startswith("  5 executions verify")
    found = documents((await wpk(served, "audit", "verify", "--json", "--id", "bad-1")).stdout)
    assert (found[0]["kind"], found[0]["seq"], found[0]["topic"]) == ("missing", 7, f"{prefix}.events.progress")
    assert (found[-1]["verified"], found[-1]["executions"]) == (False, 1)
    assert (await wpk(served, "audit", "verify", "--id", "good-3")).code == 0


async def test_who_restarted_payments_and_why_is_one_line(served: Variables) -> None:
    done = await wpk(served, "audit", "replay", "--executions", "--target", "Payments/API")
    assert done.code == 0, done.stderr
    head, row = done.stdout.splitlines()
    assert head.split() == ["ACCEPTED", "EXECUTION", "WORKFLOW", "TARGET", "STATUS", "BY", "WHY"]
    for word in (
        "2026-03-01 12:00:00",
        "pay-1",
        "restart-2.0.0",
        "payments/api",
        "rolled_back",
        "alice, bob",
        "1 of 3 pods",
    ):
        assert word in row
    by_bob = documents((await wpk(served, "audit", "replay", "--executions", "--requester", "bob", "--json")).stdout)
    assert [(each["execution_id"], each["approved_by"], each["status"]) for each in by_bob] == [
        ("pay-1", "bob", "rolled_back")
    ]


async def test_the_events_are_told_in_sequence_and_filtered(served: Variables) -> None:
    done = await wpk(served, "audit", "replay", "--status", "rolled-back", "--json")
    told = documents(done.stdout)
    assert {event["subject"] for event in told} == {"undone-1", "pay-1"}
    mine = [event["data"]["seq"] for event in told if event["subject"] == "pay-1"]
    assert mine == list(range(1, len(payments().told) + 1))
    text = (await wpk(served, "audit", "replay", "--workflow", "restart")).stdout
    assert "execution.approved  by bob  go ahead" in text
    assert "good-1" not in text
    none = await wpk(served, "audit", "replay", "--to", "2020-01-01", "--executions")
    assert none.stdout == "no such executions in the trail\n"


async def test_the_list_tells_what_is_stuck(embedded_kafka: KafkaBroker, prefix: str, variables: Variables) -> None:
    hour = datetime.now(UTC) - timedelta(hours=1)
    stories = [
        Story("stuck", now=hour).accepted().started("one").step_started("one"),
        Story("ended", now=hour).accepted().completed(),
        Story("heard-of", now=datetime.now(UTC)).accepted().started("one").step_started("one"),
    ]
    await lay_down(KafkaConnection(bootstrap_servers=embedded_kafka.bootstrap), TopicNames(prefix), Trail.of(stories))
    listed = documents((await wpk(variables, "list", "--stuck", "--json")).stdout)
    assert [each["execution_id"] for each in listed] == ["stuck"]
    assert documents((await wpk(variables, "list", "--stuck", "--stuck-after", "2h", "--json")).stdout) == []
    wrong = await wpk(variables, "list", "--stuck", "--stuck-after", "soon")
    assert (wrong.code, "--stuck-after" in wrong.stderr) == (2, True)


async def test_the_export_has_the_documented_columns_in_every_format(served: Variables, tmp_path: Path) -> None:
    total = sum(len(story.told) for story in (completed("a"), completed("b"), undone("c"), payments()))
    lines = documents((await wpk(served, "audit", "export")).stdout)
    assert len(lines) == total
    assert all(list(row) == list(EVENTS) for row in lines)
    file = tmp_path / "trail.csv"
    done = await wpk(served, "audit", "export", "-o", str(file), "--workflow", "restart")
    assert done.code == 0, done.stderr
    assert done.stderr == f"{len(payments().told)} events in {file}\n"
    rows = list(csv.DictReader(io.StringIO(file.read_text(), newline="")))
    assert list(rows[0]) == list(EVENTS)
    assert [row["seq"] for row in rows] == [str(told.event.data.seq) for told in payments()]
    assert json.loads(rows[0]["data"])["requested_by"] == "alice"
    assert names_in(tmp_path) == ["trail.csv"]
    executions = documents((await wpk(served, "audit", "export", "--table", "executions")).stdout)
    assert [list(row) for row in executions] == [list(EXECUTIONS)] * 4
    wrong = await wpk(served, "audit", "export", "--format", "parquet")
    assert (wrong.code, "needs a file" in wrong.stderr) == (2, True)


async def test_the_parquet_file_has_typed_columns(served: Variables, tmp_path: Path) -> None:
    file = tmp_path / "trail.parquet"
    done = await wpk(served, "audit", "export", "-o", str(file))
    try:
        from pyarrow import parquet  # type: ignore[import-not-found]  # noqa: PLC0415 - an extra
    except ImportError:
        assert done.code == 2
        assert "pip install 'wpk-agent[parquet]'" in done.stderr
        assert names_in(tmp_path) == []
        return
    assert done.code == 0, done.stderr
    table = parquet.read_table(file)
    assert table.column_names == list(EVENTS)
    assert str(table.schema.field("seq").type) == "int64"
    assert table.num_rows == sum(len(story.told) for story in (completed("a"), completed("b"), undone("c"), payments()))


@pytest.mark.parametrize("name", ["trail.parquet", "trail.csv", "trail.jsonl"])
async def test_an_export_that_fails_says_why_and_leaves_no_file(served: Variables, tmp_path: Path, name: str) -> None:
    nobody = {**served, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    done = await wpk(nobody, "audit", "export", "-o", str(tmp_path / name))
    assert done.code == 3, done.stderr
    assert done.stderr.startswith("cannot reach Kafka at 127.0.0.1:1")
    assert names_in(tmp_path) == []


async def test_a_timeline_shows_waits_attempts_and_the_rollback_as_text_and_as_a_picture(
    served: Variables, tmp_path: Path
) -> None:
    done = await wpk(served, "audit", "timeline", "pay-1")
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("restart 2.0.0   execution pay-1")
    assert "█" in next(line for line in lines if line.startswith("  restart "))
    assert "·" in next(line for line in lines if line.startswith("  approval "))
    assert any(line.startswith("  ↶ restart ") for line in lines)
    assert "1 of 3 pods not ready" in done.stdout
    file = tmp_path / "pay.svg"
    assert (await wpk(served, "audit", "timeline", "pay-1", "--svg", str(file))).code == 0
    root = ET.fromstring(file.read_text(encoding="utf-8"))
    tooltips = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any(text.startswith("verify: 1 of 3 pods not ready") for text in tooltips)
    assert any(text.startswith("approval: approved by bob") for text in tooltips)


async def test_an_explanation_says_who_what_where_why_and_what_is_left(served: Variables) -> None:
    done = await wpk(served, "explain", "pay-1")
    assert done.code == 0, done.stderr
    words = [line.strip().partition("  ") for line in done.stdout.splitlines()]
    told = {about.strip(): text.strip() for about, _, text in words}
    assert done.stdout.startswith("restart 2.0.0  rolled back")
    assert told["asked by"].startswith("alice at 2026-03-01T12:00:00.000Z (labels incident=4711)")
    assert told["approved"].endswith(": go ahead")
    assert told["works on"].startswith("payments/api")
    assert told["changed"] == "deployment payments/api: revision 41  by restart"
    assert told["failed"] == "verify: 1 of 3 pods not ready"
    assert "the image can't be pulled" in told["likely why"]
    assert "restart: revision 41" in done.stdout
    assert told["left"].startswith("nothing")
    assert told["trail"].startswith(f"{len(payments().told)} events, chain intact, ")
    unknown = await wpk(served, "explain", "nobody")
    assert (unknown.code, "is not known" in unknown.stderr) == (2, True)
