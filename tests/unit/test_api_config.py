"""The api adapter's configuration, and what it says of an action before anything is sent."""

from __future__ import annotations

import pytest

from consumer.adapters import api
from consumer.adapters.api.config import ApiConfig
from consumer.adapters.api.urls import parse_url
from consumer.errors import ConfigError, PermanentError
from consumer.ports import JsonObject
from tests.support.api_steps import FixedScope, context, prepare

URL = "http://192.0.2.1/path"


@pytest.fixture
def adapter() -> api.ApiAdapter:
    return api.ApiAdapter(allow=["*"])


def problems(adapter: api.ApiAdapter, config: JsonObject, scope: FixedScope | None = None) -> list[str]:
    return [problem.path for problem in adapter.check(config, scope or FixedScope())]


def test_a_url_is_all_that_a_step_needs(adapter: api.ApiAdapter) -> None:
    assert problems(adapter, {"url": URL}) == []
    config = ApiConfig(url=URL)
    assert (config.method, config.expected_status, config.follow_redirects, config.verify) == (
        "GET",
        ("2xx",),
        False,
        True,
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "post"),
        ("method", "DELETE"),
        ("headers", {"X-Level": 3, "X-On": True, "X-Ratio": 0.5}),
        ("params", {"a": 1, "b": ["x", 2], "c": True}),
        ("payload", {"a": [1, None]}),
        ("payload", "text"),
        ("payload", []),
        ("expected_status", 200),
        ("expected_status", "2xx"),
        ("expected_status", "204"),
        ("expected_status", [200, "3xx"]),
        ("expect", "status == 200"),
        ("timeout", "5s"),
        ("timeout", 3),
        ("follow_redirects", True),
        ("verify", False),
        ("url", "https://user:pass@[2001:db8::1]:8443/a?b=c"),
        ("url", "HTTP://Example.com"),
        ("url", "http://under_score.svc.cluster.local:8080/"),
    ],
)
def test_what_the_format_allows_is_accepted(adapter: api.ApiAdapter, field: str, value: object) -> None:
    assert problems(adapter, {"url": URL, field: value}) == []  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "example.com/path"),
        ("url", "ftp://example.com"),
        ("url", "http://"),
        ("url", "http://exa mple.com"),
        ("url", "http://a\nb/"),
        ("url", "http://host:99999/"),
        ("url", "http://host:0/"),
        ("url", "http://host:-1/"),
        ("url", "http://[fe80::1%25eth0]/"),
        ("url", "http://localhost%00.example/"),
        ("url", "http://\u24db\u24deocalhost/"),
        ("url", 5),
        ("method", "TRACE"),
        ("method", "GET /x HTTP/1.1\r\nX: y"),
        ("headers", {"X-A": "a\r\nX-B: b"}),
        ("headers", {"X-A": "a\x00"}),
        ("headers", {"X-A": "snow ☃"}),
        ("headers", {"X A": "a"}),
        ("headers", {"Content-Length": "5"}),
        ("headers", {"transfer-encoding": "chunked"}),
        ("headers", {"X-A": "1", "x-a": "2"}),
        ("headers", {"X-A": None}),
        ("params", {"a": None}),
        ("params", {"a": {"b": 1}}),
        ("params", {"a": "half \ud800"}),
        ("payload", {"a": ["half \ud800"]}),
        ("payload", {"a": float("nan")}),
        ("expected_status", 99),
        ("expected_status", 600),
        ("expected_status", "2x"),
        ("expected_status", []),
        ("expected_status", True),
        ("expect", "status =="),
        ("expect", ""),
        ("expect", 5),
        ("timeout", "5 parsecs"),
        ("timeout", 0),
        ("verify", "/etc/ssl/ca.pem"),
        ("verify", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----"),
        ("follow_redirects", "perhaps"),
        ("folow_redirects", True),
    ],
)
def test_what_makes_no_sense_is_found_before_anything_is_sent(
    adapter: api.ApiAdapter, field: str, value: object
) -> None:
    config: JsonObject = {"url": URL, field: value}  # type: ignore[dict-item]
    (path,) = problems(adapter, config)
    assert path.startswith(field) or path == ""
    with pytest.raises(ConfigError):
        prepare(adapter, config)


def test_all_that_is_wrong_is_told_at_once(adapter: api.ApiAdapter) -> None:
    config: JsonObject = {"url": "nowhere", "method": "SING", "expect": "status ==", "unknown": 1}
    assert sorted(problems(adapter, config)) == ["expect", "method", "unknown", "url"]
    with pytest.raises(ConfigError) as raised:
        prepare(adapter, config)
    assert len(raised.value.problems) == 4


