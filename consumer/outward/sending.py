"""Sends one notice once: to Slack, by mail, to a webhook."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from urllib.parse import quote

import orjson

from consumer.adapters.api.message import Request
from consumer.adapters.api.transport import Transport
from consumer.adapters.api.urls import parse_url
from consumer.adapters.api.verdict import retry_after
from consumer.errors import PermanentError, TemporaryError
from consumer.outward import mail
from consumer.outward.mail import MailServer
from consumer.workflow import alerts, values
from consumer.workflow.alerts import Notice
from schemas.events import PlannedAlert

#: Seconds for one answer.
TIMEOUT = 15.0
_LATER = (408, 425, 429)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """What is needed to send."""

    guarded: Transport
    """For addresses that a package gives: only where WPK_HTTP_ALLOW lets api steps go."""
    trusted: Transport
    """For addresses of the agent's settings."""
    secrets: Callable[[Iterable[str]], Awaitable[Mapping[str, str]]]
    now: Callable[[], datetime]
    mail: MailServer | None = None
    registry_token: str | None = None
    """Sent to the HTTP registry as a bearer token."""
    verify: bool | str = True
    """True, or the PEM text of the authorities whose certificates count."""

    async def send(self, notice: Notice) -> None:
        """Raises StepError: temporary ones may go well later."""
        alert = notice.alert
        secrets = await self.secrets(values.secret_names([*alert.to, alert.secret]))
        try:
            to = [alerts.reveal(text, secrets) for text in alert.to]
            key = alerts.reveal(alert.secret, secrets) if alert.secret else None
        except KeyError as error:
            raise PermanentError(str(error.args[0]), code="no_value") from None
        if alert.type == "email":
            await self._mail(notice, to)
        else:
            body = _slack(notice) if alert.type == "slack" else {"id": notice.id, **notice.summary}
            await self._post(notice, _place(notice, to[0]), orjson.dumps(body), key)

    async def _post(self, notice: Notice, address: str, body: bytes, key: str | None) -> None:
        headers = [("Content-Type", "application/json"), *_signed(notice.id, self.now(), body, key)]
        if notice.trusted and notice.alert.type == "registry" and self.registry_token is not None:
            headers.append(("Authorization", f"Bearer {self.registry_token}"))
        try:
            url = parse_url(address)
        except ValueError as error:
            raise PermanentError(f"its address {error}", code="bad_request") from None
        request = Request(method="POST", url=url, headers=tuple(headers), content=body)
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await (self.trusted if notice.trusted else self.guarded).exchange(request, self.verify)
        except TimeoutError as error:
            raise TemporaryError(f"no answer within {TIMEOUT:g} s", code="timeout") from error
        if 200 <= answer.status < 300:
            return
        text = f"the receiver answers {answer.status}"
        if answer.status >= 500 or answer.status in _LATER:
            raise TemporaryError(text, code="http_status", delay=retry_after(answer.headers.get("retry-after")))
        raise PermanentError(text, code="http_status")

    async def _mail(self, notice: Notice, recipients: list[str]) -> None:
        if self.mail is None:
            raise PermanentError("no mail server is set: WPK_SMTP_SERVER", code="mail")
        message = EmailMessage()
        try:
            message["Subject"] = " ".join(notice.line.split())[:200]
            message["From"], message["To"] = self.mail.sender, ", ".join(recipients)
            message["Message-ID"] = f"<{notice.id}@wpk-agent>"
        except ValueError as error:
            raise PermanentError(f"no mail can be made of it: {error}", code="mail") from None
        message["Date"] = self.now()
        lines = [notice.line, "", *(f"{name}: {value}" for name, value in notice.summary.items() if name != "steps")]
        message.set_content("\n".join(lines))
        await mail.send(self.mail, message)


def _place(notice: Notice, address: str) -> str:
    """Where it is posted to; the registry is told of each execution under its own address."""
    if notice.alert.type != "registry":
        return address
    return f"{address}/{quote(str(notice.summary['execution_id']), safe='')}/result"


def _slack(notice: Notice) -> dict[str, str]:
    """Slack's incoming webhooks take `text`; of `& < >` it makes links and mentions unless they are escaped."""
    text = f"{notice.line} (execution {notice.summary['execution_id']})"
    return {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}


def _signed(name: str, now: datetime, body: bytes, key: str | None) -> list[tuple[str, str]]:
    """The headers of the Standard Webhooks specification, 1.0; a key may be `whsec_` and base64, or any text."""
    at = str(int(now.timestamp()))
    headers = [("webhook-id", name), ("webhook-timestamp", at)]
    if key is not None:
        raw = base64.b64decode(key.removeprefix("whsec_")) if key.startswith("whsec_") else key.encode()
        mac = hmac.new(raw, f"{name}.{at}.".encode() + body, hashlib.sha256).digest()
        headers.append(("webhook-signature", f"v1,{base64.b64encode(mac).decode()}"))
    return headers


def address_kind(alert: PlannedAlert) -> str:
    """For logs, which must not hold an address: it may be a secret itself."""
    return f"{alert.type} of {len(alert.to)}" if alert.type == "email" else alert.type
