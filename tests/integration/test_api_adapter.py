"""The api adapter against real servers on loopback: good ones, slow ones, broken ones and hostile ones."""

from __future__ import annotations

import asyncio
import importlib.metadata
import socket
import ssl
import threading
import tracemalloc
from collections.abc import AsyncIterator
from typing import NoReturn

import httpcore
import httpx
import pytest
import trustme

from consumer.adapters import api
from consumer.adapters.api import failures, wire
from consumer.adapters.api.body import MAX_KEPT, MAX_PIECES, MAX_READ
from consumer.errors import PermanentError, StepError, TemporaryError
from consumer.ports import JsonObject
from tests.support import http_server
from tests.support.api_steps import Log, context, prepare, run
from tests.support.eventually import eventually


@pytest.fixture
async def server() -> AsyncIterator[http_server.Server]:
    async with http_server.serve() as running:
        yield running


@pytest.fixture
def adapter() -> api.ApiAdapter:
    return api.ApiAdapter(allow=["127.0.0.0/8"])


async def failure(adapter: api.ApiAdapter, config: JsonObject) -> StepError:
    with pytest.raises(StepError) as raised:
        await run(adapter, config)
    return raised.value


async def until(server: http_server.Server, path: str) -> None:
    """Until the server has noticed that the client of that path went away."""
    await eventually(lambda: path in server.abandoned)


# --- requests -------------------------------------------------------------------------------------------------------


