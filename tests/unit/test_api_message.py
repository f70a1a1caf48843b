"""Redirects, and how requests are named to humans."""

from __future__ import annotations

import httpx
import pytest

from consumer.adapters.api.message import Request, masked, redirected
from consumer.errors import PermanentError

HEADERS = (("Authorization", "Bearer x"), ("X-Api-Key", "y"), ("Accept", "*/*"), ("Content-Type", "text/plain"))


def request(method: str = "GET", url: str = "https://api.example/a/b?q=1", content: bytes | None = None) -> Request:
    return Request(method=method, url=httpx.URL(url), headers=HEADERS, content=content)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/c", "https://api.example/c"),
        ("c", "https://api.example/a/c"),
        ("//api.example/c", "https://api.example/c"),
        ("https://api.example:443/c", "https://api.example/c"),
    ],
)
def test_a_redirect_within_the_origin_keeps_the_credentials(location: str, url: str) -> None:
    follow = redirected(request(), 302, location)
    assert follow.url.copy_with(port=None) == httpx.URL(url)
    assert follow.headers == HEADERS


@pytest.mark.parametrize("location", ["https://other.example/", "https://api.example:8443/", "//x.api.example/"])
def test_a_redirect_to_another_origin_takes_no_credential_along(location: str) -> None:
    names = {name for name, _ in redirected(request(), 302, location).headers}
    assert names == {"Accept", "Content-Type"}


def test_an_upgrade_to_https_of_the_same_host_keeps_the_credentials() -> None:
    follow = redirected(request(url="http://api.example/"), 301, "https://api.example/")
    assert follow.headers == HEADERS


def test_a_password_in_the_target_is_not_taken() -> None:
    assert redirected(request(), 302, "https://eve:x@api.example/").url.userinfo == b""


@pytest.mark.parametrize(
    ("status", "method", "after", "body"),
    [
        (301, "POST", "GET", False),
        (302, "POST", "GET", False),
        (303, "PUT", "GET", False),
        (303, "HEAD", "HEAD", True),
        (302, "PUT", "PUT", True),
        (307, "POST", "POST", True),
        (308, "PATCH", "PATCH", True),
    ],
)
def test_the_method_changes_as_browsers_do_it(status: int, method: str, after: str, body: bool) -> None:
    follow = redirected(request(method, content=b"data"), status, "/c")
    assert follow.method == after
    assert (follow.content == b"data") is body
    assert (follow.header("content-type") is not None) is body


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://api.example/", "not encrypted"),
        ("file:///etc/passwd", "scheme"),
        ("gopher://x/", "scheme"),
        ("https://api.example:99999/", "port 99999"),
        ("https://api.example:-1/", "port -1"),
        ("https://[fe80::1%25eth0]/", "no host"),
        ("https://a%0d%0ab/", "no host"),
        ("//\\evil.example/", "no host"),
        ("https://a\nb/", "no URL"),
        ("https://[::1", "no URL"),
        ("/" + "x" * 9000, "longer"),
    ],
)
def test_a_redirect_to_something_worse_is_refused(location: str, why: str) -> None:
    with pytest.raises(PermanentError, match=why) as raised:
        redirected(request(), 302, location)
    assert raised.value.code == "redirect"


def test_a_payload_is_not_sent_on_to_another_origin() -> None:
    with pytest.raises(PermanentError, match=r"other\.example, and would get the payload"):
        redirected(request("POST", content=b"secret"), 307, "https://other.example/")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("content", [None, b""])
def test_a_change_is_not_made_at_an_origin_that_only_the_server_names(method: str, content: bytes | None) -> None:
    with pytest.raises(PermanentError, match=rf"other\.example, and a {method} may change it"):
        redirected(request(method, content=content), 307, "https://other.example/")


@pytest.mark.parametrize("host", ["xn--a", "xn--i-7iq.example"])
def test_a_name_that_the_rules_for_international_names_refuse_is_a_name_all_the_same(host: str) -> None:
    assert redirected(request(), 302, f"https://{host}/").host == host


def test_a_request_is_named_without_its_query() -> None:
    assert str(request(url="https://api.example:8443/a?token=x")) == "GET https://api.example:8443/a?…"
    assert str(request(url="https://api.example/a")) == "GET https://api.example/a"


def test_a_plan_shows_the_query_but_for_credentials() -> None:
    shown = request(url="https://api.example/a?user=eve&access_token=x&X-Amz-Signature=y").visible_url
    assert "user=eve" in shown
    assert "=x" not in shown
    assert "=y" not in shown


@pytest.mark.parametrize(
    "name", ["Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "x-auth-token", "Password"]
)
def test_headers_that_hold_credentials_are_masked(name: str) -> None:
    assert masked(name, "value") == "***"


@pytest.mark.parametrize("name", ["Accept", "Idempotency-Key", "X-Request-Id"])
def test_other_headers_are_shown(name: str) -> None:
    assert masked(name, "value") == "value"
