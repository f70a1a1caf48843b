"""Secrets from HashiCorp Vault's key-value store, version 2, by its HTTP API.

One secret of the store belongs to the agent, and its fields are what packages name: the field DB_PASSWORD is
`${secrets.DB_PASSWORD}`. It is read when a step starts and kept by nobody here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import orjson

from consumer.adapters.api.guard import AddressGuard
from consumer.adapters.api.message import Answer, Request
from consumer.adapters.api.transport import Transport
from consumer.adapters.api.urls import parse_url
from consumer.errors import PermanentError, SettingsError, StepError, TemporaryError
from consumer.ports import JsonObject
from consumer.settings import Settings

#: Seconds for one answer.
TIMEOUT = 10.0
#: After Vault did not answer, or refused the login, nobody asks again for so long (seconds).
REST = 5.0
#: Of a token's life so much is used before the next login.
_USED = 2 / 3
#: Statuses after which another try may go well, besides those of 500 and above, which a sealed Vault gives (503).
_LATER = (412, 429, 472, 473)
_MAX_FILE = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the secret is and how the agent shows who it is: by a token file, or by its Kubernetes account."""

    address: str
    path: str
    """Of the secret, below the mount and without `data/`."""
    mount: str = "secret"
    namespace: str | None = None
    """Of Vault Enterprise."""
    token_file: Path | None = None
    """Read for each request: Vault's agent renews it."""
    role: str | None = None
    """For a login by the account's token (Vault's auth method `kubernetes`)."""
    auth_mount: str = "kubernetes"
    account_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    verify: bool | str = True
    """True, or the PEM text of the authorities to be trusted."""


@dataclass(frozen=True, slots=True)
class _Login:
    token: str
    until: float


