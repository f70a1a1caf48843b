"""Fixtures of the tests of the k8s adapter on a real control plane."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.control_plane import KubernetesCluster, Space
from tests.support.k8s_real import steps_on
from tests.support.k8s_steps import Steps
from tests.support.oracle import Oracle


@pytest.fixture
async def steps(control_plane: KubernetesCluster, space: Space, tmp_path: Path) -> AsyncIterator[Steps]:
    """Steps that may do everything, in the test's namespace."""
    async with steps_on(control_plane.kubeconfig, space.name, tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def twins() -> tuple[str, str]:
    """The names of the two namespaces that all rows of the oracle share; the first is kubectl's."""
    one = secrets.token_hex(3)
    return f"kubectl-{one}", f"adapter-{one}"


@pytest.fixture
async def oracle(control_plane: KubernetesCluster, twins: tuple[str, str], tmp_path: Path) -> AsyncIterator[Oracle]:
    """kubectl and the adapter, each in a namespace of its own."""
    theirs, ours = twins
    async with steps_on(control_plane.kubeconfig, ours, tmp_path) as steps:
        yield Oracle(control_plane.kubectl, steps, theirs, ours)
