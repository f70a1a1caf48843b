"""What a real API server refuses, and whether the error names the cause and the right remedy."""

from __future__ import annotations

import pytest

from consumer.errors import PermanentError, StepError
from consumer.ports import JsonObject
from tests.support.control_plane import Space
from tests.support.control_plane.kubectl import Object
from tests.support.control_plane.manifests import pod, workload
from tests.support.eventually import eventually
from tests.support.k8s_steps import Steps

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("played_pods")]


async def refusal(steps: Steps, config: JsonObject) -> StepError:
    """The error of a step that the server refuses."""
    with pytest.raises(PermanentError) as caught:
        await steps.run(config, name=f"step-{len(steps.records)}")
    return caught.value


def creation(manifest: Object) -> JsonObject:
    return {"action": "create", "manifest": manifest}


async def test_a_quota_is_named_and_no_right_is_asked_for(steps: Steps, space: Space) -> None:
    await space("create", "quota", "few", "--hard=count/configmaps=0")
    await eventually(lambda: space.field("quota/few", "status.hard"))
    manifest: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one-more"}}

    error = await refusal(steps, creation(manifest))

    assert error.code == "quota"
    assert "exceeded quota: few" in str(error) and "grant" not in str(error)


async def test_the_pod_security_level_of_a_namespace_is_named(steps: Steps, space: Space) -> None:
    await space.kubectl("label", "namespace", space.name, "pod-security.kubernetes.io/enforce=restricted")

    error = await refusal(steps, creation(pod("loose")))

    assert error.code == "pod_security"
    assert 'violates PodSecurity "restricted' in str(error) and "grant" not in str(error)


async def test_a_policy_of_the_cluster_is_named_and_a_secret_is_not_quoted(steps: Steps, space: Space) -> None:
    policy = f"no-{space.name}"
    version = "admissionregistration.k8s.io/v1"
    names: Object = {"name": policy}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets", "configmaps"]}
    quoting = "'not ' + object.metadata.name + (has(object.data) ? ' ' + object.data.password : '')"
    await space.kubectl.apply(
        {
            "apiVersion": version,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": names,
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "resourceRules": [rule],
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}},
                },
                "validations": [{"expression": "object.metadata.name == 'good'", "messageExpression": quoting}],
            },
        },
        {
            "apiVersion": version,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": names,
            "spec": {"policyName": policy, "validationActions": ["Deny"]},
        },
        namespace=space.name,
    )
    try:
        manifest: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad"}}

        async def is_in_force() -> bool:  # the API server learns of a policy in its own time
            return "denied" in await _tried(space, "create", "configmap", "probe", "--dry-run=server")

        await eventually(is_in_force)
        error = await refusal(steps, creation(manifest))
        assert error.code == "admission_denied" and "not bad" in str(error) and "grant" not in str(error)

        secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"password": "cHc="}}
        error = await refusal(steps, creation(secret))
        assert error.code == "admission_denied" and policy in str(error) and "cHc=" not in str(error)
    finally:
        await space.kubectl("delete", "validatingadmissionpolicies,validatingadmissionpolicybindings", policy)


async def _tried(space: Space, *arguments: str) -> str:
    """What kubectl says, be it an error."""
    try:
        return await space(*arguments)
    except Exception as error:
        return str(error)


async def test_a_webhook_that_does_not_answer_is_named_and_worth_another_try(steps: Steps, space: Space) -> None:
    await space.kubectl.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": space.name},
            "webhooks": [
                {
                    "name": "deaf.example.com",
                    "clientConfig": {"url": "https://127.0.0.1:1/"},
                    "rules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["configmaps"],
                        }
                    ],
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}},
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "timeoutSeconds": 2,
                }
            ],
        },
        namespace=space.name,
    )
    try:

        async def is_in_force() -> bool:
            return "deaf.example.com" in await _tried(space, "create", "configmap", "probe", "--dry-run=server")

        await eventually(is_in_force)
        with pytest.raises(StepError) as caught:
            await steps.run(creation({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}))
        assert caught.value.retryable and caught.value.code == "webhook_unavailable"
        assert "deaf.example.com" in str(caught.value)
    finally:
        await space.kubectl("delete", "validatingwebhookconfiguration", space.name)


async def test_a_missing_namespace_is_named_instead_of_the_object(steps: Steps, space: Space) -> None:
    manifest = pod("lost")
    manifest["metadata"]["namespace"] = f"{space.name}-absent"

    error = await refusal(steps, creation(manifest))

    assert error.code == "no_namespace"
    assert f"there is no namespace {space.name}-absent" in str(error)


async def test_a_field_that_can_not_be_changed_is_told_from_a_wrong_one(steps: Steps, space: Space) -> None:
    await space.apply(workload("Deployment", "web", replicas=1), workload("StatefulSet", "db", replicas=1))
    selector = {"spec": {"selector": {"matchLabels": {"app": "other"}}}}
    patch: JsonObject = {"action": "patch", "resource_type": "deployment", "name": "web", "data": selector}
    error = await refusal(steps, patch)
    assert error.code == "immutable" and "create it again" in str(error) and "spec.selector" in str(error)

    error = await refusal(
        steps, {**patch, "resource_type": "statefulset", "name": "db", "data": {"spec": {"serviceName": "x"}}}
    )
    assert error.code == "immutable"

    error = await refusal(steps, {**patch, "data": {"spec": {"replicas": -1}}})
    assert error.code == "invalid" and "must be greater than or equal to 0" in str(error)


async def test_a_limit_range_is_named_and_no_right_is_asked_for(steps: Steps, space: Space) -> None:
    limits: Object = {"limits": [{"type": "Container", "max": {"cpu": "100m"}}]}
    await space.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": limits})
    greedy = pod("greedy")
    greedy["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "2"}}

    error = await refusal(steps, creation(greedy))

    assert error.code == "admission_denied" and "maximum cpu usage" in str(error) and "grant" not in str(error)
