"""Finds the cluster: a kubeconfig (several paths merged, as kubectl does it) or the pod's service account.

The library is imported here only, and only when a step needs it: it costs a third of a second and 60 MB.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from consumer.adapters.k8s import errors

if TYPE_CHECKING:  # the library is imported lazily
    from kubernetes_asyncio.client import ApiClient

_DEFAULT_KUBECONFIG = Path("~/.kube/config")
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_POOL = 100


@dataclass(frozen=True, slots=True)
class Connection:
    """An open client and what is known of its cluster."""

    api: ApiClient
    namespace: str
    """Where steps work that name no namespace."""
    source: Connector

    @property
    def host(self) -> str:
        """Where the API server is, for messages."""
        return str(self.api.configuration.host)

    async def renew(self) -> None:
        """Reads the credentials again (an exec plugin's token that expired, a rotated file)."""
        await self.source.load(self.api.configuration)


class Connector:
    """Where the cluster is described. `kubeconfig` is a path, or several with the system's path separator."""

    def __init__(self, kubeconfig: str | None) -> None:
        self._kubeconfig = kubeconfig

    async def connect(self) -> Connection:
        """Opens a client; it connects with the first request. Raises PermanentError `no_cluster`."""
        await asyncio.to_thread(importlib.import_module, "kubernetes_asyncio.config")  # a third of a second
        from kubernetes_asyncio.client import ApiClient, Configuration  # noqa: PLC0415 - lazy, see above

        configuration = Configuration()
        configuration.connection_pool_maxsize = _POOL
        namespace = await self.load(configuration)
        api = ApiClient(configuration=configuration)
        api.user_agent = "wpk-agent"
        return Connection(api, namespace, self)

    async def load(self, configuration: Any) -> str:
        """Fills the library's Configuration; gives the default namespace."""
        try:
            paths = self._paths()
            if paths is None:
                return await asyncio.to_thread(_load_in_cluster, configuration)
            return await _load_kubeconfig(paths, configuration)
        except (OSError, yaml.YAMLError, AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise errors.no_cluster(f"the kubeconfig can't be used ({_short(error)})") from error
        except Exception as error:
            from kubernetes_asyncio.config import ConfigException  # noqa: PLC0415 - lazy, see above

            if not isinstance(error, ConfigException):
                raise
            raise errors.no_cluster(_short(error)) from error

    def _paths(self) -> list[Path] | None:
        """The kubeconfig files that exist; None: use the pod's service account."""
        if self._kubeconfig:
            named = [Path(part).expanduser() for part in self._kubeconfig.split(os.pathsep) if part]
            found = [path for path in named if path.is_file()]
            if not found:
                raise errors.no_cluster(f"there is no file {self._kubeconfig}")
            return found
        default = _DEFAULT_KUBECONFIG.expanduser()
        if default.is_file():
            return [default]
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            return None
        raise errors.no_cluster(f"no kubeconfig is set, {default} does not exist, and this is no pod")


async def _load_kubeconfig(paths: list[Path], configuration: Any) -> str:
    """Loads merged files. The library lets the last `current-context` win; kubectl (and we) the first."""
    from kubernetes_asyncio.config import load_kube_config  # noqa: PLC0415 - lazy, see above

    documents = await asyncio.to_thread(lambda: [yaml.safe_load(path.read_text()) or {} for path in paths])
    for path, document in zip(paths, documents, strict=True):
        if not isinstance(document, dict):
            raise errors.no_cluster(f"{path} is no kubeconfig")
    current = next((str(d["current-context"]) for d in documents if d.get("current-context")), None)
    if current is None:
        raise errors.no_cluster(f"{os.pathsep.join(map(str, paths))} sets no current-context")
    # A first file without a section breaks the library's merger, so the merged names are checked here, in our words.
    if not any(c.get("name") == current for d in documents for c in d.get("contexts") or []):
        raise errors.no_cluster(f'the current-context "{current}" is not among the contexts')
    loader = await load_kube_config(
        config_file=os.pathsep.join(map(str, paths)),
        context=current,
        client_configuration=configuration,
        persist_config=False,
    )
    context = loader.current_context or {}
    return str((context.get("context") or {}).get("namespace") or "default")


def _load_in_cluster(configuration: Any) -> str:
    from kubernetes_asyncio import config  # noqa: PLC0415 - lazy, see above

    load: Any = config.load_incluster_config
    load(client_configuration=configuration)
    try:
        return _NAMESPACE_FILE.read_text().strip() or "default"
    except OSError:
        return "default"


def _short(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
