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
from consumer.errors import StepError

if TYPE_CHECKING:  # the library is imported lazily
    from kubernetes_asyncio.client import ApiClient

_DEFAULT_KUBECONFIG = Path("~/.kube/config")
#: Where Kubernetes puts a pod's token, namespace and authority.
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_POOL = 100
#: How long an exec plug-in of the kubeconfig may take.
_PLUGIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Connection:
    """An open client and what is known of its cluster."""

    api: ApiClient
    namespace: str
    """Where steps work that name no namespace."""
    identity: tuple[bytes, ...]
    """What an open session can't change: where the server is, the authorities, the client's certificate."""

    @property
    def host(self) -> str:
        """Where the API server is, for messages."""
        return str(self.api.configuration.host)


class Connector:
    """Where the cluster is described. `kubeconfig` is a path, or several with the system's path separator."""

    def __init__(self, kubeconfig: str | None, account: Path = _ACCOUNT) -> None:
        """`account`: the directory of the pod's service account."""
        self._kubeconfig = kubeconfig
        self._account = account

    async def connect(self, former: Connection | None = None) -> Connection:
        """Opens a client; it connects with the first request. Raises PermanentError `no_cluster`.

        `former`: one whose credentials are no longer accepted. They are read again, and its session is used on unless
        the certificate is another one now.
        """
        await asyncio.to_thread(importlib.import_module, "kubernetes_asyncio.config")  # a third of a second
        from kubernetes_asyncio.client import ApiClient, Configuration  # noqa: PLC0415 - lazy, see above

        configuration = Configuration()
        configuration.connection_pool_maxsize = _POOL
        namespace = await self.load(configuration)
        identity = await asyncio.to_thread(_identity, configuration)
        if former is not None and former.identity == identity:
            used: Any = former.api.configuration
            used.api_key, used.refresh_api_key_hook = configuration.api_key, configuration.refresh_api_key_hook
            return Connection(former.api, namespace, identity)
        api = ApiClient(configuration=configuration)
        api.user_agent = "wpk-agent"
        return Connection(api, namespace, identity)

    async def load(self, configuration: Any) -> str:
        """Fills the library's Configuration; gives the default namespace."""
        try:
            paths = self._paths()
            if paths is None:
                return await asyncio.to_thread(_load_in_cluster, configuration, self._account)
            return await _load_kubeconfig(paths, configuration)
        except (OSError, yaml.YAMLError, AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise errors.no_cluster(f"the kubeconfig can't be used ({_short(error)})") from error
        except StepError:
            raise
        except Exception as error:
            from kubernetes_asyncio.config import ConfigException  # noqa: PLC0415 - lazy, see above

            if not isinstance(error, ConfigException):
                raise
            why = _short(error)
            if why.startswith("exec: "):
                raise errors.no_credentials(why.removeprefix("exec: ")) from error
            raise errors.no_cluster(why) from error

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
    try:
        async with asyncio.timeout(_PLUGIN_SECONDS):
            loader = await load_kube_config(
                config_file=os.pathsep.join(map(str, paths)),
                context=current,
                client_configuration=configuration,
                persist_config=False,
            )
    except TimeoutError as error:
        raise errors.no_credentials(f"no answer within {_PLUGIN_SECONDS:g} s") from error
    _check_plugin(loader, configuration)
    context = loader.current_context or {}
    return str((context.get("context") or {}).get("namespace") or "default")


def _check_plugin(loader: Any, configuration: Any) -> None:
    """Raises TemporaryError where the user's exec plug-in gave nothing: the library would go on as nobody."""
    user = loader._user
    if user and "exec" in user and not (configuration.api_key or configuration.cert_file):
        raise errors.no_credentials("it gives neither a token nor a certificate with its key")


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
