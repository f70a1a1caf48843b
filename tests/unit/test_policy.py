"""The policy's decision table: each kind of rule allowed and refused, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.adapters.api import facts as api_facts
from consumer.adapters.k8s import config as configs
from consumer.adapters.k8s import facts as k8s_facts
from consumer.adapters.shell import facts as shell_facts
from consumer.policy import load, steering
from consumer.policy.judge import Policy
from consumer.policy.run import Decision, Run, Step, Verdict
from consumer.policy.steering import Sender
from consumer.ports import JsonObject
from consumer.workflow.documents import DocumentError
from consumer.workflow.facts import ANYTHING, Called
from consumer.workflow.scope import UNKNOWN, ExecutionScope
from schemas.wpk import WorkflowPackage

FACTS = {
    "k8s": k8s_facts.of,
    "api": api_facts.of,
    "shell": lambda config, scope: [shell_facts.of(config, scope)],
}


def scope(**parameters: Any) -> ExecutionScope:
    return ExecutionScope(
        parameters=parameters,
        execution_id="e1",
        workflow="w",
        attempt=1,
        outputs={"before": UNKNOWN},
        secrets=UNKNOWN,
    )


def step(adapter: str, secrets: tuple[str, ...] = (), /, _scope: ExecutionScope | None = None, **config: Any) -> Step:
    tell = FACTS.get(adapter, lambda config, scope: [{}])
    return Step(name="it", adapter=adapter, facts=tell(config, _scope or scope()), secrets=frozenset(secrets))


def policy(text: str) -> Policy:
    return load.parse("version: 1\n" + text, "p.yaml")


def allow(conditions: str) -> Policy:
    return policy("rules:\n  - {name: r, effect: allow, " + conditions + "}")


def judged(by: Policy, what: Step, run: Run | None = None, *, final: bool = True) -> Verdict:
    return by.judge(run or Run(workflow="w", requester="alice"), what, final=final)


RESTART = {"action": "restart", "name": "deployment/api", "namespace": "shop"}
IN_SHOP = "steps: {k8s: {namespaces: [shop, 'shop-*']}}"


def placed(namespace: str) -> JsonObject:
    """A manifest that says its namespace."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": "flags"}}


TO_API = "steps: {api: {hosts: ['*.example.com'], methods: [GET], ports: [443]}}"
GET = {"url": "https://a.example.com/x"}
DF = "steps: {shell: {programs: [df], network: false}}"

MAP = {"apiVersion": "v1", "kind": "ConfigMap"}

