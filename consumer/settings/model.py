"""The settings as a model: each field's docstring is its entry in the reference."""

from __future__ import annotations

import functools
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from schemas.scalars import Duration, parse_quantity

#: Variables that do not carry the prefix WPK_: they are other tools' names for the same thing.
_COMMON = frozenset({"prometheus_port", "prometheus_host", "kubeconfig", "log_level", "log_format"})


def variable(field: str) -> str:
    """The environment variable of a field of `Settings`."""
    plain = field in _COMMON or field.startswith("kafka_")
    return field.upper() if plain else f"WPK_{field.upper()}"


def to_items(value: object) -> object:
    """A list, or a text with commas between its items."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def to_bytes(value: object) -> int:
    number = parse_quantity(value)
    if number != int(number):
        raise ValueError(f"{value!r} is no whole number of bytes; write 262144 or 256Ki")
    return int(number)


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _sandbox(value: object) -> object:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else _lower(value)


def _shape(pattern: str, remedy: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(remedy)
        return value

    return AfterValidator(check)


def _expand(path: Path) -> Path:
    return path.expanduser()


_SERVER = r"\s*(\[[0-9a-fA-F:.]+\]|[^\s,:\[\]]+):\d{1,5}\s*"
Servers = Annotated[str, _shape(rf"{_SERVER}(,{_SERVER})*", "write host:port, several by commas")]
Name = Annotated[str, _shape(r"[A-Za-z0-9._-]{1,200}", "write at most 200 of A-Z a-z 0-9 . _ -")]
Names = Annotated[
    tuple[Annotated[str, _shape(r"[A-Za-z_][A-Za-z0-9_]*", "write names of variables, with commas between")], ...],
    BeforeValidator(to_items),
]
Hosts = Annotated[
    tuple[Annotated[str, _shape(r"[^\s/]+(/\d{1,3}(:\d+)?)?", "write host, host:port, a CIDR, or *")], ...],
    BeforeValidator(to_items),
]
Items = Annotated[tuple[str, ...], BeforeValidator(to_items)]
Size = Annotated[int, BeforeValidator(to_bytes)]
File = Annotated[Path, AfterValidator(_expand)]
Url = Annotated[
    str,
    _shape(
        r"https?://[^\s/?#@]+(/[^\s?#]*)?", "write http://host:port or https://host/path, without user and password"
    ),
    AfterValidator(lambda url: url.rstrip("/")),
]
Positive = Annotated[Duration, Field(gt=0)]


@functools.cache
def _process_name() -> str:
    """Host, process and a random part: two agents never share it, one agent keeps it."""
    host = re.sub(r"[^A-Za-z0-9.-]+", "-", socket.gethostname()).strip("-.") or "agent"
    return f"{host[:64]}-{os.getpid()}-{secrets.token_hex(3)}"


class Settings(BaseModel):
    """All settings; in code they have their fields' names, outside their variables' (`variable`)."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
        alias_generator=AliasGenerator(validation_alias=variable),
    )

    kafka_bootstrap_servers: Servers = "localhost:9092"
    """Brokers to begin with, `host:port`, several by commas. The default is a broker on this machine."""
    kafka_security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], BeforeValidator(_upper)
    ] = "PLAINTEXT"
    """What the brokers' listener speaks. The default fits a local broker only: use SASL_SSL or SSL elsewhere."""
    kafka_sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"], BeforeValidator(_upper)
    ] = "PLAIN"
    """How the agent proves who it is; used with the SASL protocols only."""
    kafka_sasl_username: str | None = None
    """User name of PLAIN and SCRAM."""
    kafka_sasl_password: SecretStr | None = None
    """Password of PLAIN and SCRAM; never shown."""
    kafka_ssl_cafile: File | None = None
    """PEM file of the authorities that may have signed the brokers' certificates; without it, the system's."""
    kafka_ssl_certfile: File | None = None
    """PEM file of the agent's own certificate, for mutual TLS."""
    kafka_ssl_keyfile: File | None = None
    """PEM file of the key of KAFKA_SSL_CERTFILE; without it, the key is in that file too."""
    kafka_ssl_keypassword: SecretStr | None = None
    """Password of an encrypted key; never shown."""
    kafka_oauth_token_url: Url | None = None
    """For OAUTHBEARER: the endpoint that gives tokens (client credentials grant). Use https, as it is sent a secret. It
    is asked directly, by no proxy; a token is kept for four fifths of its life."""
    kafka_oauth_client_id: str | None = None
    """Who the agent is to KAFKA_OAUTH_TOKEN_URL."""
    kafka_oauth_client_secret: SecretStr | None = None
    """Secret of KAFKA_OAUTH_CLIENT_ID; never shown."""
    kafka_oauth_scope: str | None = None
    """Scopes to ask for, by spaces; without it the endpoint decides."""
    kafka_oauth_cafile: File | None = None
    """PEM file of the authorities that may have signed that endpoint's certificate; without it, the system's."""
    kafka_oauth_token_file: File | None = None
    """For OAUTHBEARER, instead of the endpoint: a file with a token that somebody else renews, such as a projected
    token of Kubernetes. It is read anew for each connection."""

    topic_prefix: Name = "wpk"
    """First part of the names of all topics: `wpk` gives `wpk.commands.execute` and so on."""
    partitions: int = Field(default=12, ge=1, le=10_000)
    """Partitions of each topic, the same for all; also how many agents can share the work. 12 can be divided evenly
    among 2, 3, 4, 6 or 12. It can't be changed once there are executions."""
    group_id: Name = "wpk-agent"
    """Consumer group; agents with the same one share the work. Transactional ids hold it."""
    processing_guarantee: Annotated[Literal["exactly_once", "at_least_once", "auto"], BeforeValidator(_lower)] = "auto"
    """exactly_once needs a broker with transactions, and the start fails without one. at_least_once is faster, and a
    fault can leave repeated records, which readers ignore. auto asks the broker: exactly_once where it can be had."""
    session_timeout: Annotated[Duration, Field(ge=1, le=1800)] = 30.0
    """How long Kafka waits for a silent agent before its partitions go to others. Shorter: a crash is noticed sooner.
    The default survives a long garbage collection or a burst of work."""
    transaction_timeout: Annotated[Duration, Field(ge=1, le=900)] = 15.0
    """When the broker itself ends a dead agent's open transaction; until then readers of its partitions wait. Must be
    longer than WPK_WRITE_TIMEOUT; brokers allow 15m at most."""
    write_timeout: Annotated[Duration, Field(ge=0.1)] = 10.0
    """How long one write may take before its outcome counts as unknown and the owner looks into the log for it."""
    fetch_max_wait_ms: int = Field(default=500, ge=1, le=30_000)
    """How long (milliseconds) a broker may hold an empty fetch. Apache Kafka answers at once when a record comes; the
    embedded broker does not, so `wpk dev` uses 10."""

    start_timeout: Annotated[Duration, Field(ge=0)] = 300.0
    """How long an agent that starts waits for a Kafka that does not answer: not ready meanwhile, and /readyz says why.
    Then it ends with exit code 3. A wrong user or certificate, or a missing right or topic, ends it at once with exit
    code 2; 0s waits for nothing.
    The default outlives a restart of the brokers beside it."""

    agent_name: Name = Field(default_factory=_process_name)
    """Who this agent is: in every event's `source` and in claims of partitions. Must differ between agents; the default
    is made of host name, process id and a random part."""
    max_executions: int = Field(default=64, ge=1, le=100_000)
    """How many executions may run steps at the same time; more wait on the topic, where they cost nothing. Each may
    start processes, so that more than a few dozen per core is seldom of use."""
    max_waiting: int = Field(default=1000, ge=1, le=1_000_000)
    """How many executions may wait besides (for approval, a backoff, a delay). Each takes about 20 KB of memory, and
    several times its package's size; when the packages of all that have not ended come to 64 MB, more wait on the topic
    too."""
    step_timeout: Positive = 300.0
    """Longest time for one attempt of a step that names no `timeout` itself."""
    approval_timeout: Positive = 86_400.0
    """After that time without an answer an execution that waits for approval is cancelled. One day covers the next
    working morning."""
    state_retention: Positive = 7 * 86_400.0
    """How long after its end an execution can be rolled back by hand, and its id is known; afterwards its state goes.
    A week covers an incident's review. Until then each takes 1 to 4 KB of the memory of the agent that owns it."""
    shutdown_grace: Annotated[Duration, Field(ge=1)] = 25.0
    """How long the whole stop may take. Running steps get all of it but the last 10s (of a grace below 25s, all but the
    last two fifths); then they are ended, all is written, and other agents take over. Keep it below the container's
    termination grace period, which is 30s in Kubernetes."""
    hang_timeout: Annotated[Duration, Field(ge=5)] = 60.0
    """After so long without progress, while Kafka answers, a part that has something to do is begun again; an agent
    whose event loop is blocked for so long ends with exit code 70, for Kubernetes to start it again.
    Must be longer than WPK_WRITE_TIMEOUT."""
    max_command_bytes: Annotated[Size, Field(ge=1024, le=100_000_000)] = 900_000
    """Largest command, package included; a larger one goes to the dead-letter topic. The event that accepts it holds it
    whole, and brokers take records of 1 MB unless told otherwise."""
    max_output_bytes: Annotated[Size, Field(ge=1024, le=10_000_000)] = 256 * 1024
    """Largest output of one step in events and state; the rest is cut with a mark, and whole in the log topic."""
    max_log_bytes: Annotated[Size, Field(ge=1024, le=10_000_000_000)] = 64 * 1024 * 1024
    """How much one attempt of a step may write to the log topic; the rest is counted and dropped, and the log says so.
    The default holds a long build; a step that prints without end fills no disk."""

    sandbox: Annotated[Literal["required", "preferred", "off"], BeforeValidator(_sandbox)] = "required"
    """Shell steps: required refuses them where no sandbox can be made, preferred runs them without one and says so, off
    never makes one. A sandbox is bubblewrap, or Landlock of Linux 6.12 with seccomp where no namespaces can be made
    (docs/security.md). The default lets no step see more of the machine than it should."""
    shell_env: Names = ()
    """Environment variables of the agent that every shell step gets too, by commas. None by default: what is in the
    agent's environment is often secret."""
    allowed_env: Names = ()
    """Environment variables of the agent that packages may name as `${UPPER_CASE}`, by commas."""
    http_allow: Hosts = ()
    """Where api steps may go besides public addresses: host, host:port or CIDR, by commas; `*` allows everything.
    Loopback, private, link-local and metadata addresses are refused unless they are named here."""
    secrets_dir: File | None = None
    """Directory with one file per secret (a mounted Kubernetes secret): file X is `${secrets.X}`."""
    secrets_env_prefix: Annotated[str, _shape(r"[A-Z][A-Z0-9_]*_", "write capitals, with a _ at the end")] = (
        "WPK_SECRET_"
    )
    """Environment variables that begin with it are secrets: WPK_SECRET_DB_PASSWORD is `${secrets.DB_PASSWORD}`."""
    vault_addr: Url | None = None
    """A HashiCorp Vault, asked for secrets that are neither in the environment nor in files, when a step starts."""
    vault_path: str | None = Field(default=None, min_length=1)
    """The agent's secret in Vault's key-value store (version 2), such as wpk/agent: its field X is `${secrets.X}`."""
    vault_mount: str = Field(default="secret", min_length=1)
    """Where that store is mounted."""
    vault_namespace: str | None = None
    """Namespace of Vault Enterprise."""
    vault_token_file: File | None = None
    """File with the token for Vault, read for each request: let Vault's agent renew it."""
    vault_role: str | None = None
    """Instead of a token: the role for a login by the pod's Kubernetes account."""
    vault_auth_mount: str = Field(default="kubernetes", min_length=1)
    """Where Vault's auth method `kubernetes` is mounted."""
    vault_account_file: File = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    """Token of that account, read for each login."""
    vault_cafile: File | None = None
    """PEM file of the authorities that may have signed Vault's certificate; without it, the system's."""
    policy_file: Literal["open"] | File | None = None
    """YAML file that says who may run what: docs/security.md. Without it only k8s steps that change nothing and delays
    run; `open` allows everything, for trying out. One that can't be used ends the start; a change of it counts
    within seconds, and where it can't be used the policy before stays in force."""
    registry_url: Url | None = None
    """An HTTP registry, asked for packages that commands only name by `workflow_id` and that the registry's topic does
    not have: docs/registry.md."""
    registry_token: SecretStr | None = None
    """Sent to WPK_REGISTRY_URL as a bearer token; never shown."""
    registry_timeout: Positive = 120.0
    """How long a registry that does not answer is asked again before the command is refused. The default outlives a
    restart of the registry."""

    registry_callback: bool = False
    """Whether WPK_REGISTRY_URL is told how executions ended: docs/notifications.md."""

    alerts: bool = False
    """Whether this agent sends the alerts of packages (`spec.monitoring.alerts`) that the policy allows:
    docs/notifications.md. Off by default: a package would choose where the agent writes to."""
    notify_slack: str | None = None
    """Slack webhook that is told of all executions of these topics; may hold `${secrets.NAME}`."""
    notify_webhook: str | None = None
    """URL that is told of them by POST; may hold `${secrets.NAME}`."""
    notify_webhook_secret: str | None = None
    """What those messages are signed with, written `${secrets.NAME}`."""
    notify_email: Items = ()
    """Who is told of them by mail, by commas."""
    notify_on: Annotated[Literal["failure", "all"], BeforeValidator(_lower)] = "failure"
    """Of which ends: those that are no success, or all."""
    notify_timeout: Positive = 3600.0
    """How long one notice is tried again before it is given up, which the log and the metrics say."""
    smtp_server: Annotated[str, _shape(_SERVER, "write host:port")] | None = None
    """The mail server, `host:port`; without it no mail is sent."""
    smtp_security: Annotated[Literal["starttls", "tls", "none"], BeforeValidator(_lower)] = "starttls"
    """starttls: encrypted after a greeting, as on port 587; tls: from the beginning, as on 465; none: in the open."""
    smtp_username: str | None = None
    """Who the agent is for the mail server, where that asks."""
    smtp_password: SecretStr | None = None
    """The password of WPK_SMTP_USERNAME; never shown."""
    smtp_sender: str = "wpk-agent@localhost"
    """The address that mails come from."""

    kubeconfig: str | None = None
    """How to reach the cluster: one file, or several by `:`. Without it, the pod's account or ~/.kube/config."""
    k8s_context: str | None = Field(default=None, min_length=1)
    """The context of the kubeconfig that k8s steps use. Without it, its current one."""
    k8s_impersonate: bool = False
    """Whether k8s steps act in the cluster as who asked for the execution (`requested_by`), with that user's rights
    instead of the agent's; then the agent needs the verb `impersonate` on those users. A command's word for who asks is
    taken, so let nobody write commands who may not name others."""
    prometheus_url: Url | None = None
    """The Prometheus server that k8s steps with the action `metrics` ask."""

    prometheus_port: int = Field(default=9464, ge=0, le=65_535)
    """Port of /metrics, /healthz and /readyz; 0 takes any free port and prints it."""
    prometheus_host: str = Field(default="0.0.0.0", min_length=1)  # noqa: S104 - probes and scrapers come from outside
    """Address of that port. All by default, because the kubelet and Prometheus come from outside the container."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    """Least severe lines that the agent logs."""
    log_format: Annotated[Literal["json", "console"], BeforeValidator(_lower)] = "json"
    """json: one object per line, for collectors; console: for eyes. Both go to stderr."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Settings:
        if self.write_timeout >= self.transaction_timeout:
            raise ValueError(
                f"WPK_WRITE_TIMEOUT ({self.write_timeout:g}s) must be shorter than "
                f"WPK_TRANSACTION_TIMEOUT ({self.transaction_timeout:g}s)"
            )
        if self.write_timeout >= self.hang_timeout:
            raise ValueError(
                f"WPK_WRITE_TIMEOUT ({self.write_timeout:g}s) must be shorter than "
                f"WPK_HANG_TIMEOUT ({self.hang_timeout:g}s), or a slow write would be taken for one that hangs"
            )
        for field in ("shell_env", "allowed_env"):
            for name in getattr(self, field):
                if is_secret(name) or name.startswith(self.secrets_env_prefix):
                    raise ValueError(
                        f"{variable(field)} names {name}, which is secret; packages get it as ${{secrets.NAME}} "
                        "and pass it on in a step's env"
                    )
        return self


def is_secret(name: str) -> bool:
    """Whether that variable is a setting whose value is never shown."""
    field = variables().get(name)
    return field is not None and "SecretStr" in str(Settings.model_fields[field].annotation)


def secret_files() -> dict[str, str]:
    """The variables that name a file with a secret setting's value, and that setting's own variable."""
    return {f"{name}_FILE": name for name in variables() if is_secret(name)}


def variables() -> dict[str, str]:
    """The field of each environment variable, in the order of the reference."""
    return {variable(field): field for field in Settings.model_fields}
