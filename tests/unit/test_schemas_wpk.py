"""Packages: the format page's own example, the defaults, unknown fields, and every error at once."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.commands import ControlCommand, ExecuteCommand, RollbackCommand
from schemas.problems import problems_of
from schemas.wpk import WorkflowPackage, unknown_fields

EXAMPLE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "WorkflowPackage",
    "metadata": {
        "name": "restart-unhealthy",
        "version": "1.0.0",
        "description": "Restarts what is not healthy",
        "author": "ops",
        "created": "2024-01-15T10:00:00Z",
        "tags": ["kubernetes", "restart"],
        "signature": "",
    },
    "spec": {
        "runtime": {
            "type": "k8s",
            "version": "1.28+",
            "requirements": {"cpu": "100m", "memory": "128Mi", "storage": "1Gi"},
        },
        "safety": {"mode": "manual", "approval_required": True, "dry_run_required": True, "rollback_enabled": True},
        "triggers": [{"type": "event", "config": {"any": "thing"}}],
        "parameters": {"type": "object", "properties": {"namespace": {"type": "string", "default": "default"}}},
        "handlers": [
            {
                "name": "restart-deployment",
                "type": "k8s",
                "config": {"action": "restart"},
                "timeout": "120s",
                "retry": {"max_attempts": 3, "backoff": "5s"},
                "needs": ["collect-logs"],
                "when": "steps.check.output.replicas < 3",
                "on_failure": "stop",
                "on_interrupt": "retry",
            },
            {"name": "collect-logs", "type": "k8s", "config": {}},
        ],
        "rollback": {"enabled": True, "handlers": [{"name": "undo", "type": "k8s", "config": {}}]},
        "outputs": {"replicas": "${steps.scale-deployment.output.replicas}"},
        "validation": {
            "schema_version": "v1",
            "required_permissions": ["pods/log", "deployments/patch"],
            "resource_limits": {"max_pods": 10, "max_namespaces": 5, "max_replicas": 20},
        },
        "monitoring": {
            "metrics_enabled": True,
            "logging_level": "info",
            "alerts": [
                {"type": "slack", "webhook": "${SLACK_WEBHOOK_URL}", "on_failure": True},
                {"type": "email", "recipients": ["oncall@example.com"], "on_failure": True},
                {"type": "webhook", "url": "https://example.com", "on_success": True},
            ],
        },
    },
}


def test_everything_that_the_format_page_shows_is_accepted_and_known() -> None:
    package = WorkflowPackage.model_validate(EXAMPLE)

    assert list(unknown_fields(package)) == []
    assert package.workflow_id == "restart-unhealthy-1.0.0"
    first = package.spec.handlers[0]
    assert (first.timeout, first.retry.backoff, first.retry.multiplier, first.retry.jitter) == (120, 5, 2, True)


def test_a_name_and_one_step_are_enough_and_the_rest_has_the_defaults_of_the_format_page() -> None:
    package = WorkflowPackage.model_validate(
        {"metadata": {"name": "tiny"}, "spec": {"handlers": [{"name": "a", "type": "api", "config": {}}]}}
    )

    assert (package.api_version, package.kind, package.metadata.version) == ("v1", "WorkflowPackage", "0.0.0")
    assert (package.spec.safety.mode, package.spec.safety.approval_required) == ("manual", False)
    assert package.spec.handlers[0].on_failure == "stop"


def test_unknown_fields_are_kept_and_each_is_a_warning_with_its_path() -> None:
    document = {
        "metadata": {"name": "tiny", "owner": "me"},
        "spec": {"handlers": [{"name": "a", "type": "api", "config": {}, "retries": 3}], "extra": 1},
        "x-note": [1],
    }
    package = WorkflowPackage.model_validate(document)
    found = {problem.path: problem for problem in unknown_fields(package)}

    assert set(found) == {"x-note", "metadata.owner", "spec.extra", "spec.handlers[0].retries"}
    assert all(problem.severity == "warning" for problem in found.values())
    assert 'did you mean "retry"' in found["spec.handlers[0].retries"].message
    assert package.model_extra == {"x-note": [1]}


def test_every_error_is_told_at_once_with_its_path() -> None:
    document = {
        "apiVersion": "v2",
        "metadata": {"name": "Not A Label", "version": "one"},
        "spec": {
            "handlers": [
                {"name": "a", "config": {}, "timeout": "soon"},
                {"name": "b c", "type": "api", "config": [], "retry": {"max_attempts": 0}},
            ],
            "rollback": {"handlers": [{"name": "x", "type": "api"}]},
            "validation": {"resource_limits": {"max_pods": -1}},
        },
    }
    with pytest.raises(ValidationError) as caught:
        WorkflowPackage.model_validate(document)

    assert {problem.path for problem in problems_of(caught.value, WorkflowPackage)} == {
        "apiVersion",
        "metadata.name",
        "metadata.version",
        "spec.handlers[0].type",
        "spec.handlers[0].timeout",
        "spec.handlers[1].name",
        "spec.handlers[1].config",
        "spec.handlers[1].retry.max_attempts",
        "spec.rollback.handlers[0].config",
        "spec.validation.resource_limits.max_pods",
    }


# --- commands ---


def test_a_command_with_a_mistyped_field_is_no_command() -> None:
    for body in ({"workflow_id": "w", "dryrun": True}, {"workflow_id": "w", "dry_run": None}):
        with pytest.raises(ValidationError):
            ExecuteCommand.model_validate(body)


def test_an_execute_command_must_name_a_package() -> None:
    with pytest.raises(ValidationError, match="nothing to run"):
        ExecuteCommand.model_validate({"parameters": {}})


def test_the_digest_of_a_request_is_about_what_it_asks_for_and_not_how_it_is_written() -> None:
    same = [
        {"workflow_id": "w", "timeout": "1h"},
        {"execution_id": "other", "workflow_id": "w", "timeout": 3600, "dry_run": False, "labels": {}},
    ]
    first, second = (ExecuteCommand.model_validate(body).content_digest() for body in same)
    other = ExecuteCommand.model_validate({"workflow_id": "w", "timeout": "1h", "dry_run": True}).content_digest()
    assert first == second
    assert first != other


def test_values_that_are_null_stay_part_of_a_request() -> None:
    command = ExecuteCommand.model_validate({"workflow_id": "w", "parameters": {"a": None}})
    assert command.model_dump(mode="json", exclude_none=True)["parameters"] == {"a": None}
    assert command.content_digest() != ExecuteCommand.model_validate({"workflow_id": "w"}).content_digest()


@pytest.mark.parametrize(
    "more",
    [
        {"requested_by": "x" * 257},
        {"approved_by": "x" * 257},
        {"labels": {"k" * 129: "v"}},
        {"labels": {"k": "v" * 257}},
        {"labels": {str(number): "v" for number in range(65)}},
    ],
)
def test_what_stands_in_many_records_has_a_bound(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ExecuteCommand.model_validate({"workflow_id": "w", **more})


def test_rollback_and_control_must_say_which_execution() -> None:
    with pytest.raises(ValidationError):
        RollbackCommand.model_validate({})
    with pytest.raises(ValidationError):
        ControlCommand.model_validate({"execution_id": "e", "action": "pause"})