#: conditions, adapter, config, whether it is allowed
TABLE: list[tuple[str, str, dict[str, Any], bool]] = [
    ("steps: {delay: {}}", "delay", {"duration": "1s"}, True),
    ("steps: {delay: {}}", "k8s", RESTART, False),
    ("steps: {'*': {}}", "plugged", {}, True),
    # Kubernetes
    (IN_SHOP, "k8s", RESTART, True),
    (IN_SHOP, "k8s", {**RESTART, "namespace": "shop-eu"}, True),
    (IN_SHOP, "k8s", {**RESTART, "namespace": "shopping"}, False),
    (IN_SHOP, "k8s", {"action": "restart", "name": "api"}, False),  # the connection's namespace is not known here
    (IN_SHOP, "k8s", {"action": "drain", "name": "n1", "namespace": "shop"}, False),  # a node is in no namespace
    (IN_SHOP, "k8s", {"action": "get", "name": "clusterissuer/x", "namespace": "shop"}, False),  # nor may this be
    ("steps: {k8s: {actions: [restart, scale]}}", "k8s", RESTART, True),
    ("steps: {k8s: {actions: [restart, scale]}}", "k8s", {**RESTART, "action": "delete"}, False),
    ("steps: {k8s: {kinds: [Deployment]}}", "k8s", {**RESTART, "name": "deploy/api"}, True),
    ("steps: {k8s: {kinds: [deployment]}}", "k8s", {**RESTART, "name": "sts/api"}, False),
    ("steps: {k8s: {kinds: [deployment]}}", "k8s", {**RESTART, "name": "api"}, True),
    ("steps: {k8s: {names: [api]}}", "k8s", {**RESTART, "name": "deployment/api"}, True),
    ("steps: {k8s: {names: [api]}}", "k8s", {"action": "restart", "selector": "app=api", "namespace": "shop"}, False),
    ("steps: {k8s: {changes: false}}", "k8s", {**RESTART, "action": "get"}, True),
    ("steps: {k8s: {changes: false}}", "k8s", RESTART, False),
    (IN_SHOP, "k8s", {"action": "metrics", "namespace": "shop"}, True),
    (IN_SHOP, "k8s", {"action": "metrics", "namespace": "shop", "query": "up"}, False),  # of all namespaces
    (
        IN_SHOP,
        "k8s",
        {"action": "create", "manifest": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "shop"}}},
        True,
    ),
    (
        IN_SHOP,
        "k8s",
        {"action": "create", "namespace": "shop", "manifest": {"apiVersion": "v1", "kind": "Namespace"}},
        False,
    ),
    (IN_SHOP, "k8s", {"action": "apply", "manifest": placed("shop")}, True),
    (IN_SHOP, "k8s", {"action": "apply", "manifest": [placed("shop"), placed("shop")]}, True),
    (IN_SHOP, "k8s", {"action": "apply", "manifest": [placed("shop"), placed("bank")]}, False),
    (IN_SHOP, "k8s", {"action": "apply", "namespace": "shop", "manifest": ["nonsense"]}, False),
    (IN_SHOP, "k8s", {"action": "apply", "manifest": {**MAP, "metadata": {"namespace": "shop"}}}, True),
    (IN_SHOP, "k8s", {"action": "apply", "namespace": "shop", "manifest": [MAP, MAP]}, True),
    (
        IN_SHOP,
        "k8s",
        {"action": "apply", "namespace": "shop", "manifest": [MAP, {**MAP, "metadata": {"namespace": "prod"}}]},
        False,
    ),
    ("steps: {k8s: {kinds: [configmap]}}", "k8s", {"action": "apply", "manifest": [MAP, {"kind": "Secret"}]}, False),
    # HTTP
    (TO_API, "api", GET, True),
    (TO_API, "api", {"url": "https://A.Example.COM./x"}, True),
    (TO_API, "api", {**GET, "method": "POST"}, False),
    (TO_API, "api", {"url": "https://a.example.com:8443/"}, False),
    (TO_API, "api", {"url": "https://example.com.evil.net/"}, False),
    (TO_API, "api", {"url": "https://a.example.com@evil.net/"}, False),
    (TO_API, "api", {**GET, "follow_redirects": True}, False),  # it may be sent anywhere
    ("steps: {api: {hosts: ['*']}}", "api", {**GET, "follow_redirects": True}, True),
    # Commands
    (DF, "shell", {"args": ["df", "-h"]}, True),
    (DF, "shell", {"args": ["rm", "-rf", "/"]}, False),
    (DF, "shell", {"args": ["DF"]}, False),
    (DF, "shell", {"args": ["df"], "network": True}, False),
    (DF, "shell", {"command": "df; rm -rf /"}, False),
    ("steps: {shell: {commands: ['df ${path}']}}", "shell", {"command": "df ${path}"}, True),
    ("steps: {shell: {commands: ['df *']}}", "shell", {"command": "df x; rm -rf /"}, False),
]


@pytest.mark.parametrize(("conditions", "adapter", "config", "allowed"), TABLE)
def test_a_rule_allows_what_fits_all_its_conditions_and_nothing_else(
    conditions: str, adapter: str, config: dict[str, Any], allowed: bool
) -> None:
    verdict = judged(allow(conditions), step(adapter, **config))
    assert (verdict.decision is Decision.ALLOWED) is allowed
    assert verdict.rules == (("r",) if allowed else ())
    assert allowed or "no rule of p.yaml allows the step it" in verdict.message


RUNS: list[tuple[str, Run, bool]] = [
    ("workflows: restart-*", Run(workflow="restart-api"), True),
    ("workflows: restart-*", Run(workflow="drop-restart"), False),
    ("workflows: '[r]estart'", Run(workflow="restart"), False),  # brackets are no pattern
    ("requesters: [alice]", Run(workflow="w", requester="alice"), True),
    ("requesters: [alice]", Run(workflow="w", requester="Alice"), False),
    ("requesters: [alice]", Run(workflow="w"), False),
    ("tags: [prod]", Run(workflow="w", tags=("a", "prod")), True),
    ("tags: [prod]", Run(workflow="w"), False),
    ("labels: {team: pay*}", Run(workflow="w", labels={"team": "payments"}), True),
    ("labels: {team: pay*}", Run(workflow="w", labels={"teams": "payments"}), False),
    ("dry_run: true", Run(workflow="w", dry_run=True), True),
    ("dry_run: true", Run(workflow="w"), False),
    ("signed_by: [release]", Run(workflow="w", signed_by=("release",)), True),
    ("signed_by: ['*']", Run(workflow="w"), False),
    ("when: 'request.labels.team == \"a\"'", Run(workflow="w", labels={"team": "a"}), True),
    ("when: 'request.labels.team == \"a\"'", Run(workflow="w"), False),  # it can't be evaluated: closed
]


