"""Each alert fires when it should and is quiet when it should be, by the code of Prometheus: promtool tests rules."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import prometheus
from tests.support.cache import Unavailable
from tests.support.require import require
from tests.watch import boards

pytestmark = pytest.mark.long

A, B = 'job="wpk-agent", instance="a"', 'job="wpk-agent", instance="b"'
UP = {f"up{{{A}}}": "1x120"}


@dataclass(frozen=True)
class Case:
    """Series by minutes, in promtool's notation, and what fires at that minute."""

    alert: str
    series: dict[str, str]
    at: str
    fires: list[str] = field(default_factory=list)
    """The labels of each alert that fires, without those that all have."""


OWNED_A, OWNED_B = f"wpk_owned_partitions{{{A}}}", f"wpk_owned_partitions{{{B}}}"
ALL_A, ALL_B = f"wpk_partitions{{{A}}}", f"wpk_partitions{{{B}}}"
LAG = f'wpk_consumer_lag{{{A}, topic="t", partition="%d"}}'
TAKEN = f'wpk_commands_total{{{A}, command="execute", outcome="accepted"}}'
BROKEN = f'workflow_failure_total{{{A}, workflow_name="w", error_type="timeout"}}'
WORKED = f'workflow_success_total{{{A}, workflow_name="w"}}'
ENDED = f'workflow_runs_total{{{A}, workflow_name="w", status="%s"}}'
DEAD = f'wpk_dead_letters_total{{{A}, reason="not_json"}}'
COMMIT = f'wpk_commit_seconds_bucket{{{A}, le="%s"}}'
HANG = f'wpk_hangs_total{{{A}, part="member"}}'
SENT = f'wpk_notices_total{{{A}, type="slack", outcome="%s"}}'
STARTED, BLOCKED = f"process_start_time_seconds{{{A}}}", f"wpk_event_loop_lag_seconds{{{A}}}"
SILENT, ASKED = f"wpk_execution_silence_seconds{{{A}}}", f"wpk_approval_wait_seconds{{{A}}}"
MENDED, STALE = f"wpk_recoveries_total{{{A}}}", f"wpk_policy_stale{{{A}}}"
ME = 'instance="a", job="wpk-agent"'

