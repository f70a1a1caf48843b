"""Pure rules of the k8s adapter: rollouts, conditions, kinds, errors, lines of a log, where the cluster is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.adapters.k8s import errors, kinds, rollout
from consumer.adapters.k8s.actions.wait import test_of as condition_test
from consumer.adapters.k8s.connect import Connector
from consumer.adapters.k8s.loglines import split_lines
from consumer.errors import PermanentError
from consumer.ports import JsonObject


def deployment(generation: int = 1, **status: int) -> JsonObject:
    return {
        "kind": "Deployment",
        "metadata": {"generation": generation},
        "spec": {"replicas": 3},
        "status": {"observedGeneration": 1, **status},
    }


@pytest.mark.parametrize(
    ("item", "done", "message"),
    [
        (deployment(generation=2), False, "not yet seen"),
        (deployment(updatedReplicas=1, replicas=3), False, "1 of 3 replicas updated"),
        (deployment(updatedReplicas=3, replicas=4), False, "1 old replicas"),
        (deployment(updatedReplicas=3, replicas=3, availableReplicas=2), False, "2 of 3 updated replicas available"),
        (deployment(updatedReplicas=3, replicas=3, availableReplicas=3), True, "3 of 3"),
    ],
)
def test_a_rollout_is_over_when_kubectl_says_so(item: JsonObject, done: bool, message: str) -> None:
    status = rollout.status(item)
    assert status.done is done
    assert message in status.message


def test_a_statefulset_that_is_updated_by_hand_has_no_rollout_to_wait_for() -> None:
    item: JsonObject = {
        "kind": "StatefulSet",
        "metadata": {"name": "db"},
        "spec": {"updateStrategy": {"type": "OnDelete"}},
    }
    with pytest.raises(PermanentError, match="OnDelete"):
        rollout.status(item)


def test_a_condition_is_compared_in_any_case_and_not_of_an_older_generation() -> None:
    available = condition_test("available=TRUE", kinds.DEPLOYMENT)
    assert available({"status": {"conditions": [{"type": "Available", "status": "True"}]}}).done
    assert not available({"status": {"conditions": [{"type": "Available", "status": "Unknown"}]}}).done
    plain = condition_test("Synced", kinds.NODE)
    item: JsonObject = {
        "metadata": {"generation": 2},
        "status": {"conditions": [{"type": "synced", "status": "true", "observedGeneration": 1}]},
    }
    assert not plain(item).done
    item["metadata"] = {"generation": 1}
    assert plain(item).done


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("deploy", "Deployment"),
        ("Deployments", "Deployment"),
        ("deployment.apps", "Deployment"),
        ("deployments.apps", "Deployment"),
        ("sts", "StatefulSet"),
        ("cm", "ConfigMap"),
        ("po", "Pod"),
    ],
)
def test_a_kind_has_many_names(word: str, kind: str) -> None:
    found = kinds.built_in(word)
    assert found is not None
    assert found.name == kind


def test_a_reference_survives_its_record() -> None:
    ref = kinds.Ref(kinds.NODE, None, "n1")
    assert kinds.Ref.of_record(ref.record()) == ref
    assert kinds.Ref(kinds.DEPLOYMENT, "a", "b/../c").path == "/apis/apps/v1/namespaces/a/deployments/b%2F..%2Fc"


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (400, "bad_request", False),
        (403, "forbidden", False),
        (404, "not_found", False),
        (409, "conflict", True),
        (422, "invalid", False),
        (429, "throttled", True),
        (500, "server_error", True),
        (503, "unavailable", True),
        (418, "bad_request", False),
    ],
)
def test_an_answer_becomes_an_error_with_a_code_and_a_fate(status: int, code: str, retryable: bool) -> None:
    request = errors.Request("patch", "deployments", "deployment a/b")
    error = errors.of_status(status, {"kind": "Status", "message": "why", "code": status}, request)
    assert (error.code, error.retryable) == (code, retryable)
    assert "deployment a/b" in str(error)


def test_a_foreign_body_and_a_long_text_are_not_passed_on() -> None:
    request = errors.Request("get", "pods", "pod a/b")
    assert "<html>" not in str(errors.of_status(502, "<html>", request))
    assert "s3cret" not in str(errors.of_status(400, {"kind": "Other", "message": "s3cret"}, request))
    assert len(str(errors.of_status(422, {"kind": "Status", "message": "x" * 10_000}, request))) < 600


def test_of_a_secret_only_the_fields_that_are_wrong_are_named() -> None:
    request = errors.Request("patch", "secrets", "secret a/b", secret=True)
    details = {"causes": [{"field": "data[password]", "message": "s3cret"}]}
    body: JsonObject = {"kind": "Status", "code": 422, "reason": "Invalid", "message": "s3cret", "details": details}
    text = str(errors.of_status(422, body, request))
    assert "data[password]" in text
    assert "s3cret" not in text


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)), st.integers(1, 7))
async def test_lines_come_out_as_they_went_in_however_they_are_cut(lines: list[str], size: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    assert [line async for line in split_lines(chunks(*parts))] == lines


async def test_an_endless_line_is_cut_and_what_follows_is_whole() -> None:
    found = [line async for line in split_lines(chunks(*[b"x" * 10_000] * 100, b"\nnext\nlast"))]
    assert [len(found[0]) < 20_000, found[0].endswith("… (line cut)"), *found[1:]] == [True, True, "next", "last"]


async def test_without_a_cluster_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    broken = tmp_path / "broken"
    broken.write_text("{current-context: a, contexts: [{name: b}]}")
    nothing = tmp_path / "nothing"
    nothing.write_text("- a list")
    for kubeconfig in (None, str(tmp_path / "missing"), str(broken), str(nothing)):
        with pytest.raises(PermanentError, match="Set KUBECONFIG") as caught:
            await Connector(kubeconfig).connect()
        assert caught.value.code == "no_cluster"
