"""A Prometheus query as a step: its values, and what can go wrong with it. No cluster is needed for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from urllib.parse import parse_qs

import pytest
from pydantic import JsonValue

from consumer.adapters.k8s import build
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject
from tests.support import http_server
from tests.support.k8s_steps import Steps

_PATH = "/prometheus/api/v1/query"
QUERY: JsonObject = {"action": "metrics", "query": 'rate(errors{app="a&b"}[5m])'}


@pytest.fixture
async def server() -> AsyncIterator[http_server.Server]:
    async with http_server.serve() as running:
        yield running


@pytest.fixture
async def steps(server: http_server.Server) -> AsyncIterator[Steps]:
    adapter = build(SimpleNamespace(kubeconfig=None, prometheus_url=server.url("/prometheus")))
    yield Steps(adapter)
    await adapter.aclose()


def answers(server: http_server.Server, kind: str, result: JsonValue, **more: JsonValue) -> None:
    """The server gives that result to every query."""
    server.answer(_PATH, 200, body={"status": "success", "data": {"resultType": kind, "result": result}, **more})


def sample(value: str, **labels: str) -> JsonObject:
    return {"metric": dict(labels), "value": [1767225600.5, value]}


async def test_the_query_is_sent_as_it_stands_and_its_only_value_is_the_output(
    steps: Steps, server: http_server.Server
) -> None:
    answers(server, "vector", [sample("0.25", app="a")])
    made = await steps.run(QUERY)

    (request,) = server.seen(_PATH)
    assert request.method == "POST" and parse_qs(request.body.decode()) == {"query": [QUERY["query"]]}
    assert made["value"] == 0.25 and made["count"] == 1 and made["result_type"] == "vector"
    assert made["values"] == [{"labels": {"app": "a"}, "value": 0.25}]


async def test_several_values_have_no_one_value_and_none_is_no_error(steps: Steps, server: http_server.Server) -> None:
    answers(server, "vector", [sample("1", pod="a"), sample("NaN", pod="b"), sample("+Inf", pod="c")])
    made = await steps.run(QUERY)
    assert made["value"] is None
    assert [entry["value"] for entry in made["values"]] == [1.0, "NaN", "+Inf"]

    answers(server, "vector", [])
    made = await steps.run(QUERY)
    assert made["value"] is None and made["count"] == 0


@pytest.mark.parametrize(("kind", "text", "value"), [("scalar", "42", 42.0), ("string", "42", "42")])
async def test_scalars_and_texts_are_values_too(
    steps: Steps, server: http_server.Server, kind: str, text: str, value: JsonValue
) -> None:
    answers(server, kind, [1767225600, text])
    assert (await steps.run(QUERY))["value"] == value


async def test_a_warning_of_the_server_is_passed_on(steps: Steps, server: http_server.Server) -> None:
    answers(server, "vector", [], warnings=["a remote store did not answer"])
    await steps.run(QUERY)
    assert any("a remote store did not answer" in line for _, line in steps.lines)


async def test_a_query_that_gives_ranges_is_refused_with_the_remedy(steps: Steps, server: http_server.Server) -> None:
    answers(server, "matrix", [{"metric": {}, "values": [[1, "1"], [2, "2"]]}])
    with pytest.raises(PermanentError, match="last_over_time"):
        await steps.run(QUERY)


@pytest.mark.parametrize(
    ("status", "error", "kind", "code", "text"),
    [
        (400, 'parse error: unexpected "}"', PermanentError, "invalid", "refuses the query: parse error"),
        (422, "vector cannot contain metrics with the same labelset", PermanentError, "invalid", "same labelset"),
        (401, "", PermanentError, "forbidden", "refuses the agent"),
        (503, "query timed out", TemporaryError, "unavailable", "query timed out"),
        (429, "", TemporaryError, "unavailable", "429"),
        (200, "", PermanentError, "bad_answer", "check that WPK_PROMETHEUS_URL"),
    ],
)
async def test_what_the_server_refuses_is_told_with_its_reason(
    steps: Steps, server: http_server.Server, status: int, error: str, kind: type[Exception], code: str, text: str
) -> None:
    server.answer(_PATH, status, body={"status": "error", "errorType": "x", "error": error})
    with pytest.raises(kind, match=text) as caught:
        await steps.run(QUERY)
    assert caught.value.code == code


async def test_a_server_that_is_no_prometheus_is_named_with_the_setting(
    steps: Steps, server: http_server.Server
) -> None:
    with pytest.raises(PermanentError, match=r"answered 404.*WPK_PROMETHEUS_URL"):
        await steps.run(QUERY)
    assert server.seen(_PATH)


async def test_a_server_that_can_not_be_reached_may_be_tried_again() -> None:
    async with http_server.serve() as gone:
        url = gone.url()
    steps = Steps(build(SimpleNamespace(kubeconfig=None, prometheus_url=url)))
    with pytest.raises(TemporaryError, match="can't be reached") as caught:
        await steps.run(QUERY)
    assert caught.value.code == "unreachable"


async def test_an_answer_without_end_is_cut_off(steps: Steps, server: http_server.Server) -> None:
    server.routes[_PATH] = http_server.ROUTES["/endless-body"]
    with pytest.raises(PermanentError, match="aggregate in the query"):
        await steps.run(QUERY)


async def test_without_a_server_the_setting_is_named() -> None:
    steps = Steps(build(SimpleNamespace(kubeconfig=None, prometheus_url=None)))
    with pytest.raises(PermanentError, match="set WPK_PROMETHEUS_URL"):
        await steps.plan(QUERY)


async def test_a_plan_asks_as_it_changes_nothing(steps: Steps, server: http_server.Server) -> None:
    answers(server, "scalar", [1, "7"])
    plan = await steps.plan(QUERY)
    assert not plan.changes and plan.detail["value"] == 7.0
