"""Credentials of a kubeconfig's exec plug-in, by the protocol `client.authentication.k8s.io` (v1 and v1beta1).

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins

The library's own way has no bound, leaves a plug-in that hangs behind, and knows no certificate beside a token.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from consumer.adapters.k8s import errors

#: What a plug-in may say, on either stream; a longer answer is none (bytes).
_MAX_SAID = 1_000_000
#: Seconds for the processes of a group that was killed to be gone.
_REAP_SECONDS = 5.0


class _Variable(BaseModel):
    name: str
    value: str


class Plugin(BaseModel):
    """The section `exec` of a user."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    api_version: str = Field(alias="apiVersion")
    command: str = Field(min_length=1)
    args: tuple[str, ...] | None = None
    env: tuple[_Variable, ...] | None = None
    provide_cluster: bool = Field(default=False, alias="provideClusterInfo")
    interactive: Literal["Never", "IfAvailable", "Always"] = Field(default="IfAvailable", alias="interactiveMode")
    hint: str | None = Field(default=None, alias="installHint")


class _Status(BaseModel):
    token: str | None = None
    certificate: str | None = Field(default=None, alias="clientCertificateData")
    key: str | None = Field(default=None, alias="clientKeyData")
    expires: AwareDatetime | None = Field(default=None, alias="expirationTimestamp")


class _Answer(BaseModel):
    api_version: str = Field(alias="apiVersion")
    kind: Literal["ExecCredential"]
    status: _Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a plug-in gave."""

    token: str | None
    certificate: str | None
    """The client's, with those that it is issued by (PEM)."""
    key: str | None
    expires: datetime | None
    """When another must be asked for; None: when it is no longer accepted."""

    def user(self) -> dict[str, str]:
        """As a user of a kubeconfig."""
        found = {"token": self.token} if self.token else {}
        if self.certificate and self.key:
            pairs = (("client-certificate-data", self.certificate), ("client-key-data", self.key))
            found |= {name: base64.b64encode(text.encode()).decode() for name, text in pairs}
        return found


async def credentials(section: object, cluster: Mapping[str, object], directory: Path, seconds: float) -> Credentials:
    """Runs the plug-in of a user's section `exec`. `directory`: of the kubeconfig, which a relative path starts from.

    Raises TemporaryError `no_credentials`, with what the plug-in wrote to its stderr. Whatever it started ends with it.
    """
    try:
        plugin = Plugin.model_validate(section)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise errors.no_credentials(f"its section exec.{where} is wrong: {error.errors()[0]['msg']}") from error
    if plugin.interactive == "Always":
        raise errors.no_credentials(f"{plugin.command} wants a terminal (interactiveMode: Always), and there is none")
    said = await _run(plugin, cluster, directory, seconds)
    return _read(plugin, said)


def _read(plugin: Plugin, said: bytes) -> Credentials:
    """What is in the answer. It is never quoted: it holds the credentials."""
    try:
        answer = _Answer.model_validate(json.loads(said))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise errors.no_credentials(f"{plugin.command} gives no ExecCredential ({where} is missing or wrong)") from None
    except ValueError:
        raise errors.no_credentials(f"{plugin.command} gives no JSON") from None
    status = answer.status
    if answer.api_version != plugin.api_version:
        raise errors.no_credentials(
            f"{plugin.command} answers in {answer.api_version}, the kubeconfig says {plugin.api_version}"
        )
    if bool(status.certificate) != bool(status.key) or not (status.token or status.certificate):
        raise errors.no_credentials("it gives neither a token nor a certificate with its key")
    return Credentials(token=status.token, certificate=status.certificate, key=status.key, expires=status.expires)


async def _run(plugin: Plugin, cluster: Mapping[str, object], directory: Path, seconds: float) -> bytes:
    command = plugin.command
    if os.sep in command:
        command = str(directory / command)
    environment = {**os.environ, **{each.name: each.value for each in plugin.env or ()}}
    environment["KUBERNETES_EXEC_INFO"] = json.dumps(_info(plugin, cluster))
    said, complained = bytearray(), bytearray()
    try:
        async with asyncio.timeout(seconds), _process(command, plugin, environment) as process:
            assert process.stdout is not None and process.stderr is not None
            async with asyncio.TaskGroup() as group:
                group.create_task(_collect(process.stdout, said))
                group.create_task(_collect(process.stderr, complained))
            code = await process.wait()
    except TimeoutError:
        raise errors.no_credentials(f"no answer within {seconds:g} s{_told(complained)}") from None
    except FileNotFoundError:
        hint = f"; {plugin.hint}" if plugin.hint else ""
        raise errors.no_credentials(f"there is no program {plugin.command}{hint}") from None
    except OSError as error:
        raise errors.no_credentials(f"{plugin.command} can't be run: {error.strerror}") from error
    if code != 0:
        raise errors.no_credentials(f"{plugin.command} ended with {code}{_told(complained)}")
    return bytes(said)


@asynccontextmanager
async def _process(
    command: str, plugin: Plugin, environment: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The plug-in in a group of its own, of which nothing is left at the end."""
    process = await asyncio.create_subprocess_exec(
        command,
        *(plugin.args or ()),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), _REAP_SECONDS)


async def _collect(stream: asyncio.StreamReader, into: bytearray) -> None:
    """Reads to the end; what is too much is not kept."""
    while chunk := await stream.read(65536):
        into += chunk[: max(0, _MAX_SAID - len(into))]


def _told(complained: bytearray) -> str:
    """The end of what it wrote to stderr, on one line."""
    text = " ".join(complained.decode(errors="replace").split())
    return f": {text[-500:]}" if text else ""


def _info(plugin: Plugin, cluster: Mapping[str, object]) -> dict[str, object]:
    """KUBERNETES_EXEC_INFO."""
    spec: dict[str, object] = {"interactive": False}
    if plugin.provide_cluster:
        names = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
        spec["cluster"] = {name: cluster[name] for name in names if name in cluster}
    return {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
