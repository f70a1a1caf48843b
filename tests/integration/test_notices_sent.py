"""Single notices over real sockets: what a receiver gets, what is tried again, and what never leaves the agent."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import trustme

from consumer.adapters.api.guard import AddressGuard
from consumer.adapters.api.transport import Transport
from consumer.errors import PermanentError, TemporaryError
from consumer.outward.mail import MailServer
from consumer.outward.sending import Sender
from consumer.workflow import alerts
from consumer.workflow.alerts import Notice
from schemas import events
from schemas.events import PlannedAlert
from schemas.failure import Failure
from tests.support import http_server, mail_server
from tests.support.http_server import Server

pytestmark = pytest.mark.timeout(60)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECRETS = {"HOOK": "s3cret-path", "KEY": "key-of-the-hook", "STANDARD": "whsec_" + base64.b64encode(b"raw").decode()}


async def secrets(names: Iterable[str]) -> Mapping[str, str]:
    return {name: SECRETS[name] for name in names if name in SECRETS}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with http_server.serve() as running:
        yield running


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    guarded, trusted = Transport(AddressGuard()), Transport(AddressGuard(("*",)))
    yield Sender(guarded=guarded, trusted=trusted, secrets=secrets, now=lambda: NOW, registry_token="token")
    guarded.close()
    trusted.close()


def event(kind: type[events.ExecutionResult] = events.ExecutionFailed, **fields: Any) -> events.Event:
    data = kind(
        completed_at=NOW,
        workflow_name="restart",
        error=Failure(type="exit_code", message="<it> & broke"),
        error_message="<it> & broke",
        **fields,
    )
    common = {"execution_id": "e/1", "workflow_id": "restart-1.0.0", "seq": 7, "attempt_epoch": 1, "agent": "a"}
    return events.decode(events.seal(data, common=common, prev_hash="", time=NOW)[1])


def notice(kind: str, *to: str, secret: str | None = None, own: bool = True) -> Notice:
    alert = PlannedAlert(type=kind, to=to, secret=secret, on_failure=True)  # type: ignore[arg-type]
    told = event() if own else event(alerts=(alert,))
    (found,) = alerts.of_result(told, [alert] if own else [])
    return found


async def test_a_webhook_is_signed_so_that_its_receiver_can_tell(server: Server, sender: Sender) -> None:
    server.answer("/hook/s3cret-path", 204)
    for secret, key in (("${secrets.KEY}", b"key-of-the-hook"), ("${secrets.STANDARD}", b"raw")):
        sent = notice("webhook", server.url("/hook/${secrets.HOOK}"), secret=secret)
        await sender.send(sent)
        got = server.requests[-1]
        signed = f"{sent.id}.{int(NOW.timestamp())}.".encode() + got.body
        wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert got.headers["webhook-signature"] == f"v1,{wanted}"
        assert (got.headers["webhook-id"], got.headers["webhook-timestamp"]) == (sent.id, str(int(NOW.timestamp())))
        body = json.loads(got.body)
        assert (body["id"], body["execution_id"], body["status"], body["seq"]) == (sent.id, "e/1", "failed", 7)
        assert "outputs" not in body


async def test_slack_gets_one_line_without_markup_of_others(server: Server, sender: Sender) -> None:
    server.answer("/slack", 200)
    await sender.send(notice("slack", server.url("/slack")))
    assert server.requests[0].json() == {"text": "restart failed: &lt;it&gt; &amp; broke (execution e/1)"}


async def test_the_registry_is_told_under_the_execution_s_own_address(server: Server, sender: Sender) -> None:
    server.fallback = lambda exchange: exchange.reply(200)
    await sender.send(notice("registry", server.url("/api/executions")))
    (got,) = server.requests
    assert got.path == "/api/executions/e/1/result"
    assert got.headers["authorization"] == "Bearer token"


async def test_what_a_receiver_says_of_the_next_try_comes_with_the_error_and_is_bounded(
    server: Server, sender: Sender
) -> None:
    for said, heeded in (("120", 120.0), ("99999999", 3600.0), ("soon", None)):
        server.answer("/hook", 503, headers={"Retry-After": said})
        with pytest.raises(TemporaryError) as caught:
            await sender.send(notice("webhook", server.url("/hook")))
        assert caught.value.delay == heeded


@pytest.mark.parametrize(("status", "kind"), [(503, TemporaryError), (429, TemporaryError), (404, PermanentError)])
async def test_what_time_may_mend_is_told_from_what_it_does_not(
    server: Server, sender: Sender, status: int, kind: type[Exception]
) -> None:
    server.answer("/hook", status)
    with pytest.raises(kind, match=str(status)):
        await sender.send(notice("webhook", server.url("/hook")))


async def test_a_package_s_alert_reaches_no_address_that_api_steps_may_not_go_to(
    server: Server, sender: Sender
) -> None:
    with pytest.raises(PermanentError) as caught:
        await sender.send(notice("webhook", server.url("/hook"), own=False))
    assert caught.value.code == "address_blocked"
    assert server.requests == []


async def test_a_secret_that_is_missing_is_named_and_nothing_is_sent(server: Server, sender: Sender) -> None:
    with pytest.raises(PermanentError, match="NOTHERE"):
        await sender.send(notice("webhook", server.url("/${secrets.NOTHERE}")))
    assert server.requests == []


async def test_a_mail_goes_to_all_recipients_and_carries_an_id(sender: Sender) -> None:
    async with mail_server.serve() as server:
        box = MailServer(host="127.0.0.1", port=server.port, security="none", sender="wpk@example.com")
        post = Sender(guarded=sender.guarded, trusted=sender.trusted, secrets=secrets, now=lambda: NOW, mail=box)
        sent = notice("email", "oncall@example.com", "lead@example.com")
        server.refusals = [451, 451]
        with pytest.raises(TemporaryError):
            await post.send(sent)
        server.refusals = [550, 550]
        with pytest.raises(PermanentError):
            await post.send(sent)
        await post.send(sent)
    (mail,) = server.mails
    assert (mail["Subject"], mail["To"]) == ("restart failed: <it> & broke", "oncall@example.com, lead@example.com")
    assert mail["Message-ID"] == f"<{sent.id}@wpk-agent>"
    assert "execution_id: e/1" in mail.get_content()


def by_mail(sender: Sender, server: mail_server.MailServer, security: Literal["starttls", "tls"]) -> Sender:
    """A sender of mails to that server, under the name of which its certificate is."""
    box = MailServer(host="127.0.0.1", port=server.port, security=security, sender="wpk@example.com")
    return Sender(guarded=sender.guarded, trusted=sender.trusted, secrets=secrets, now=lambda: NOW, mail=box)


def certified(name: str, authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """The one that the agent's system trusts."""
    found = trustme.CA()
    file = tmp_path / "authority.pem"
    found.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return found


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_mail_goes_encrypted_to_a_server_that_proves_who_it_is(
    sender: Sender, authority: trustme.CA, security: Literal["starttls", "tls"]
) -> None:
    async with mail_server.serve(**{security: certified("127.0.0.1", authority)}) as server:
        await by_mail(sender, server, security).send(notice("email", "oncall@example.com"))
    assert (len(server.mails), server.encrypted) == (1, [True])


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("flaw", ["of nobody that is trusted", "of another name"])
async def test_a_mail_server_that_can_t_prove_who_it_is_gets_nothing(
    sender: Sender, authority: trustme.CA, security: Literal["starttls", "tls"], flaw: str
) -> None:
    context = (
        certified("mail.example.com", authority) if flaw == "of another name" else certified("127.0.0.1", trustme.CA())
    )
    async with mail_server.serve(**{security: context}) as server:
        with pytest.raises(TemporaryError, match="can't prove who it is") as caught:
            await by_mail(sender, server, security).send(notice("email", "oncall@example.com"))
    assert caught.value.code == "mail"
    assert server.mails == []


