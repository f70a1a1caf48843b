"""Secrets from Vault's key-value store, over real sockets. A small server gives the answers that Vault's API documents:
Vault itself is not to be had from the package registries."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from consumer.adapters.api.guard import AddressGuard
from consumer.adapters.api.transport import Transport
from consumer.errors import PermanentError, SettingsError, StepError, TemporaryError
from consumer.outward import vault
from consumer.outward.vault import Options, Vault, vault_of
from consumer.policy.secrets import SecretStore
from schemas.events import Status
from tests.support import agents, http_server
from tests.support.http_server import Exchange, Server
from tests.support.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(60)
PATH = "/v1/secret/data/wpk/agent"
LOGIN = "/v1/auth/kubernetes/login"
PASSWORD = "correct-horse-battery"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with http_server.serve() as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    made = Transport(AddressGuard(("*",)))
    yield made
    made.close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("hvs.first\n")
    return path


@pytest.fixture
def options(server: Server, token: Path) -> Options:
    return Options(address=server.base, path="wpk/agent", token_file=token)


def write(path: Path, content: str | None) -> None:
    """The file's new content; None takes it away."""
    path.unlink()
    if content is not None:
        path.write_text(content)


def fields(**values: object) -> dict[str, Any]:
    return {"request_id": "1", "data": {"data": values, "metadata": {"version": 3}}}


async def test_the_fields_of_the_agents_secret_are_its_secrets(
    server: Server, transport: Transport, options: Options
) -> None:
    server.answer(PATH, 200, body=fields(DB_PASSWORD=PASSWORD, OTHER="not asked for", EMPTY=""))
    source = Vault(replace(options, namespace="team-a"), transport)
    assert await source.read(["DB_PASSWORD", "ABSENT", "EMPTY"]) == {"DB_PASSWORD": PASSWORD}
    headers = server.requests[-1].headers
    assert (headers["x-vault-token"], headers["x-vault-namespace"]) == ("hvs.first", "team-a")


async def test_the_value_and_the_token_are_those_of_now(
    server: Server, transport: Transport, options: Options, token: Path
) -> None:
    source = Vault(options, transport)
    server.answer(PATH, 200, body=fields(KEY="old value"))
    assert await source.read(["KEY"]) == {"KEY": "old value"}
    server.answer(PATH, 200, body=fields(KEY="new value"))
    write(token, "hvs.second")
    assert await source.read(["KEY"]) == {"KEY": "new value"}
    assert [seen.headers["x-vault-token"] for seen in server.seen(PATH)] == ["hvs.first", "hvs.second"]


async def test_a_secret_that_is_not_there_has_no_fields(server: Server, transport: Transport, options: Options) -> None:
    server.answer(PATH, 404, body={"errors": []})
    assert await Vault(options, transport).read(["KEY"]) == {}


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        pytest.param(
            403, {"errors": ["permission denied"]}, PermanentError, '"read" on secret/data/wpk/agent', id="403"
        ),
        pytest.param(400, {"errors": ["missing"]}, PermanentError, "answers 400 to the token of", id="400"),
        pytest.param(307, {}, PermanentError, "another node is active", id="standby"),
        pytest.param(503, {"errors": ["Vault is sealed"]}, TemporaryError, "sealed or in maintenance", id="sealed"),
        pytest.param(429, {}, TemporaryError, "answers 429", id="throttled"),
        pytest.param(500, {}, TemporaryError, "answers 500", id="broken"),
        pytest.param(200, {"data": {"KEY": PASSWORD}}, PermanentError, "store of version 2", id="version 1"),
        pytest.param(200, fields(KEY={"a": PASSWORD}), PermanentError, "is no text", id="no text"),
        pytest.param(200, ["data", PASSWORD], PermanentError, "is it a Vault?", id="no Vault"),
    ],
)
async def test_what_vault_says_otherwise_is_told_with_the_remedy_and_without_a_value(
    server: Server,
    transport: Transport,
    options: Options,
    status: int,
    body: object,
    error: type[StepError],
    said: str,
) -> None:
    server.answer(PATH, status, body=body)
    with pytest.raises(error) as caught:
        await Vault(options, transport).read(["KEY"])
    assert said in str(caught.value)
    assert PASSWORD not in str(caught.value) and "hvs.first" not in str(caught.value)


async def silent(exchange: Exchange) -> None:
    """A server that takes a request and never answers."""
    await exchange.gone()


