"""The agent's notifier, as its settings describe it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, ExitStack

from consumer.adapters.api.guard import AddressGuard
from consumer.adapters.api.transport import Transport
from consumer.adapters.api.urls import parse_url
from consumer.clock import SystemClock
from consumer.errors import SettingsError
from consumer.journal.connection import KafkaConnection
from consumer.journal.feed import Feed, open_feed
from consumer.journal.topics import TopicNames
from consumer.outward.mail import MailServer
from consumer.outward.notifier import Notifier, Options
from consumer.outward.sending import Sender
from consumer.policy.secrets import SecretStore
from consumer.ports import Topic
from consumer.settings import Settings
from consumer.settings.model import variable
from consumer.telemetry.metrics import Metrics
from consumer.workflow import values
from schemas.events import PlannedAlert


def notifier_of(
    settings: Settings, connection: KafkaConnection, secrets: SecretStore, metrics: Metrics, stack: ExitStack
) -> Notifier | None:
    """The notifier; None where nothing is to be sent. Raises SettingsError."""
    own = own_alerts(settings)
    if not own and not settings.alerts:
        return None
    topic = TopicNames(settings.topic_prefix).name(Topic.RESULTS)
    group = f"{settings.group_id}-notices"

    def opened(on_lost: Callable[[Iterable[int]], None]) -> AbstractAsyncContextManager[Feed]:
        return open_feed(
            connection,
            topic,
            group,
            on_lost,
            fetch_wait_ms=settings.fetch_max_wait_ms,
            session_timeout=settings.session_timeout,
        )

    guarded, trusted = Transport(AddressGuard(settings.http_allow)), Transport(AddressGuard(("*",)))
    stack.callback(guarded.close)
    stack.callback(trusted.close)
    token = settings.registry_token.get_secret_value() if settings.registry_token else None
    sender = Sender(
        guarded=guarded,
        trusted=trusted,
        secrets=secrets.load,
        now=SystemClock().now,
        mail=_mail(settings),
        registry_token=token,
    )
    return Notifier(opened, sender, Options(own=own, give_up=settings.notify_timeout), metrics)


def own_alerts(settings: Settings) -> tuple[PlannedAlert, ...]:
    """The agent's own alerts. Raises SettingsError where they contradict each other."""
    for field in ("notify_slack", "notify_webhook"):
        _check_address(variable(field), getattr(settings, field))
    good = settings.notify_on == "all"
    found = []
    if settings.notify_slack:
        found.append(PlannedAlert(type="slack", to=(settings.notify_slack,), on_failure=True, on_success=good))
    if settings.notify_webhook:
        to, secret = (settings.notify_webhook,), settings.notify_webhook_secret
        found.append(PlannedAlert(type="webhook", to=to, secret=secret, on_failure=True, on_success=good))
    if settings.notify_email:
        if settings.smtp_server is None:
            raise SettingsError("WPK_NOTIFY_EMAIL is set, but WPK_SMTP_SERVER is not: no mail can be sent")
        found.append(PlannedAlert(type="email", to=settings.notify_email, on_failure=True, on_success=good))
    if settings.registry_callback:
        if settings.registry_url is None:
            raise SettingsError("WPK_REGISTRY_CALLBACK is set, but WPK_REGISTRY_URL is not")
        to = (f"{values.escape(settings.registry_url)}/executions",)
        found.append(PlannedAlert(type="registry", to=to, on_failure=True, on_success=True))
    return tuple(found)


def _check_address(name: str, address: str | None) -> None:
    """What can be known of it before its secrets are."""
    if address is None or "${" in address:
        return
    try:
        parse_url(address)
    except ValueError as error:
        raise SettingsError(f"{name} {error}") from error


def _mail(settings: Settings) -> MailServer | None:
    if settings.smtp_server is None:
        return None
    host, _, port = settings.smtp_server.strip().rpartition(":")
    return MailServer(
        host=host.strip("[]"),
        port=int(port),
        security=settings.smtp_security,
        sender=settings.smtp_sender,
        username=settings.smtp_username,
        password=settings.smtp_password.get_secret_value() if settings.smtp_password else None,
    )