async def test_a_mail_server_without_starttls_gets_nothing_in_the_open(sender: Sender) -> None:
    async with mail_server.serve() as server:
        with pytest.raises(PermanentError, match="SMTPNotSupportedError; see WPK_SMTP"):
            await by_mail(sender, server, "starttls").send(notice("email", "oncall@example.com"))
    assert server.mails == []


async def test_a_recipient_that_would_add_a_header_is_no_recipient(sender: Sender) -> None:
    box = MailServer(host="127.0.0.1", port=1, security="none", sender="wpk@example.com")
    post = Sender(guarded=sender.guarded, trusted=sender.trusted, secrets=secrets, now=lambda: NOW, mail=box)
    with pytest.raises(PermanentError, match="no mail can be made"):
        await post.send(notice("email", "a@example.com\nBcc: all@example.com"))


async def test_without_a_mail_server_the_setting_is_named(sender: Sender) -> None:
    with pytest.raises(PermanentError, match="WPK_SMTP_SERVER"):
        await sender.send(notice("email", "oncall@example.com"))


def told(result: events.Event, **when: bool) -> int:
    alert = PlannedAlert(type="webhook", to=("http://x",), **when)
    return len(list(alerts.of_result(result, [alert])))


def test_only_ends_are_told_and_each_to_whom_it_concerns() -> None:
    good, bad = event(events.ExecutionCompleted), event()
    assert (told(good, on_success=True), told(good, on_failure=True)) == (1, 0)
    assert (told(bad, on_success=True), told(bad, on_failure=True)) == (0, 1)
    both = {"on_success": True, "on_failure": True}
    assert told(event(rollback_follows=True), **both) == 0
    assert told(event(events.ExecutionRolledBack), on_failure=True) == 1
    assert told(event(dry_run=True), **both) == 0
    assert told(event(events.ExecutionCompleted, validate_only=True), **both) == 0
    assert told(event(events.ExecutionRejected), on_failure=True) == 1
    assert told(event(events.ExecutionRejected, command="control"), **both) == 0


def test_an_id_is_the_same_each_time_and_no_other_s() -> None:
    first, again = notice("webhook", "http://x"), notice("webhook", "http://x")
    assert first.id == again.id
    assert notice("webhook", "http://x", own=False).id != first.id
