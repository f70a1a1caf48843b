"""`wpk policy check`: the decision for each step, the rule, the exit code."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from consumer.cli import judging
from consumer.cli.options import PolicyCheckOptions

POLICY = """\
version: 1
rules:
  - name: shop-restarts
    effect: allow
    requesters: [alice]
    steps: {k8s: {actions: [restart], namespaces: [shop]}, delay: {}}
  - {name: no-secrets, effect: deny, reason: ask the vault team, steps: {k8s: {kinds: [secret]}}}
"""
PACKAGE = """\
metadata: {name: restart-web}
spec:
  parameters: {type: object, properties: {namespace: {type: string}}}
  handlers:
    - {name: wait, type: delay, config: {duration: 1s}}
    - {name: restart, type: k8s, config: {action: restart, name: deployment/web}}
    - {name: again, type: k8s, config: {action: restart, name: x, namespace: "${steps.restart.output.where}"}}
"""


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """The verb keeps logs off the screen, which is not to last for the tests after."""
    before, level = structlog.get_config(), logging.getLogger().level
    yield
    structlog.configure(**before)
    logging.getLogger().setLevel(level)


def ask(tmp_path: Path, *, package: str = PACKAGE, policy: str | None = POLICY, **more: object) -> int:
    (tmp_path / "policy.yaml").write_text(policy or "")
    (tmp_path / "it.wpk.yaml").write_text(package)
    chosen = str(tmp_path / "policy.yaml") if policy else "none"
    options = {"parameter": ["namespace=shop"], "requester": "alice", **more}
    return judging.check(PolicyCheckOptions(policy=chosen, file=str(tmp_path / "it.wpk.yaml"), **options))  # type: ignore[arg-type]


def test_it_says_for_each_step_what_is_decided_and_by_which_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "restart-web 0.0.0, asked for by alice, not signed by a key of the policy: may run"
    assert "wait     ✔ allowed  by shop-restarts" in lines[1]
    assert "restart  ✔ allowed  by shop-restarts" in lines[2]
    assert "namespace=shop" in lines[2]
    assert "again    … later    by shop-restarts" in lines[3]


def test_it_says_why_a_run_is_refused_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(tmp_path, requester="mallory") == 1
    out = capsys.readouterr().out
    assert "✘ refused  by no rule" in out
    assert "spec.handlers[0]: no rule of" in out and "asked for by mallory" in out


def test_the_reason_of_the_rule_that_denies_is_told_in_json_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = PACKAGE.replace("deployment/web", "secret/db")
    assert ask(tmp_path, package=package, json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["allowed"] is False
    step = told["steps"][1]
    assert (step["decision"], step["rules"]) == ("refused", ["no-secrets"])
    assert "ask the vault team" in step["reason"]


def test_the_policy_that_holds_without_a_file_can_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(tmp_path, policy=None) == 1
    assert "wait     ✔ allowed  by delay" in capsys.readouterr().out