async def test_a_get_gives_status_headers_decoded_body_and_duration(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    server.answer("/health", 200, body={"ready": True})
    log = Log()
    output = await run(adapter, {"url": server.url("/health")}, log=log)
    assert output["status"] == 200
    assert output["body"] == {"ready": True}
    assert output["truncated"] is False
    assert isinstance(output["headers"], dict)
    assert output["headers"]["content-type"] == "application/json"
    assert isinstance(output["duration"], float)
    assert f"GET {server.url('/health')}: 200" in log.text


async def test_all_of_the_request_arrives_as_the_package_says(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    config: JsonObject = {
        "url": server.url("/echo?fixed=1"),
        "method": "post",
        "headers": {"X-Team": "${team}", "X-Level": 3},
        "params": {"name": "a b&c=d/ü", "many": ["x", 2], "on": True},
        "payload": {"replicas": "${n}", "text": "grün"},
    }
    await run(adapter, config, {"team": "payments", "n": 5})
    (got,) = server.requests
    assert got.method == "POST"
    assert got.query == {"fixed": ["1"], "name": ["a b&c=d/ü"], "many": ["x", "2"], "on": ["true"]}
    assert got.headers["x-team"] == "payments"
    assert got.headers["x-level"] == "3"
    assert got.headers["content-type"] == "application/json"
    assert got.json() == {"replicas": 5, "text": "grün"}
    assert got.host == f"127.0.0.1:{server.port}"


async def test_nothing_is_sent_that_neither_the_package_nor_the_message_asks_for(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    await run(adapter, {"url": server.url("/echo")})
    await run(
        adapter, {"url": server.url("/echo"), "headers": {"user-agent": "curl", "ACCEPT": "text/grün", "Host": "h"}}
    )
    plain, own = (got.headers for got in server.requests)
    assert sorted(plain) == ["accept", "accept-encoding", "connection", "host", "user-agent"]
    assert plain["user-agent"] == f"wpk-agent/{importlib.metadata.version('wpk-agent')}"
    assert sorted(own) == sorted(plain)
    assert (own["user-agent"], own["accept"], own["host"]) == ("curl", "text/grün", "h")


async def test_a_text_payload_is_sent_as_it_is(adapter: api.ApiAdapter, server: http_server.Server) -> None:
    config: JsonObject = {"url": server.url("/echo"), "method": "PUT", "payload": "a=1\nü"}
    await run(adapter, config)
    await run(adapter, {**config, "headers": {"content-type": "text/csv"}})
    first, second = server.requests
    assert first.body == second.body == "a=1\nü".encode()
    assert first.headers["content-type"] == "text/plain; charset=utf-8"
    assert second.headers["content-type"] == "text/csv"


async def test_every_attempt_of_a_post_carries_the_same_idempotency_key(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    action = prepare(adapter, {"url": server.url("/echo"), "method": "POST"})
    for attempt in (1, 2):
        await action.run(context(attempt=attempt))
    assert [got.headers["idempotency-key"] for got in server.requests] == ["run-1/run/call"] * 2
    assert server.requests[0].headers["content-length"] == "0"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_methods_that_are_idempotent_by_themselves_carry_no_key(
    adapter: api.ApiAdapter, server: http_server.Server, method: str
) -> None:
    await run(adapter, {"url": server.url("/echo"), "method": method})
    assert "idempotency-key" not in server.requests[0].headers


async def test_the_package_s_own_key_is_left_as_it_is(adapter: api.ApiAdapter, server: http_server.Server) -> None:
    await run(adapter, {"url": server.url("/echo"), "method": "POST", "headers": {"idempotency-key": "order-5"}})
    assert server.requests[0].headers["idempotency-key"] == "order-5"


async def test_a_user_in_the_url_becomes_basic_authentication_and_shows_nowhere(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    log = Log()
    url = server.url("/echo").replace("://", "://eve:p%40ss@")
    await run(adapter, {"url": url}, log=log)
    assert server.requests[0].headers["authorization"] == "Basic ZXZlOnBAc3M="
    assert "p%40ss" not in log.text
    assert "p@ss" not in log.text
    error = await failure(adapter, {"url": url, "expected_status": 500})
    assert "ss@" not in str(error)


async def test_proxies_of_the_environment_are_not_used(
    adapter: api.ApiAdapter, server: http_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert (await run(adapter, {"url": server.url("/echo")}))["status"] == 200


async def test_a_session_cookie_is_neither_published_nor_sent_to_the_next_step(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    output = await run(adapter, {"url": server.url("/cookies")})
    assert "very-secret" not in str(output)
    server.answer("/first", 302, headers={"Location": "/echo", "Set-Cookie": "session=very-secret; Path=/"})
    output = await run(adapter, {"url": server.url("/first"), "follow_redirects": True})
    assert "very-secret" not in str(output)
    await run(adapter, {"url": server.url("/echo")})
    assert [got.path for got in server.requests] == ["/cookies", "/first", "/echo", "/echo"]
    assert not any("cookie" in got.headers for got in server.requests)


async def test_a_head_has_no_body(adapter: api.ApiAdapter, server: http_server.Server) -> None:
    output = await run(adapter, {"url": server.url("/gzip"), "method": "HEAD"})
    assert output["body"] is None


# --- judgement ------------------------------------------------------------------------------------------------------


async def test_an_unexpected_status_is_told_in_one_sentence_with_the_answer_beside_it(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    server.answer("/health", 500, body={"reason": "disk full"})
    error = await failure(adapter, {"url": server.url("/health?token=x"), "expected_status": 200})
    assert isinstance(error, TemporaryError)
    assert error.code == "http_status"
    assert str(error) == f"expected 200, got 500 from GET {server.url('/health')}?…"
    assert error.output is not None
    assert error.output["body"] == {"reason": "disk full"}


async def test_a_server_that_asks_for_a_pause_gets_it(adapter: api.ApiAdapter, server: http_server.Server) -> None:
    server.answer("/busy", 503, headers={"Retry-After": "7"})
    error = await failure(adapter, {"url": server.url("/busy")})
    assert isinstance(error, TemporaryError)
    assert error.delay == 7.0


async def test_a_service_that_recovers_is_seen_recovered(adapter: api.ApiAdapter, server: http_server.Server) -> None:
    server.answer("/flaky", 503, 503, 200)
    action = prepare(adapter, {"url": server.url("/flaky")})
    for _ in range(2):
        with pytest.raises(TemporaryError):
            await action.run(context())
    assert (await action.run(context()))["status"] == 200


async def test_expect_is_judged_over_status_headers_and_body(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    server.answer("/state", 200, body={"state": "ready", "replicas": 3}, headers={"X-Zone": "a"})
    text = "status == 200 && headers['x-zone'] == 'a' && body.replicas >= ${least} && body.state == '${state}'"
    config: JsonObject = {"url": server.url("/state"), "expect": text}
    await run(adapter, config, {"least": 3, "state": "ready"})
    with pytest.raises(TemporaryError, match=r"expect is false: status == 200 && .*; status 200 from GET") as raised:
        await run(adapter, config, {"least": 4, "state": "ready"})
    assert raised.value.code == "expectation"


# --- redirects ------------------------------------------------------------------------------------------------------


async def test_a_redirect_is_not_followed_unless_the_package_says_so(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    error = await failure(adapter, {"url": server.url("/redirect?to=/echo")})
    assert isinstance(error, PermanentError)
    assert "follow_redirects: true" in str(error)
    output = await run(adapter, {"url": server.url("/redirect?to=/echo"), "follow_redirects": True})
    assert output["status"] == 200
    assert [got.path for got in server.requests] == ["/redirect", "/redirect", "/echo"]


@pytest.mark.parametrize("location", ["http://[", "https://host:99999/", "x" * 9000, "data:,x", "\xff"])
async def test_a_redirect_that_is_expected_and_not_followed_may_lead_anywhere(
    adapter: api.ApiAdapter, server: http_server.Server, location: str
) -> None:
    server.answer("/odd", 302, headers={"Location": location})
    output = await run(adapter, {"url": server.url("/odd"), "expected_status": 302})
    assert isinstance(output["headers"], dict)
    assert output["headers"]["location"] == location


async def test_a_redirect_to_another_origin_takes_no_credential_along(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    config: JsonObject = {
        "follow_redirects": True,
        "headers": {"Authorization": "Bearer hunter2", "X-Api-Key": "hunter2", "Cookie": "a=hunter2"},
    }
    async with http_server.serve(host="127.0.0.2") as other:
        config["url"] = server.url(f"/redirect?to={other.url('/echo')}")
        await run(adapter, config)
        assert "hunter2" not in str(other.requests)
        assert other.requests[0].host == f"127.0.0.2:{other.port}"
    assert server.requests[0].headers["authorization"] == "Bearer hunter2"


async def test_redirects_in_a_circle_end(adapter: api.ApiAdapter, server: http_server.Server) -> None:
    error = await failure(adapter, {"url": server.url("/loop"), "follow_redirects": True})
    assert error.code == "redirect"
    assert len(server.requests) == 4


# --- hostile and broken servers -------------------------------------------------------------------------------------


async def test_a_dripping_body_ends_with_the_timeout_and_the_connection_with_it(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    error = await failure(adapter, {"url": server.url("/drip"), "timeout": "300ms"})
    assert isinstance(error, TemporaryError)
    assert error.code == "timeout"
    assert str(error) == f"no complete answer within 300ms from GET {server.url('/drip')}"
    await until(server, "/drip")


async def test_a_post_that_timed_out_is_said_to_be_in_doubt(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    error = await failure(adapter, {"url": server.url("/silent"), "timeout": "300ms", "method": "POST"})
    assert error.code == "timeout"
    assert "whether the server acted is not known" in str(error)


async def test_cancelling_closes_the_connection_and_is_not_swallowed(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    task = asyncio.create_task(run(adapter, {"url": server.url("/silent"), "timeout": "1h"}))
    await eventually(lambda: server.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(server, "/silent")


async def test_endless_headers_are_refused(adapter: api.ApiAdapter, server: http_server.Server) -> None:
    error = await failure(adapter, {"url": server.url("/endless-headers"), "timeout": "60s"})
    assert error.code == "bad_answer"
    await until(server, "/endless-headers")


async def test_endless_interim_answers_are_refused(adapter: api.ApiAdapter, server: http_server.Server) -> None:
    async def never_final(exchange: http_server.Exchange) -> None:
        while True:
            await exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: <" + b"x" * 10_000 + b">\r\n\r\n")

    server.route("/early", never_final)
    error = await failure(adapter, {"url": server.url("/early"), "timeout": "60s"})
    assert error.code == "bad_answer"
    assert "no end" in str(error)
    await until(server, "/early")


async def test_a_body_in_tiny_pieces_is_cut_and_lets_others_work_meanwhile(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def crumbs(exchange: http_server.Exchange) -> None:
        await exchange.head(200, {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"})
        while True:
            await exchange.send(b"1\r\n.\r\n" * 10_000)

    server.route("/crumbs", crumbs)
    counting = asyncio.create_task(count())
    try:
        output = await run(adapter, {"url": server.url("/crumbs"), "timeout": "100s"})
    finally:
        counting.cancel()
        await asyncio.wait([counting])
    assert output["truncated"] is True
    assert turns > MAX_PIECES // 100  # those that come in one read are not all taken in before others get their turn


async def test_headers_without_number_are_kept_up_to_the_limit(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    async def many(exchange: http_server.Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 20_000 + b"Content-Length: 0\r\n\r\n")

    server.route("/many", many)
    output = await run(adapter, {"url": server.url("/many"), "timeout": "60s"})
    assert len(str(output["headers"])) < 20_000


async def test_a_server_that_switches_protocols_unasked_is_refused(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    async def switch(exchange: http_server.Exchange) -> None:
        await exchange.send(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello")
        await exchange.gone()

    server.route("/switch", switch)
    error = await failure(adapter, {"url": server.url("/switch"), "expected_status": 101, "timeout": "60s"})
    assert error.code == "bad_answer"


async def test_an_endless_body_is_read_to_the_limit_and_marked(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    output = await run(adapter, {"url": server.url("/endless-body"), "timeout": "60s"})
    assert output["body"] == "a" * MAX_KEPT
    assert output["truncated"] is True
    await until(server, "/endless-body")


@pytest.mark.parametrize(
    ("size", "kept", "truncated"),
    [(MAX_KEPT, MAX_KEPT, False), (MAX_KEPT + 1, MAX_KEPT, True), (MAX_READ + 1, MAX_KEPT, True)],
)
async def test_a_long_body_is_cut_with_a_mark(
    adapter: api.ApiAdapter, server: http_server.Server, size: int, kept: int, truncated: bool
) -> None:
    output = await run(adapter, {"url": server.url(f"/huge?size={size}")})
    assert output["body"] == "b" * kept
    assert output["truncated"] is truncated


async def test_a_compressed_bomb_costs_little_memory(adapter: api.ApiAdapter, server: http_server.Server) -> None:
    bomb = await asyncio.to_thread(http_server.bomb)
    server.route("/bomb", http_server.compressed(bomb))
    tracemalloc.start()
    try:
        output = await run(adapter, {"url": server.url("/bomb"), "timeout": "60s"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert output["truncated"] is True
    assert peak < 20_000_000  # inflated it is 200 MB


async def test_a_body_that_is_compressed_unasked_is_still_read(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    assert (await run(adapter, {"url": server.url("/gzip")}))["body"] == {"packed": True}
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/cut", "connection_lost"),
        ("/hang-up", "connection_lost"),
        ("/nonsense", "bad_answer"),
        ("/gzip-cut", "bad_answer"),
    ],
)
async def test_half_an_answer_is_an_error_that_may_be_tried_again(
    adapter: api.ApiAdapter, server: http_server.Server, path: str, code: str
) -> None:
    error = await failure(adapter, {"url": server.url(path), "timeout": "60s"})
    assert isinstance(error, TemporaryError)
    assert error.code == code
    assert server.url(path) in str(error)


async def test_text_in_another_charset_and_bytes_arrive_readable(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    assert (await run(adapter, {"url": server.url("/latin")}))["body"] == "grün"
    assert (await run(adapter, {"url": server.url("/binary")}))["encoding"] == "base64"


async def test_a_closed_port_is_named_as_refusing(adapter: api.ApiAdapter) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it, and it refuses
        port = reserved.getsockname()[1]
        error = await failure(adapter, {"url": f"http://127.0.0.1:{port}/"})
    assert isinstance(error, TemporaryError)
    assert error.code == "connect"
    assert "refused" in str(error)


async def test_a_name_that_does_not_resolve_is_told_as_such(adapter: api.ApiAdapter) -> None:
    error = await failure(adapter, {"url": "http://nowhere.invalid/"})
    assert isinstance(error, TemporaryError)
    assert error.code == "dns"
    assert "nowhere.invalid" in str(error)


async def test_no_error_of_the_http_library_gets_out(adapter: api.ApiAdapter, server: http_server.Server) -> None:
    request = prepare(adapter, {"url": server.url("/")})._request(context())  # type: ignore[attr-defined]
    raised = [getattr(httpcore, name) for name in httpcore.__all__]
    kinds = [kind for kind in raised if isinstance(kind, type) and issubclass(kind, Exception)]
    assert httpcore.ReadError in kinds
    for kind in kinds:
        if kind is httpcore.ConnectionNotAvailable:
            continue  # of connections that are used again, and ours are not
        with pytest.raises(StepError) as told, failures.mapped(request), wire._as_httpx():
            raise kind("x" * 1000)
        assert isinstance(told.value.__cause__, httpx.TransportError)
        assert len(str(told.value)) < 400


@pytest.mark.parametrize("host", ["xn--a.invalid", "xn--i-7iq.invalid"])
async def test_an_odd_international_name_is_asked_of_dns_like_any_other(adapter: api.ApiAdapter, host: str) -> None:
    assert (await failure(adapter, {"url": f"http://{host}/"})).code == "dns"


async def test_a_name_too_long_for_dns_is_an_error_of_the_package(adapter: api.ApiAdapter) -> None:
    error = await failure(adapter, {"url": f"http://{'a' * 70}.example/"})
    assert error.code == "dns"


# --- the guard ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]"])
async def test_no_spelling_of_loopback_gets_through(server: http_server.Server, host: str) -> None:
    error = await failure(api.ApiAdapter(), {"url": server.url("/echo", host=host)})
    assert isinstance(error, PermanentError)
    assert error.code == "address_blocked"
    assert "WPK_HTTP_ALLOW" in str(error)
    assert server.requests == []


async def test_a_redirect_to_the_metadata_service_is_blocked(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    to = "http://169.254.169.254/latest/meta-data/"
    error = await failure(adapter, {"url": server.url(f"/redirect?to={to}"), "follow_redirects": True})
    assert error.code == "address_blocked"
    assert "169.254.169.254" in str(error)
    assert "link-local" in str(error)


async def test_a_rule_opens_one_port_and_not_the_next(server: http_server.Server) -> None:
    async with http_server.serve() as other:
        adapter = api.ApiAdapter(allow=[f"localhost:{server.port}"])
        assert (await run(adapter, {"url": server.url("/echo", host="localhost")}))["status"] == 200
        error = await failure(adapter, {"url": other.url("/echo", host="localhost")})
        assert error.code == "address_blocked"
        assert other.requests == []


async def test_a_name_server_that_does_not_answer_holds_up_nothing_but_the_steps_that_asked(
    adapter: api.ApiAdapter, server: http_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answer = threading.Event()

    def silent(host: str, port: int, **_: object) -> NoReturn:
        asked.append(host)
        answer.wait(110)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    steps = [asyncio.create_task(run(adapter, {"url": "http://silent.example/"})) for _ in range(50)]
    try:
        await eventually(lambda: asked)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 60) == "done"
        assert (await run(adapter, {"url": server.url("/echo")}))["status"] == 200
    finally:
        answer.set()
        results = await asyncio.gather(*steps, return_exceptions=True)
        await adapter.aclose()
    assert {getattr(result, "code", result) for result in results} == {"dns"}


class Resolver:
    """Answers for the system's resolver: one list of addresses after the other, as a rebinding name server does."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    def __call__(self, host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]


async def test_a_name_is_resolved_once_and_the_checked_address_is_the_one_connected_to(
    server: http_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver(["127.0.0.1"], ["169.254.169.254"])
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    adapter = api.ApiAdapter(allow=["127.0.0.0/8"])
    config: JsonObject = {"url": server.url("/echo", host="rebinding.example")}
    assert (await run(adapter, config))["status"] == 200
    assert (await failure(adapter, config)).code == "address_blocked"


async def test_of_a_name_with_allowed_and_denied_addresses_only_the_allowed_are_tried(
    server: http_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Resolver(["10.255.255.1", "127.0.0.9", "127.0.0.1"]))
    adapter = api.ApiAdapter(allow=["127.0.0.0/8"])
    tried: list[str] = []
    connect = httpcore.AnyIOBackend.connect_tcp

    async def recorded(self: httpcore.AnyIOBackend, host: str, *more: object) -> httpcore.AsyncNetworkStream:
        tried.append(host)
        return await connect(self, host, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", recorded)
    assert (await run(adapter, {"url": server.url("/echo", host="mixed.example")}))["status"] == 200
    assert tried == ["127.0.0.9", "127.0.0.1"]  # the first refuses, so the next one is tried


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncIterator[http_server.Server]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    async with http_server.serve(tls) as running:
        yield running


async def test_a_certificate_of_an_unknown_authority_is_refused(
    adapter: api.ApiAdapter, secure: http_server.Server
) -> None:
    error = await failure(adapter, {"url": secure.url("/echo", host="localhost")})
    assert isinstance(error, TemporaryError)
    assert error.code == "tls"
    assert "certificate is not trusted" in str(error)
    assert secure.requests == []


async def test_an_authority_in_verify_is_trusted_for_its_own_names_only(
    adapter: api.ApiAdapter, secure: http_server.Server, authority: trustme.CA
) -> None:
    pem = authority.cert_pem.bytes().decode()
    output = await run(adapter, {"url": secure.url("/echo", host="localhost"), "verify": pem})
    assert output["status"] == 200
    error = await failure(adapter, {"url": secure.url("/echo"), "verify": pem})
    assert error.code == "tls"
    assert "127.0.0.1" in str(error)


async def test_verify_false_checks_nothing(adapter: api.ApiAdapter, secure: http_server.Server) -> None:
    assert (await run(adapter, {"url": secure.url("/echo"), "verify": False}))["status"] == 200


async def test_https_to_a_server_that_speaks_http_is_told_as_a_tls_error(
    adapter: api.ApiAdapter, server: http_server.Server
) -> None:
    error = await failure(adapter, {"url": server.url("/echo").replace("http:", "https:"), "timeout": "60s"})
    assert error.code == "tls"
    assert isinstance(error, TemporaryError)