class Vault:
    """Reads the agent's secret. Implements `policy.secrets.Source`."""

    def __init__(self, options: Options, transport: Transport, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._transport = transport
        self._clock = clock
        self._login: _Login | None = None
        self._logging_in = asyncio.Lock()
        self._trouble: StepError | None = None
        """What was met last, for all who come until `_rests_until`."""
        self._rests_until = 0.0

    async def read(self, names: Iterable[str]) -> Mapping[str, str]:
        """The values of those of the named secrets that there are, all of the same version.

        Raises PermanentError where Vault refuses or holds something else than texts, TemporaryError where it can't
        answer now. Where Vault hangs, or refuses the login, one reader meets that, and not each for itself.
        """
        self._rest()
        fields = await self._fields()
        found = {name: fields[name] for name in names if name in fields}
        for name, value in found.items():
            if not isinstance(value, str):
                raise PermanentError(
                    f"the secret {name} can't be read: the field of {self._where} is no text", code="secret_unreadable"
                )
        return {name: value for name, value in found.items() if isinstance(value, str) and value}

    def _rest(self) -> None:
        """Raises what was met just before: a Vault that hangs would hold up each step anew."""
        left = self._rests_until - self._clock()
        if self._trouble is not None and left > 0:
            text, code = str(self._trouble), self._trouble.code
            if isinstance(self._trouble, TemporaryError):
                raise TemporaryError(text, code=code, delay=left)
            raise PermanentError(text, code=code)

    def _met(self, error: StepError) -> None:
        """Keeps it for those who come next. Only what costs time or asks for trouble: a single 500 is nobody else's."""
        self._trouble, self._rests_until = error, self._clock() + REST

    @property
    def _where(self) -> str:
        return f"{self._options.mount}/{self._options.path} in Vault"

    async def _fields(self) -> JsonObject:
        path = f"{quote(self._options.mount)}/data/{quote(self._options.path)}"
        answer = await self._asked(path, await self._token())
        if answer.status == 403 and self._login is not None:
            self._login = None  # it may have been revoked, and a new one may be right
            answer = await self._asked(path, await self._token())
        if answer.status == 404:
            return {}  # there is no such secret, or its newest version was deleted
        if answer.status != 200:
            raise _refused(
                answer, f'reading {self._where} needs the capability "read" on {path}', self._who, self._options
            )
        outer = _object(answer, "data", self._options)
        fields = outer.get("data")
        if not isinstance(fields, dict):
            message = "its answer has no data.data; is WPK_VAULT_MOUNT a key-value store of version 2?"
            raise _unreadable(self._options, message)
        return fields

    @property
    def _who(self) -> str:
        return f"the role {self._options.role}" if self._options.role else "the token of WPK_VAULT_TOKEN_FILE"

    async def _asked(self, path: str, token: str) -> Answer:
        return await self._exchange("GET", path, (("X-Vault-Token", token),))

    async def _exchange(
        self, method: str, path: str, headers: tuple[tuple[str, str], ...] = (), content: bytes | None = None
    ) -> Answer:
        if self._options.namespace is not None:
            headers = (*headers, ("X-Vault-Namespace", self._options.namespace))
        url = parse_url(f"{self._options.address}/v1/{path}")
        request = Request(method=method, url=url, headers=(*headers, ("X-Vault-Request", "true")), content=content)
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await self._transport.exchange(request, self._options.verify)
        except TimeoutError as error:
            away = _away(self._options, f"no answer to {request} within {TIMEOUT:g} s")
            self._met(away)
            raise away from error
        except TemporaryError as error:
            raise _away(self._options, str(error)) from error
        except PermanentError as error:
            raise _unreadable(self._options, str(error)) from error
        if answer.status >= 500 or answer.status in _LATER:
            sealed = "; it is sealed or in maintenance" if answer.status == 503 else ""
            raise _away(self._options, f"it answers {answer.status} to {request}{sealed}")
        if 300 <= answer.status < 400:
            message = f"it answers {answer.status} to {request}, as another node is active; name what leads to that one"
            raise _unreadable(self._options, message)
        if not answer.complete:
            raise _unreadable(self._options, f"the answer to {request} is larger than 1 MB")
        return answer

    async def _token(self) -> str:
        if self._options.token_file is not None:
            return await asyncio.to_thread(_content, self._options.token_file, "WPK_VAULT_TOKEN_FILE")
        async with self._logging_in:
            if self._login is None or self._clock() >= self._login.until:
                self._rest()  # of who waited here the first one has met it
                try:
                    self._login = await self._log_in()
                except PermanentError as error:
                    self._met(error)
                    raise
            return self._login.token

    async def _log_in(self) -> _Login:
        """By the account's token, which the kubelet renews in its file."""
        account = await asyncio.to_thread(_content, self._options.account_file, "WPK_VAULT_ACCOUNT_FILE")
        body = orjson.dumps({"role": self._options.role, "jwt": account})
        path = f"auth/{quote(self._options.auth_mount)}/login"
        answer = await self._exchange("POST", path, (("Content-Type", "application/json"),), body)
        if answer.status != 200:
            raise _refused(
                answer, f"the login at {path} needs the role to allow the agent's account", self._who, self._options
            )
        login = _object(answer, "auth", self._options)
        token, life = login.get("client_token"), login.get("lease_duration")
        if not isinstance(token, str) or not token:
            raise _unreadable(self._options, "its answer to the login has no token")
        lasts = float(life) if isinstance(life, int | float) and life > 0 else float("inf")
        return _Login(token, self._clock() + lasts * _USED)


def vault_of(settings: Settings, stack: ExitStack) -> Vault | None:
    """The Vault that the settings name; None where they name none. The stack closes it. Raises SettingsError."""
    if settings.vault_addr is None:
        return None
    if settings.vault_path is None:
        raise SettingsError("WPK_VAULT_ADDR is set: name the agent's secret by WPK_VAULT_PATH, such as wpk/agent")
    if (settings.vault_token_file is None) == (settings.vault_role is None):
        raise SettingsError(
            "WPK_VAULT_ADDR is set: set WPK_VAULT_TOKEN_FILE, or WPK_VAULT_ROLE for a login by the Kubernetes account, "
            "and not both"
        )
    transport = Transport(AddressGuard(("*",)))
    stack.callback(transport.close)
    authorities = settings.vault_cafile
    return Vault(
        Options(
            address=settings.vault_addr,
            path=settings.vault_path.strip("/"),
            mount=settings.vault_mount.strip("/"),
            namespace=settings.vault_namespace,
            token_file=settings.vault_token_file,
            role=settings.vault_role,
            auth_mount=settings.vault_auth_mount.strip("/"),
            account_file=settings.vault_account_file,
            verify=True if authorities is None else _authorities(authorities),
        ),
        transport,
    )


def _authorities(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is no PEM file"
        raise SettingsError(f"WPK_VAULT_CAFILE is {path}, which can't be read: {reason}") from error


def _content(path: Path, setting: str) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE).decode("ascii").strip()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise PermanentError(f"{setting} is {path}, which can't be read: {reason}", code="secret_unreadable") from error
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        message = f"{setting} is {path}, which does not hold one token and nothing else"
        raise PermanentError(message, code="secret_unreadable")
    return text


def _object(answer: Answer, name: str, options: Options) -> JsonObject:
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        document = None  # the text may show a value
    found = document.get(name) if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise _unreadable(options, f"its answer is no JSON object with {name}; is it a Vault?")
    return found


def _refused(answer: Answer, needs: str, who: str, options: Options) -> PermanentError:
    return _unreadable(options, f"it answers {answer.status} to {who}: {needs}")


def _unreadable(options: Options, reason: str) -> PermanentError:
    return PermanentError(f"no secrets from WPK_VAULT_ADDR ({options.address}): {reason}", code="secret_unreadable")


def _away(options: Options, reason: str) -> TemporaryError:
    return TemporaryError(f"no secrets from WPK_VAULT_ADDR ({options.address}): {reason}", code="secret_unavailable")
