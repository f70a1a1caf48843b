"""Values in URLs are data: they can't lead to another host, path or parameter."""

from __future__ import annotations

import time
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from consumer.adapters import api
from consumer.adapters.api.urls import fill, parse_url
from consumer.errors import ConfigError
from tests.support.api_steps import FixedScope, prepare

TEXT = (
    st.text(max_size=20)
    | st.text("@/?#&=:%.\\ +[]${}", max_size=8)
    | st.sampled_from(["..", "%2e%2e", "a/../b", "@evil.example"])
)


def filled(template: str, **values: JsonValue) -> str | None:
    return fill(template, FixedScope(values))[0]


@pytest.mark.parametrize(
    ("template", "values", "url"),
    [
        ("${base}/health", {"base": "http://host:80/a"}, "http://host:80/a/health"),
        ("${url}", {"url": "https://host/a?b=c"}, "https://host/a?b=c"),
        ("${scheme}://host/", {"scheme": "https"}, "https://host/"),
        ("http://${target}/a", {"target": "host:8080"}, "http://host:8080/a"),
        ("http://${target}/a", {"target": "[::1]:8080"}, "http://[::1]:8080/a"),
        ("http://${target}", {"target": "host:8080/a?b=c"}, "http://host:8080/a?b=c"),
        ("http://${host}:${port}/a", {"host": "10.0.0.1", "port": 8080}, "http://10.0.0.1:8080/a"),
        ("http://${service}.${namespace}.svc:80/", {"service": "a", "namespace": "b"}, "http://a.b.svc:80/"),
        ("https://host${path}", {"path": "/a/b"}, "https://host/a/b"),
        ("https://host/a/${path}", {"path": "b/c d"}, "https://host/a/b/c%20d"),
        ("https://host/a/${name}", {"name": "b?x=1#y"}, "https://host/a/b%3Fx%3D1%23y"),
        ("https://host/a/${name}", {"name": "%2e%2e"}, "https://host/a/%252e%252e"),
        ("https://host/?q=${q}&n=${n}", {"q": "a&b=c #+%", "n": 3}, "https://host/?q=a%26b%3Dc%20%23%2B%25&n=3"),
        ("https://host/?${query}", {"query": "a=1&b=2"}, "https://host/?a=1&b=2"),
        ("https://${user}:${word}@host/", {"user": "eve", "word": "p@s/s"}, "https://eve:p%40s%2Fs@host/"),
        ("https://host/$${x}/${x}", {"x": "y"}, "https://host/${x}/y"),
        ("http://web.${domain}:80/", {"domain": "a.svc"}, "http://web.a.svc:80/"),
        ("http://web-${n}/", {"n": 3}, "http://web-3/"),
        ("http://host${port}/", {"port": ":8080"}, "http://host:8080/"),
        ("http://eve@${host}/", {"host": "a.example"}, "http://eve@a.example/"),
        ("http://${a}${b}.svc/", {"a": "x", "b": ".y"}, "http://x.y.svc/"),
    ],
)
def test_a_value_stands_in_its_place_encoded_as_that_place_asks(
    template: str, values: dict[str, JsonValue], url: str
) -> None:
    assert filled(template, **values) == url


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("https://api.example${v}", "@evil.example/"),
        ("https://api.example${v}", "/../x"),
        ("https://api.example${v}", ".evil.example"),
        ("https://api.example${v}/x", "-x.evil.example:443"),
        ("https://api.example${v}:8443/", ".evil.example"),
        ("https://${v}.api.example/", "evil.example/?"),
        ("https://${v}.api.example/", "evil.example#"),
        ("https://${v}/x", "user@evil.example"),
        ("https://api.example:${v}/", "80@evil.example"),
        ("https://api.example:${v}/", "80/x"),
        ("https://api.example/users/${v}", "../admin"),
        ("https://api.example/users/${v}/x", ".."),
        ("https://api.example/%2E${v}/x", "."),
        ("https://api.example/users/.${v}/x", "."),
        ("https://api.example/users/${v}", "..\\admin"),
        ("${v}/x", "ftp://host"),
        ("${v}", "http://a\nb/"),
    ],
)
def test_a_value_that_would_lead_elsewhere_is_refused(template: str, value: str) -> None:
    url, problems = fill(template, FixedScope({"v": value}))
    assert url is None
    assert [problem.path for problem in problems] == ["url"]
    with pytest.raises(ConfigError) as raised:
        prepare(api.ApiAdapter(), {"url": template}, {"v": value})
    assert len(raised.value.problems) == 1


@given(TEXT)
@settings(max_examples=200, deadline=None)
def test_no_value_changes_the_host_the_path_before_it_or_the_other_parameters(value: str) -> None:
    url, problems = fill("https://api.example:8443/users/${v}/end?a=${v}&b=2", FixedScope({"v": value}))
    if url is None:
        assert problems
        return
    parsed = httpx.URL(url)
    assert (parsed.host, parsed.port, parsed.userinfo) == ("api.example", 8443, b"")
    assert unquote(parsed.raw_path.decode().partition("?")[0]) == f"/users/{value}/end"
    assert parse_qsl(urlsplit(url).query, keep_blank_values=True) == [("a", value), ("b", "2")]


@given(TEXT)
@settings(max_examples=200, deadline=None)
def test_no_value_brings_a_user_or_leaves_the_domain(value: str) -> None:
    url, _ = fill("https://${v}.api.example/", FixedScope({"v": value}))
    if url is not None:
        assert parse_url(url).host.endswith(".api.example")
        assert parse_url(url).userinfo == b""


@given(st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_a_user_and_password_arrive_as_they_are(user: str, password: str) -> None:
    url, _ = fill("https://${u}:${p}@api.example/", FixedScope({"u": user, "p": password}))
    assert url is not None
    parsed = parse_url(url)
    assert parsed.host == "api.example"
    got_user, _, got_password = parsed.userinfo.decode().partition(":")
    assert (unquote(got_user), unquote(got_password)) == (user, password)


def test_a_secret_in_a_url_that_is_refused_is_not_shown() -> None:
    config = {"url": "https://api.example:${secrets.port}/"}
    with pytest.raises(ConfigError) as raised:
        prepare(api.ApiAdapter(), config, {"secrets.port": "hunter2 and more"})
    assert "hunter2" not in str(raised.value)


def test_a_missing_value_is_told_once() -> None:
    problems = api.ApiAdapter().check({"url": "http://host/${nowhere}"}, FixedScope())
    assert [problem.path for problem in problems] == ["url"]


def test_a_value_that_is_known_later_is_no_problem_now() -> None:
    scope = FixedScope({"a": "x"}, frozenset({"steps.find.output.host"}))
    assert api.ApiAdapter().check({"url": "http://${steps.find.output.host}/${a}"}, scope) == []


def test_a_template_that_is_too_long_is_refused_unread() -> None:
    began = time.process_time()
    text, problems = fill("http://a.example/" + "${" * 100_000, FixedScope({}))
    assert text is None
    assert [problem.path for problem in problems] == ["url"]
    assert time.process_time() - began < 5, "the work must not grow with the square of the length"