def test_a_password_in_a_bad_url_is_not_in_the_error(adapter: api.ApiAdapter) -> None:
    with pytest.raises(ValueError, match="port") as raised:
        parse_url("http://user:hunter2@host:99999/")
    assert "hunter2" not in str(raised.value)


def test_a_value_of_a_later_moment_is_no_problem_yet(adapter: api.ApiAdapter) -> None:
    scope = FixedScope({}, frozenset({"steps.find.output.url", "steps.find.output.code"}))
    config: JsonObject = {
        "url": "${steps.find.output.url}",
        "expected_status": "${steps.find.output.code}",
        "headers": {"X-From": "step ${steps.find.output.code}"},
    }
    assert problems(adapter, config, scope) == []


@pytest.mark.parametrize(
    ("method", "headers", "repeatable"),
    [
        ("GET", {}, True),
        ("HEAD", {}, True),
        ("OPTIONS", {}, True),
        ("PUT", {}, True),
        ("DELETE", {}, True),
        ("POST", {}, False),
        ("PATCH", {}, False),
        ("POST", {"idempotency-key": "order-5"}, True),
        ("PATCH", {"Idempotency-Key": "order-5"}, True),
    ],
)
def test_a_request_in_doubt_is_repeated_where_twice_is_as_good_as_once(
    adapter: api.ApiAdapter, method: str, headers: JsonObject, repeatable: bool
) -> None:
    assert prepare(adapter, {"url": URL, "method": method, "headers": headers}).repeatable is repeatable


@pytest.mark.parametrize(
    ("method", "waits"), [("GET", True), ("HEAD", True), ("PUT", False), ("DELETE", False), ("POST", False)]
)
def test_a_stop_cuts_only_requests_that_look(adapter: api.ApiAdapter, method: str, waits: bool) -> None:
    config = {"method": method, "url": URL, "timeout": "90s", "headers": {"Idempotency-Key": "k"}}
    assert getattr(prepare(adapter, config), "waits", None) is waits


def test_the_time_limit_is_the_configured_timeout(adapter: api.ApiAdapter) -> None:
    assert prepare(adapter, {"url": URL, "timeout": "90s"}).time_limit == 90.0
    assert prepare(adapter, {"url": URL}).time_limit is None


async def test_there_is_nothing_to_undo(adapter: api.ApiAdapter) -> None:
    for undo in (adapter.undo, adapter.plan_undo):
        with pytest.raises(PermanentError, match="rollback") as raised:
            await undo({}, context())
        assert raised.value.code == "nothing_to_undo"


async def test_a_plan_shows_the_request_and_masks_credentials(adapter: api.ApiAdapter) -> None:
    config: JsonObject = {
        "url": "http://eve:hunter2@192.0.2.1/things?api_key=hunter2",
        "method": "POST",
        "params": {"limit": 3},
        "payload": {"replicas": "${n}"},
        "headers": {"X-Auth-Token": "hunter2", "X-Team": "payments"},
        "expect": "body.ok",
    }
    plan = await prepare(adapter, config, {"n": 5}).plan(context(dry_run=True))
    assert plan.changes
    assert plan.summary == "POST http://192.0.2.1/things?…"
    assert plan.detail["payload"] == {"replicas": 5}
    assert "limit=3" in str(plan.detail["url"])
    headers = plan.detail["headers"]
    assert isinstance(headers, dict)
    assert headers["X-Team"] == "payments"
    assert headers["Authorization"] == headers["X-Auth-Token"] == "***"
    assert headers["Idempotency-Key"] == "run-1/run/call"
    assert "hunter2" not in str(plan)
    assert "ZXZlOmh1bnRlcjI" not in str(plan)


@pytest.mark.parametrize(("method", "changes"), [("GET", False), ("HEAD", False), ("OPTIONS", False), ("PUT", True)])
async def test_a_plan_says_whether_the_request_changes_anything(
    adapter: api.ApiAdapter, method: str, changes: bool
) -> None:
    assert (await prepare(adapter, {"url": URL, "method": method}).plan(context())).changes is changes


async def test_a_plan_tells_that_the_address_is_blocked() -> None:
    with pytest.raises(PermanentError, match=r"127\.0\.0\.1.*WPK_HTTP_ALLOW"):
        await prepare(api.ApiAdapter(), {"url": "http://127.0.0.1/"}).plan(context())