@pytest.mark.parametrize(("condition", "run", "allowed"), RUNS)
def test_a_rule_is_about_the_runs_that_it_names(condition: str, run: Run, allowed: bool) -> None:
    assert (judged(allow(condition), step("delay"), run).decision is Decision.ALLOWED) is allowed


DENIED: list[tuple[str, str, dict[str, Any], bool]] = [
    ("steps: {k8s: {kinds: [secret]}}", "k8s", {"action": "get", "name": "secrets/x"}, True),
    ("steps: {k8s: {kinds: [secret]}}", "k8s", RESTART, False),
    ("steps: {k8s: {kinds: [role]}}", "k8s", {"action": "delete", "name": "roles.v1.rbac/x"}, True),  # by another name
    ("steps: {k8s: {names: [api]}}", "k8s", {"action": "restart", "selector": "app=api"}, True),  # it may be meant
    ("steps: {shell: {programs: [curl]}}", "shell", {"command": "true"}, True),  # nobody knows what a script runs
    ("steps: {shell: {programs: [curl]}}", "shell", {"args": ["df"]}, False),
    ("steps: {api: {hosts: [evil.net]}}", "api", {**GET, "follow_redirects": True}, True),
    ("when: 'step.namespace.startsWith(\"kube-\")'", "k8s", {"action": "restart", "name": "x"}, True),
    ("when: 'step.namespace.startsWith(\"kube-\")'", "delay", {}, False),  # a delay has no namespace
]


@pytest.mark.parametrize(("conditions", "adapter", "config", "denied"), DENIED)
def test_a_rule_that_denies_outweighs_and_counts_what_it_may_mean(
    conditions: str, adapter: str, config: dict[str, Any], denied: bool
) -> None:
    rules = policy(
        "rules:\n  - {name: all, effect: allow}\n  - {name: never, effect: deny, reason: not here, " + conditions + "}"
    )
    verdict = judged(rules, step(adapter, **config))
    assert (verdict.decision is Decision.REFUSED) is denied
    assert not denied or ("the rule never of p.yaml denies" in verdict.message and "not here" in verdict.message)


def test_the_order_of_rules_means_nothing() -> None:
    rules = ["  - {name: ever, effect: allow}", "  - {name: never, effect: deny, steps: {delay: {}}}"]
    for order in (rules, rules[::-1]):
        assert judged(policy("rules:\n" + "\n".join(order)), step("delay")).rules == ("never",)


def test_what_is_not_known_yet_is_decided_when_it_is() -> None:
    rules = allow(IN_SHOP)
    early = step("k8s", action="restart", name="api", namespace="${steps.before.output.ns}")
    assert judged(rules, early, final=False).decision is Decision.LATER
    assert judged(rules, early, final=True).decision is Decision.REFUSED
    denies = policy(
        "rules:\n  - {name: all, effect: allow}\n  - {name: never, effect: deny, steps: {k8s: {namespaces: prod}}}"
    )
    assert judged(denies, early, final=False).decision is Decision.LATER
    assert judged(denies, early, final=True).decision is Decision.REFUSED
    known = step("k8s", _scope=scope(ns="shop"), action="restart", name="api", namespace="${ns}")
    assert judged(rules, known, final=False).decision is Decision.ALLOWED


def test_who_is_refused_learns_which_rule_allows_such_steps_to_others() -> None:
    rules = allow(f"requesters: [bob], signed_by: [release], {IN_SHOP}")
    assert "such steps are allowed by r, but to other runs" in judged(rules, step("k8s", **RESTART)).message
    assert "such steps" not in judged(rules, step("delay")).message


def test_a_secret_must_be_named_by_a_rule_that_allows_the_step() -> None:
    rules = policy(
        "rules:\n"
        "  - {name: api, effect: allow, steps: {api: {}}, secrets: [TOKEN]}\n"
        "  - {name: df, effect: allow, steps: {shell: {}}}\n"
    )
    assert judged(rules, step("api", ("TOKEN",), **GET)).decision is Decision.ALLOWED
    assert "the secret DB" in judged(rules, step("api", ("DB", "TOKEN"), **GET)).message
    assert judged(rules, step("shell", ("TOKEN",), args=["df"])).decision is Decision.REFUSED


def test_a_secret_can_be_denied() -> None:
    rules = policy(
        "rules:\n  - {name: all, effect: allow, secrets: '*'}\n  - {name: never, effect: deny, secrets: PROD_*}\n"
    )
    assert judged(rules, step("api", ("TOKEN",), **GET)).decision is Decision.ALLOWED
    assert judged(rules, step("api", ("PROD_DB",), **GET)).rules == ("never",)