CASES = {
    "an agent does not answer": Case("WpkAgentDown", {f"up{{{A}}}": "1x5 0x10"}, "9m", [ME]),
    "an agent does not answer for a moment": Case("WpkAgentDown", {f"up{{{A}}}": "1x5 0 1x10"}, "7m"),
    "there is no agent": Case("WpkAgentDown", {'up{job="other"}': "1x10"}, "5m", ['job="wpk-agent"']),
    "agents answer": Case("WpkAgentDown", UP, "5m"),
    "nobody owns some partitions": Case(
        "WpkPartitionsWithoutOwner",
        {OWNED_A: "6x20", OWNED_B: "5x20", ALL_A: "12x20", ALL_B: "12x20"},
        "10m",
        [""],
    ),
    "agents share all partitions": Case(
        "WpkPartitionsWithoutOwner", {OWNED_A: "6x20", OWNED_B: "6x20", ALL_A: "12x20", ALL_B: "12x20"}, "10m"
    ),
    "a rebalance": Case("WpkPartitionsWithoutOwner", {OWNED_A: "12x5 0x2 12x10", ALL_A: "12x20"}, "8m"),
    "commands wait and none is taken": Case("WpkCommandsNotTaken", {LAG % 1: "3x40", TAKEN: "7x40"}, "30m", [""]),
    "commands wait and others are taken": Case("WpkCommandsNotTaken", {LAG % 1: "3x40", TAKEN: "7+1x40"}, "30m"),
    "no commands come": Case("WpkCommandsNotTaken", {LAG % 1: "0x40", TAKEN: "7x40"}, "30m"),
    "the lag of a topic is high": Case("WpkLagHigh", {LAG % 1: "300x30", LAG % 2: "300x30"}, "20m", ['topic="t"']),
    "the lag is high for a moment": Case("WpkLagHigh", {LAG % 1: "0x10 900x3 0x20"}, "20m"),
    "an execution is silent": Case("WpkExecutionStuck", {SILENT: "0+60x120"}, "70m", [ME]),
    "an execution speaks now and then": Case("WpkExecutionStuck", {SILENT: "0+60x50 0+60x50"}, "70m"),
    "an approval is waited for": Case("WpkApprovalWaiting", {ASKED: "0+600x60"}, "30m", [ME]),
    "an approval is waited for, for an hour": Case("WpkApprovalWaiting", {ASKED: "0+60x60"}, "59m"),
    "a workflow fails": Case("WpkWorkflowFailing", {BROKEN: "0x10 0+1x20"}, "20m", ['workflow_name="w"']),
    "a workflow fails since its first run": Case(
        "WpkWorkflowFailing", {BROKEN: "_x10 3x20"}, "20m", ['workflow_name="w"']
    ),
    "a workflow failed long ago": Case("WpkWorkflowFailing", {BROKEN: "_x10 3x120"}, "60m"),
    "a workflow fails now and then": Case("WpkWorkflowFailing", {BROKEN: "0+1x30", WORKED: "0+9x30"}, "25m"),
    "a workflow failed once": Case("WpkWorkflowFailing", {BROKEN: "0x10 1x20"}, "20m"),
    "a first rollback failed": Case(
        "WpkRollbackFailed", {ENDED % "rollback_failed": "_x5 1x50"}, "10m", ['workflow_name="w"']
    ),
    "one more rollback failed": Case(
        "WpkRollbackFailed", {ENDED % "rollback_failed": "4x70 5x50"}, "90m", ['workflow_name="w"']
    ),
    "a rollback failed yesterday": Case("WpkRollbackFailed", {ENDED % "rollback_failed": "_x5 1x200"}, "90m"),
    "rollbacks work": Case("WpkRollbackFailed", {ENDED % "rolled_back": "_x5 1+1x200"}, "60m"),
    "a dead letter": Case("WpkDeadLetters", {DEAD: "0x5 1x20"}, "8m", ['reason="not_json"']),
    "a dead letter of an hour ago": Case("WpkDeadLetters", {DEAD: "0x5 1x80"}, "70m"),
    "writes are slow": Case(
        "WpkWritesSlow", {COMMIT % "0.5": "0+1x30", COMMIT % "2.5": "0+9x30", COMMIT % "+Inf": "0+9x30"}, "20m", [""]
    ),
    "writes are quick": Case("WpkWritesSlow", {COMMIT % "0.5": "0+9x30", COMMIT % "+Inf": "0+9x30"}, "20m"),
    "writes fail again and again": Case("WpkWritesFailing", {MENDED: "0+1x30"}, "20m", [ME]),
    "a write failed": Case("WpkWritesFailing", {MENDED: "0x5 1x30"}, "10m"),
    "a part hangs": Case("WpkAgentHangs", {HANG: "0x5 1x30"}, "10m", [f'{ME}, part="member"']),
    "nothing hangs": Case("WpkAgentHangs", {HANG: "1x30"}, "20m"),
    "an agent is started again and again": Case("WpkAgentRestarts", {STARTED: "0+60x30"}, "20m", [ME]),
    "an agent is rolled out": Case("WpkAgentRestarts", {STARTED: "0x10 700x30"}, "20m"),
    "the loop stands still": Case("WpkEventLoopBlocked", {BLOCKED: "0x5 8x10"}, "8m", [ME]),
    "the loop turns": Case("WpkEventLoopBlocked", {BLOCKED: "0.2x20"}, "8m"),
    "the policy's file is broken": Case("WpkPolicyStale", {STALE: "1x20"}, "10m", [ME]),
    "the policy's file is used": Case("WpkPolicyStale", {STALE: "0x20"}, "10m"),
    "a first notice was given up": Case(
        "WpkNoticesFailing", {SENT % "failed": "_x5 1x20"}, "10m", ['type="slack"']
    ),
    "notices arrive": Case("WpkNoticesFailing", {SENT % "sent": "_x5 1+1x20"}, "10m"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    try:
        prometheus.programs()
    except Unavailable as error:
        require(False, f"there is no Prometheus: {error}")
        raise


def test_prometheus_takes_the_rules() -> None:
    code, said = prometheus.promtool("check", "rules", str(boards.RULES))
    assert (code, f"{len(boards.rules())} rules found" in said) == (0, True), said


def test_each_alert_is_shown_to_fire_and_to_be_quiet() -> None:
    shown = {(case.alert, bool(case.fires)) for case in CASES.values()}
    assert shown == {(rule["alert"], fires) for rule in boards.rules() for fires in (True, False)}


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    severities = {rule["alert"]: rule["labels"]["severity"] for rule in boards.rules()}
    tests = []
    for name, case in CASES.items():
        own = f'alertname="{case.alert}", alertstate="firing", severity="{severities[case.alert]}"'
        labels = [", ".join(filter(None, (own, each))) for each in case.fires]
        tests.append(
            {
                "name": name,
                "interval": "1m",
                "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'ALERTS{{alertname="{case.alert}", alertstate="firing"}}',
                        "eval_time": case.at,
                        "exp_samples": [{"labels": f"ALERTS{{{each}}}", "value": 1} for each in labels],
                    }
                ],
            }
        )
    path = tmp_path / "rules.test.yml"
    content = {"rule_files": [str(boards.RULES)], "evaluation_interval": "1m", "tests": tests}
    path.write_text(json.dumps(content))
    code, said = prometheus.promtool("test", "rules", str(path))
    assert code == 0, said
