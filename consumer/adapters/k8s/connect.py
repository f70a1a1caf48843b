"""Finds the cluster: a kubeconfig (several paths merged, as kubectl does it) or the pod's service account.

The library is imported here only, and only when a step needs it: it costs a third of a second and 60 MB.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from consumer.adapters.k8s import errors, plugin
from consumer.errors import StepError

if TYPE_CHECKING:  # the library is imported lazily
    from kubernetes_asyncio.client import ApiClient

_DEFAULT_KUBECONFIG = Path("~/.kube/config")
#: Where Kubernetes puts a pod's token, namespace and authority.
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_POOL = 100
#: How long an exec plug-in of the kubeconfig may take.
_PLUGIN_SECONDS = 60.0
#: How long a server that gives the kubeconfig's tokens may take.
_LOAD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Connection:
    """An open client and what is known of its cluster."""

    api: ApiClient
    namespace: str
    """Where steps work that name no namespace."""
    identity: tuple[bytes, ...]
    """What an open session can't change: where the server is, the authorities, the client's certificate."""
    expires: datetime | None = None
    """When its credentials do, where an exec plug-in says so."""

    @property
    def expired(self) -> bool:
        """Whether other credentials must be asked for before the next request."""
        return self.expires is not None and datetime.now(UTC) >= self.expires

    @property
    def host(self) -> str:
        """Where the API server is, for messages."""
        return str(self.api.configuration.host)


class Connector:
    """Where the cluster is described. `kubeconfig` is a path, or several with the system's path separator."""

    def __init__(
        self,
        kubeconfig: str | None,
        account: Path = _ACCOUNT,
        *,
        context: str | None = None,
        plugin_seconds: float = _PLUGIN_SECONDS,
    ) -> None:
        """`account`: the directory of the pod's service account. `context`: else the kubeconfig's current one.

        `plugin_seconds`: how long an exec plug-in may take.
        """
        self._kubeconfig = kubeconfig
        self._account = account
        self._context = context
        self._plugin_seconds = plugin_seconds

    async def connect(self, former: Connection | None = None) -> Connection:
        """Opens a client; it connects with the first request. Raises PermanentError `no_cluster`.

        `former`: one whose credentials are no longer accepted. They are read again, and its session is used on unless
        the certificate is another one now.
        """
        await asyncio.to_thread(importlib.import_module, "kubernetes_asyncio.config")  # a third of a second
        from kubernetes_asyncio.client import ApiClient, Configuration  # noqa: PLC0415 - lazy, see above

        configuration = Configuration()
        configuration.connection_pool_maxsize = _POOL
        namespace, expires = await self.load(configuration)
        identity = await asyncio.to_thread(_identity, configuration)
        if former is not None and former.identity == identity:
            used: Any = former.api.configuration
            used.api_key, used.refresh_api_key_hook = configuration.api_key, configuration.refresh_api_key_hook
            return Connection(former.api, namespace, identity, expires)
        api = ApiClient(configuration=configuration)
        api.user_agent = "wpk-agent"
        return Connection(api, namespace, identity, expires)

    async def load(self, configuration: Any) -> tuple[str, datetime | None]:
        """Fills the library's Configuration; gives the default namespace, and when the credentials expire."""
        try:
            paths = self._paths()
            if paths is None:
                return await asyncio.to_thread(_load_in_cluster, configuration, self._account), None
            return await self._load_kubeconfig(paths, configuration)
        except (OSError, yaml.YAMLError, AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise errors.no_cluster(f"the kubeconfig can't be used ({_short(error)})") from error
        except StepError:
            raise
        except Exception as error:
            from kubernetes_asyncio.config import ConfigException  # noqa: PLC0415 - lazy, see above

            if not isinstance(error, ConfigException):
                raise
            raise errors.no_cluster(_short(error)) from error

    async def _load_kubeconfig(self, paths: list[Path], configuration: Any) -> tuple[str, datetime | None]:
        """Loads merged files."""
        from kubernetes_asyncio.config.kube_config import (  # noqa: PLC0415 - lazy, see above
            KubeConfigLoader,
            KubeConfigMerger,
        )

        documents = await asyncio.to_thread(lambda: [yaml.safe_load(path.read_text()) or {} for path in paths])
        current = _chosen(paths, documents, self._context)
        merged: Any = KubeConfigMerger(os.pathsep.join(map(str, paths))).config
        loader: Any = KubeConfigLoader(config_dict=merged, config_base_path=None, active_context=current)
        expires = None
        if loader._user is not None and (section := loader._user.safe_get("exec")) is not None:
            given = await plugin.credentials(
                section, loader._cluster.value, Path(loader._user.path or ".").parent, self._plugin_seconds
            )
            loader._user.value, expires = given.user(), given.expires
        async with asyncio.timeout(_LOAD_SECONDS):
            await loader.load_and_set(configuration)
        return str(loader.current_context["context"].get("namespace") or "default"), expires

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
            if self._context is not None:
                raise errors.no_cluster(
                    f'WPK_K8S_CONTEXT is "{self._context}", but there is no kubeconfig with contexts, only the pod\'s '
                    "service account"
                )
            return None
        raise errors.no_cluster(f"no kubeconfig is set, {default} does not exist, and this is no pod")


def _chosen(paths: list[Path], documents: list[Any], wanted: str | None) -> str:
    """The context to use. The library lets the last `current-context` win; kubectl (and we) the first."""
    where = os.pathsep.join(map(str, paths))
    for path, document in zip(paths, documents, strict=True):
        if not isinstance(document, dict):
            raise errors.no_cluster(f"{path} is no kubeconfig")
    current = wanted or next((str(d["current-context"]) for d in documents if d.get("current-context")), None)
    names = list(dict.fromkeys(str(c.get("name")) for d in documents for c in d.get("contexts") or []))
    there = f"it has {', '.join(names[:20])}" if names else "it has none"
    if current is None:
        raise errors.no_cluster(f"{where} sets no current-context; {there}: name one in WPK_K8S_CONTEXT")
    # A first file without a section breaks the library's merger, so the merged names are checked here, in our words.
    if current not in names:
        what = f'the context "{current}" of WPK_K8S_CONTEXT' if wanted else f'the current-context "{current}"'
        raise errors.no_cluster(f"{what} is not among the contexts of {where}; {there}")
    return current


def _load_in_cluster(configuration: Any, account: Path) -> str:
    """The pod's service account. Its token rotates: the library reads it again each minute, and we after a 401."""
    from kubernetes_asyncio.config import incluster_config  # noqa: PLC0415 - lazy, see above

    loader: Any = incluster_config.InClusterConfigLoader(
        token_filename=str(account / "token"), cert_filename=str(account / "ca.crt")
    )
    loader.load_and_set(configuration)
    try:
        return (account / "namespace").read_text().strip() or "default"
    except OSError:
        return "default"


def _identity(configuration: Any) -> tuple[bytes, ...]:
    """See `Connection.identity`."""
    paths = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    return (str(configuration.host).encode(), *(Path(path).read_bytes() if path else b"" for path in paths))


def _short(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
