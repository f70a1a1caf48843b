"""A real Kubernetes for the tests: its control plane as processes; tests.support.kubelet plays the pods."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.control_plane.build import Unavailable
from tests.support.control_plane.handle import ExternalCluster, KubernetesCluster
from tests.support.control_plane.kubectl import Kubectl, KubectlFailed
from tests.support.control_plane.processes import ControlPlane, control_plane
from tests.support.control_plane.space import Space, space_of

__all__ = [
    "ControlPlane",
    "ExternalCluster",
    "Kubectl",
    "KubectlFailed",
    "KubernetesCluster",
    "Space",
    "Unavailable",
    "any_cluster",
    "control_plane",
    "space_of",
]


@contextlib.contextmanager
def any_cluster() -> Iterator[KubernetesCluster]:
    """The cluster that KUBECONFIG_TEST names, else a control plane of its own. Raises Unavailable."""
    if kubeconfig := os.environ.get("KUBECONFIG_TEST"):
        with tempfile.TemporaryDirectory(prefix="wpk-kubectl-") as home:
            yield ExternalCluster(Path(kubeconfig).absolute(), Path(home))
        return
    with control_plane() as cluster:
        yield cluster
