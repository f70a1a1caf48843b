"""docs/security.md claims only what tests show, and its example is a policy."""

from __future__ import annotations

import re
from pathlib import Path

from consumer.policy import load
from consumer.policy.run import Decision, Run, Step

ROOT = Path(__file__).parents[2]


def test_each_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/security.md").read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 10
    assert {name for name in named if f"def {name}(" not in sources} == set()


def test_the_example_is_a_policy_that_does_what_its_comments_say() -> None:
    policy = load.load(ROOT / "examples/policies/team.policy.yaml")

    def may(run: Run, **facts: str | bool) -> bool:
        step = Step(name="s", adapter="k8s", facts=({"kind": "deployment", "namespace": "payments", **facts},))
        return policy.judge(run, step, final=True).decision is Decision.ALLOWED

    anybody, on_call = Run(workflow="w"), Run(workflow="w", requester="oncall-eva", signed_by=("release-2026",))
    assert may(anybody, action="get", changes=False, name="api")
    assert not may(anybody, action="restart", changes=True, name="api")
    assert may(on_call, action="restart", changes=True, name="api")
    assert not may(on_call, action="delete", changes=True, name="api")
    assert not may(on_call, action="restart", changes=True, name="ledger-db")