def test_without_a_file_only_what_changes_nothing_runs() -> None:
    by = load.policy_of(None)
    assert judged(by, step("delay")).decision is Decision.ALLOWED
    assert judged(by, step("k8s", action="get", name="deployment/api")).decision is Decision.ALLOWED
    for adapter, config in (
        ("k8s", RESTART),
        ("k8s", {"action": "get", "name": "secret/db"}),
        ("k8s", {"action": "get", "name": "secrets.v1/db"}),
        ("api", GET),
        ("shell", {"args": ["true"]}),
        ("plugged", {}),
    ):
        verdict = judged(by, step(adapter, **config))
        assert verdict.decision is Decision.REFUSED
        assert "WPK_POLICY_FILE is not set" in verdict.message


def package(**more: Any) -> WorkflowPackage:
    handlers = [{"name": "s", "type": "delay", "config": {"duration": "0s"}}]
    return WorkflowPackage.model_validate({"metadata": {"name": "w"}, "spec": {"handlers": handlers, **more}})


def test_requirements_that_apply_hold_together() -> None:
    by = policy(
        "requirements:\n"
        "  - {name: signed, workflows: prod-*, signature: required, signers: [release]}\n"
        "  - {name: manual, auto: false}\n"
        "  - {name: small, limits: {max_steps: 1, max_replicas: 5}}\n"
        "  - {name: smaller, labels: {env: test}, limits: {max_replicas: 2}, approval: required, approvers: [bob]}\n"
    )
    assert by.unmet(Run(workflow="w"), package()) == []
    unsigned = by.unmet(Run(workflow="prod-x", signed_by=("dev",)), package())
    assert [problem.path for problem in unsigned] == ["metadata.signature"]
    assert "release" in unsigned[0].message and "dev" in unsigned[0].message
    assert by.unmet(Run(workflow="prod-x", signed_by=("release",)), package()) == []
    assert [problem.path for problem in by.unmet(Run(workflow="w", mode="auto"), package())] == ["spec.safety.mode"]
    two = {"handlers": [{"name": name, "type": "delay", "config": {"duration": "0s"}} for name in "ab"]}
    assert [problem.path for problem in by.unmet(Run(workflow="w"), package(**two))] == ["spec.handlers"]
    test = Run(workflow="w", labels={"env": "test"})
    own = package(validation={"resource_limits": {"max_replicas": 9, "max_pods": 3}})
    assert by.limits(test, own).max_replicas == 2
    assert (by.limits(Run(workflow="w"), own).max_replicas, by.limits(Run(workflow="w"), own).max_pods) == (5, 3)
    assert by.must_wait(test) and not by.must_wait(Run(workflow="w"))
    assert steering.refusal(by, test, "approve", Sender(name="bob")) is None
    assert "carol may not approve it" in str(steering.refusal(by, test, "approve", Sender(name="carol")))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rules: [{name: a, effect: allow, step: {}}]", "unknown field"),
        ("rules: [{name: a, effect: permit}]", "none of: allow or deny"),
        ("rules: [{name: a, effect: allow, steps: {k8s: {namespace: x}}}]", 'did you mean "namespaces"'),
        ("rules: [{name: a, effect: deny, steps: {k8s: }}]", "k8s has no value"),
        ("rules: [{name: a, effect: allow, workflows: }]", "workflows has no value"),
        ("rules: [{name: a, effect: allow}, {name: a, effect: deny}]", "have the name a"),
        ("rules: [{name: a, effect: allow, when: 'x == 1'}]", 'there is no "x" here'),
        ("rules: [{name: a, effect: allow, when: '1 +'}]", "when"),
        ("requirements: [{name: a, when: 'step.name == \"x\"'}]", 'there is no "step" here'),
        ("keys: [{name: a, public_key: nonsense}]", "no public key in PEM"),
    ],
)
def test_a_policy_that_can_not_be_meant_is_refused_with_its_line(text: str, told: str) -> None:
    with pytest.raises(DocumentError) as caught:
        policy(text)
    assert told in str(caught.value)
    assert caught.value.problems[0].line is not None


def test_every_action_of_kubernetes_is_known_as_one_that_changes_or_only_reads() -> None:
    assert set(configs.MODELS) - k8s_facts.READS == {
        *("annotate", "apply", "cordon", "create", "delete", "drain", "job", "label", "patch"),
        *("restart", "rollback", "scale", "uncordon"),
    }


def test_a_fact_that_nobody_can_tell_is_not_shown_to_conditions() -> None:
    shown = Step(name="s", adapter="k8s").variables({"kind": Called("role"), "name": ANYTHING, "action": "get"})
    assert shown == {"name": "s", "adapter": "k8s", "phase": "run", "secrets": [], "action": "get"}