async def test_a_vault_that_is_silent_or_away_is_a_matter_of_time(
    server: Server, transport: Transport, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault, "TIMEOUT", 0.2)
    server.route(PATH, silent)
    with pytest.raises(TemporaryError, match=r"WPK_VAULT_ADDR .*: no answer to GET"):
        await Vault(options, transport).read(["KEY"])
    nobody = replace(options, address="http://127.0.0.1:1")
    with pytest.raises(TemporaryError, match=r"WPK_VAULT_ADDR \(http://127.0.0.1:1\)"):
        await Vault(nobody, transport).read(["KEY"])


async def test_the_steps_of_a_run_do_not_each_wait_for_a_vault_that_hangs(
    server: Server, transport: Transport, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault, "TIMEOUT", 0.2)
    server.route(PATH, silent)
    now = 0.0
    source = Vault(options, transport, clock=lambda: now)
    for _ in range(5):
        with pytest.raises(TemporaryError, match="no answer to GET") as caught:
            await source.read(["KEY"])
    assert len(server.seen(PATH)) == 1, "one has waited for all"
    assert caught.value.delay == vault.REST, "so that a retry does not come in vain"
    server.answer(PATH, 200, body=fields(KEY="value"))
    now = vault.REST + 0.1
    assert await source.read(["KEY"]) == {"KEY": "value"}


async def test_an_answer_of_trouble_is_nobody_elses(server: Server, transport: Transport, options: Options) -> None:
    server.answer(PATH, 500, 200, body=fields(KEY="value"))
    source = Vault(options, transport)
    with pytest.raises(TemporaryError):
        await source.read(["KEY"])
    assert await source.read(["KEY"]) == {"KEY": "value"}


async def test_an_answer_without_end_is_not_read_to_its_end(
    server: Server, transport: Transport, options: Options
) -> None:
    server.answer(PATH, 200, body=fields(KEY="x" * 3_000_000))
    with pytest.raises(PermanentError, match="larger than 1 MB"):
        await Vault(options, transport).read(["KEY"])


@pytest.mark.parametrize("content", [None, "", "two\nlines"])
async def test_a_token_file_that_is_none_is_told_by_its_setting(
    transport: Transport, options: Options, token: Path, content: str | None
) -> None:
    write(token, content)
    with pytest.raises(PermanentError, match=f"WPK_VAULT_TOKEN_FILE is {token}"):
        await Vault(options, transport).read(["KEY"])


@pytest.fixture
def by_account(options: Options, tmp_path: Path) -> Options:
    account = tmp_path / "account"
    account.write_text("the.account.token")
    return replace(options, token_file=None, role="wpk-agent", account_file=account)


def logging_in(server: Server, life: int) -> list[object]:
    """Gives a new token at each login; what came with it."""
    given: list[object] = []

    async def handler(exchange: Exchange) -> None:
        given.append(exchange.request.json())
        await exchange.reply_json({"auth": {"client_token": f"hvs.{len(given)}", "lease_duration": life}})

    server.route(LOGIN, handler)
    return given


async def test_the_kubernetes_account_logs_in_once_for_the_tokens_life(
    server: Server, transport: Transport, by_account: Options
) -> None:
    logins = logging_in(server, life=3600)
    server.answer(PATH, 200, body=fields(KEY="value"))
    now = 0.0
    source = Vault(by_account, transport, clock=lambda: now)
    await asyncio.gather(*(source.read(["KEY"]) for _ in range(5)))
    assert logins == [{"role": "wpk-agent", "jwt": "the.account.token"}]
    now = 2401.0
    await source.read(["KEY"])
    assert len(logins) == 2
    assert server.requests[-1].headers["x-vault-token"] == "hvs.2"


async def test_a_token_that_was_revoked_is_replaced_once(
    server: Server, transport: Transport, by_account: Options
) -> None:
    logins = logging_in(server, life=0)
    revoked = {"hvs.1"}

    async def handler(exchange: Exchange) -> None:
        if exchange.request.headers["x-vault-token"] in revoked:
            await exchange.reply_json({"errors": ["permission denied"]}, 403)
        else:
            await exchange.reply_json(fields(KEY="value"))

    server.route(PATH, handler)
    source = Vault(by_account, transport)
    assert await source.read(["KEY"]) == {"KEY": "value"}
    revoked.add("hvs.2")
    revoked.add("hvs.3")
    with pytest.raises(PermanentError, match="answers 403 to the role wpk-agent"):
        await source.read(["KEY"])
    assert len(logins) == 3


