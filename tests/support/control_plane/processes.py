"""A control plane of its own as processes of this machine: etcd, API server, controllers, scheduler, and kubelets.

All listens on loopback only. etcd forgets on a crash of the machine (no fsync), not on a crash of a process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from consumer.dev.broker import HOST, free_port
from tests.support.control_plane import build
from tests.support.control_plane.certificates import ADMINS, Authority, Pair, credentials, write_kubeconfig
from tests.support.control_plane.handle import KubernetesCluster
from tests.support.daemon import Daemon

_ROOT = Path(__file__).parents[3]
_START_TIMEOUT = 100.0
#: What workloads need. The others (volumes, clouds, certificates, autoscaling …) have nothing to do here.
_CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "replicationcontroller-controller",
    "resourcequota-controller",
    "serviceaccount-controller",
    "statefulset-controller",
    "taint-eviction-controller",
    "ttl-after-finished-controller",
)


class ControlPlane(KubernetesCluster):
    """A cluster of its own in `directory`, with so many nodes. Raises build.Unavailable."""

    def __init__(self, directory: Path, *, nodes: int) -> None:
        self._binary = build.binary()
        self._directory = directory
        self._nodes = nodes
        self._authority = Authority(directory)
        self._admin = self._authority.client("admin", ADMINS)
        self._etcd_url = f"http://{HOST}:{free_port()}"
        self._port = free_port()
        self.url = f"https://{HOST}:{self._port}"
        self._trust = ssl.create_default_context(cafile=str(self._authority.certificate))
        self._trust.load_cert_chain(self._admin.certificate, self._admin.key)
        super().__init__(self._kubeconfig("admin", self._admin), directory)
        self._etcd = self._daemon("etcd", self._etcd_flags())
        self._apiserver = self._daemon("apiserver", self._apiserver_flags())
        self._controllers = self._daemon("controller-manager", self._controller_flags())
        self._scheduler = self._daemon("scheduler", self._client_flags("scheduler"))
        self._kubelet_port = free_port()
        self._kubelet = self._kubelet_daemon()
        self._parts = (self._etcd, self._apiserver, self._controllers, self._scheduler, self._kubelet)

    def __repr__(self) -> str:
        return f"<Kubernetes {build.kubernetes_version()} at {self.url}>"

    # --- for tests -------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self._apiserver.alive

    def kill(self) -> None:
        self._apiserver.kill()

    def pause(self) -> None:
        self._apiserver.pause()

    def resume(self) -> None:
        self._apiserver.resume()

    def restart(self) -> None:
        self.kill()
        self._apiserver.start()
        self._apiserver.await_service(self._is_ready, _START_TIMEOUT)

    def describe(self) -> str:
        words = [f"{part.name} ({'alive' if part.alive else 'ended'}):\n{part.output}" for part in self._parts]
        return "\n\n".join([repr(self), *words])

    def mend(self) -> None:
        """Raises RuntimeError where a part has ended by itself: then nothing can be trusted any more."""
        for part in self._parts:
            if part.failed:
                raise RuntimeError(f"{part.name} has ended by itself; its last words:\n{part.output}")
        if self.alive:
            self.resume()
            self._apiserver.await_service(self._is_ready, _START_TIMEOUT)
        else:
            self.restart()
        self.start_nodes()

    def kill_nodes(self) -> None:
        self._kubelet.kill()

    def start_nodes(self) -> None:
        if not self._kubelet.alive:
            self._kubelet.start()
        self._kubelet.await_service(self._has_nodes, _START_TIMEOUT)

    def simulated(self) -> None:
        pass

    def start(self) -> None:
        """Starts everything and returns when pods can run. Raises RuntimeError with the last words of what failed."""
        self._etcd.start()
        self._apiserver.start()
        self._apiserver.await_service(self._is_ready, _START_TIMEOUT)
        self._controllers.start()
        self._scheduler.start()
        self.start_nodes()
        self._controllers.await_service(self._has_accounts, _START_TIMEOUT)

    def stop(self) -> None:
        """Ends everything; nothing of it is of use afterwards, so nobody is asked."""
        for part in reversed(self._parts):
            part.kill()

    # --- readiness -------------------------------------------------------------------------------------------

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10, context=self._trust) as answer:
            return answer.read()

    def _is_ready(self) -> bool:
        try:
            self._get("/readyz")
        except OSError:  # urllib's errors are of this kind
            return False
        return True

    def _has_nodes(self) -> bool:
        """Whether the nodes are ready, pods may be placed there, and their logs can be had."""
        try:
            socket.create_connection((HOST, self._kubelet_port), timeout=1).close()
            items = json.loads(self._get("/api/v1/nodes"))["items"]
        except OSError:
            return False
        ready = [item for item in items if _is_true(item, "Ready") and not item["spec"].get("taints")]
        return len(ready) >= self._nodes

    def _has_accounts(self) -> bool:
        try:
            self._get("/api/v1/namespaces/default/serviceaccounts/default")
        except OSError:
            return False
        return True

    # --- parts -----------------------------------------------------------------------------------------------

    def _daemon(self, name: str, flags: dict[str, object]) -> Daemon:
        arguments = [str(self._binary), name, *(f"--{flag}={value}" for flag, value in flags.items())]
        # Go takes all cores for its garbage collector otherwise, and there are tests to run too.
        environment = {"PATH": os.defpath, "HOME": str(self._directory), "GOMAXPROCS": "2"}
        return Daemon(name, arguments, directory=self._directory, environment=environment)

    def _kubeconfig(self, name: str, user: Pair) -> Path:
        path = self._directory / f"{name}.kubeconfig"
        return write_kubeconfig(path, server=self.url, authority=self._authority.pem, user=credentials(user))

    def _etcd_flags(self) -> dict[str, object]:
        peers = f"http://{HOST}:{free_port()}"
        return {
            "data-dir": self._directory / "etcd",
            "listen-client-urls": self._etcd_url,
            "advertise-client-urls": self._etcd_url,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"default={peers}",
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        }

    def _apiserver_flags(self) -> dict[str, object]:
        server = self._authority.server("apiserver")
        kubelets = self._authority.client("apiserver-kubelet-client", ADMINS)
        accounts = self._authority.client("service-accounts").key
        return {
            "etcd-servers": self._etcd_url,
            "bind-address": HOST,
            "advertise-address": HOST,
            "endpoint-reconciler-type": "none",  # it would refuse to publish a loopback address
            "secure-port": self._port,
            "service-cluster-ip-range": "10.96.0.0/16",
            "authorization-mode": "RBAC",
            "client-ca-file": self._authority.certificate,
            "tls-cert-file": server.certificate,
            "tls-private-key-file": server.key,
            "kubelet-certificate-authority": self._authority.certificate,
            "kubelet-client-certificate": kubelets.certificate,
            "kubelet-client-key": kubelets.key,
            "kubelet-preferred-address-types": "InternalIP",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": accounts,
            "service-account-signing-key-file": accounts,
            "profiling": "false",
            "shutdown-delay-duration": "0s",
        }

    def _client_flags(self, name: str) -> dict[str, object]:
        user = self._authority.client(f"system:kube-{name}", ADMINS)
        return {
            "kubeconfig": self._kubeconfig(name, user),
            "secure-port": 0,
            "leader-elect": "false",
            "kube-api-qps": 500,
            "kube-api-burst": 1000,
            "profiling": "false",
        }

    def _controller_flags(self) -> dict[str, object]:
        return {**self._client_flags("controller-manager"), "controllers": ",".join(_CONTROLLERS)}

    def _kubelet_daemon(self) -> Daemon:
        server = self._authority.server("kubelet")
        options = {
            "kubeconfig": self._kubeconfig("kubelets", self._authority.client("kubelets", ADMINS)),
            "nodes": self._nodes,
            "port": self._kubelet_port,
            "certificate": server.certificate,
            "key": server.key,
            "clients": self._authority.certificate,
        }
        arguments = [sys.executable, "-m", "tests.support.kubelet", *(f"--{n}={value}" for n, value in options.items())]
        environment = {"PATH": os.defpath, "PYTHONPATH": str(_ROOT)}
        return Daemon("kubelets", arguments, directory=self._directory, environment=environment)


def _is_true(item: dict[str, Any], condition: str) -> bool:
    conditions = item.get("status", {}).get("conditions", [])
    return any(each["type"] == condition and each["status"] == "True" for each in conditions)


@contextlib.contextmanager
def control_plane(*, nodes: int = 3) -> Iterator[ControlPlane]:
    """A control plane of its own while the block lasts. Raises build.Unavailable where it was not built."""
    with tempfile.TemporaryDirectory(prefix="wpk-control-plane-", ignore_cleanup_errors=True) as directory:
        plane = ControlPlane(Path(directory), nodes=nodes)
        try:
            plane.start()
            yield plane
        finally:
            plane.stop()
