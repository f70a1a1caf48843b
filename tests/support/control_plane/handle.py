"""What a test may do to a cluster, wherever it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.control_plane.kubectl import Kubectl


class KubernetesCluster:
    """A cluster and the faults that a test may give it. The faults block: from a coroutine, by `asyncio.to_thread`."""

    def __init__(self, kubeconfig: Path, home: Path) -> None:
        self.kubeconfig = kubeconfig
        """Of a user who may do everything."""
        self.kubectl = Kubectl(kubeconfig, home)
        self._home = home

    @property
    def alive(self) -> bool:
        """Whether its API server runs (also while paused)."""
        raise NotImplementedError

    def kill(self) -> None:
        """Ends the API server as a power cut would; what it knew is safe, and pods go on."""
        raise NotImplementedError

    def pause(self) -> None:
        """Lets the API server hang: its connections stay open, nothing answers."""
        raise NotImplementedError

    def resume(self) -> None:
        """Lets a paused API server go on."""
        raise NotImplementedError

    def restart(self) -> None:
        """Kills the API server if it runs, starts it on the same port; returns when it serves."""
        raise NotImplementedError

    def describe(self) -> str:
        """For who looks why a test failed: what the parts of the cluster wrote last."""
        raise NotImplementedError

    def mend(self) -> None:
        """Takes back every fault that a test left; at once where there is none."""
        raise NotImplementedError

    def kill_nodes(self) -> None:
        """Ends the kubelets: no pod changes any more, no log can be read."""
        raise NotImplementedError

    def start_nodes(self) -> None:
        """Brings the kubelets back to the pods that they had."""
        raise NotImplementedError

    def simulated(self) -> None:
        """Skips a test whose pods behave as annotations ask (tests.support.kubelet), where pods are real ones."""
        raise NotImplementedError

    async def restricted(self, namespace: str, rules: list[dict[str, list[str]]], name: str = "restricted") -> Path:
        """The kubeconfig of a service account that may do in `namespace` just what RBAC `rules` say.

        A rule is `{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]}`.
        """
        await self.kubectl.allow(namespace, name, rules)
        token = await self.kubectl("create", "token", name, "--namespace", namespace, "--duration", "1h")
        return await self.kubectl.as_user(self._home / f"{namespace}-{name}.kubeconfig", namespace, token.strip())


class ExternalCluster(KubernetesCluster):
    """The cluster that KUBECONFIG_TEST names: ours to use, not to break."""

    @property
    def alive(self) -> bool:
        return True

    def kill(self) -> None:
        self._refuse()

    def pause(self) -> None:
        self._refuse()

    def resume(self) -> None:
        self._refuse()

    def restart(self) -> None:
        self._refuse()

    def describe(self) -> str:
        return f"the cluster of {self.kubeconfig}"

    def mend(self) -> None:
        pass

    def kill_nodes(self) -> None:
        self._refuse()

    def start_nodes(self) -> None:
        self._refuse()

    def simulated(self) -> None:
        pytest.skip("the pods of KUBECONFIG_TEST's cluster do not behave as annotations ask")

    def _refuse(self) -> None:
        pytest.skip("the cluster comes from KUBECONFIG_TEST; it is not the test's to break")