async def test_an_account_that_may_not_log_in_is_told(
    server: Server, transport: Transport, by_account: Options
) -> None:
    server.answer(LOGIN, 403, body={"errors": ["service account name not authorized"]})
    with pytest.raises(PermanentError, match=r"answers 403 to the role wpk-agent: the login at auth/kubernetes/login"):
        await Vault(by_account, transport).read(["KEY"])


async def test_a_login_that_is_refused_is_tried_by_one_step_for_all(
    server: Server, transport: Transport, by_account: Options
) -> None:
    server.answer(LOGIN, 403, body={"errors": ["service account name not authorized"]})
    now = 0.0
    source = Vault(by_account, transport, clock=lambda: now)
    ended = await asyncio.gather(*(source.read(["KEY"]) for _ in range(5)), return_exceptions=True)
    assert {type(each) for each in ended} == {PermanentError}
    assert {str(each) for each in ended} == {str(ended[0])}
    assert len(server.seen(LOGIN)) == 1
    logins = logging_in(server, life=3600)
    server.answer(PATH, 200, body=fields(KEY="value"))
    now = vault.REST + 0.1
    assert await source.read(["KEY"]) == {"KEY": "value"}, "a role that was mended counts soon"
    assert len(logins) == 1


async def test_vaults_certificate_is_verified_by_the_given_authorities(transport: Transport, token: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with http_server.serve(tls=context) as server:
        server.answer(PATH, 200, body=fields(KEY="value"))
        options = Options(address=server.base, path="wpk/agent", token_file=token)
        with pytest.raises(StepError, match=r"WPK_VAULT_ADDR .*certificate"):
            await Vault(options, transport).read(["KEY"])
        assert not server.requests
        trusting = replace(options, verify=authority.cert_pem.bytes().decode())
        assert await Vault(trusting, transport).read(["KEY"]) == {"KEY": "value"}


async def test_the_environment_and_files_come_before_vault(
    server: Server, transport: Transport, options: Options, tmp_path: Path
) -> None:
    (tmp_path / "B").write_text("from the file")
    store = SecretStore(environ={"WPK_SECRET_A": "from the environment"}, directory=tmp_path)
    store.beyond = Vault(options, transport)
    server.answer(PATH, 200, body=fields(A="vault's", B="vault's", C="from vault"))
    assert await store.load(["A", "B"]) == {"A": "from the environment", "B": "from the file"}
    assert not server.requests
    given = await store.load(["A", "B", "C", "D"])
    assert given["C"] == "from vault"
    assert store.mask("it is from vault") == "it is ***"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "name the agent's secret by WPK_VAULT_PATH"),
        ({"vault_path": "a"}, "set WPK_VAULT_TOKEN_FILE, or WPK_VAULT_ROLE"),
        ({"vault_path": "a", "vault_role": "r", "vault_token_file": "/t"}, "and not both"),
        ({"vault_path": "a", "vault_role": "r", "vault_cafile": "/absent.pem"}, "WPK_VAULT_CAFILE is /absent.pem"),
    ],
)
def test_settings_that_do_not_fit_are_told(embedded_kafka: KafkaBroker, given: dict[str, object], said: str) -> None:
    settings = agents.settings(embedded_kafka, "t", vault_addr="https://vault:8200", **given)
    with ExitStack() as stack, pytest.raises(SettingsError, match=said):
        vault_of(settings, stack)


async def test_a_step_gets_its_secret_and_nobody_reads_it(
    embedded_kafka: KafkaBroker, prefix: str, server: Server, token: Path
) -> None:
    """A Vault that is sealed for a moment costs the step an attempt."""
    tries: list[int] = []

    async def handler(exchange: Exchange) -> None:
        tries.append(1)
        await exchange.reply_json(*((fields(API_KEY=PASSWORD), 200) if len(tries) > 1 else ({"errors": []}, 503)))

    server.route(PATH, handler)
    step = {
        "name": "show",
        "type": "shell",
        "config": {"command": "echo it is $KEY", "env": {"KEY": "${secrets.API_KEY}"}},
        "retry": {"max_attempts": 3, "backoff": "0.1s"},
    }
    config = agents.settings(
        embedded_kafka, prefix, vault_addr=server.base, vault_path="wpk/agent", vault_token_file=token, sandbox="off"
    )
    await agents.create_topics(config)
    async with agents.running(config), agents.user(config) as topics:
        await topics.execute("one", {"metadata": {"name": "leaks"}, "spec": {"handlers": [step]}})
        result = await topics.over("one")
        assert result.status is Status.COMPLETED, result
        await topics.event("one", "log.lines")
        assert "it is ***" in topics.log("one")
        assert "step.retrying" in topics.names("one")
    assert len(tries) == 2
