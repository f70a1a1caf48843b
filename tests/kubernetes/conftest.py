"""Fixtures of the tests of the k8s adapter on a real control plane."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.control_plane import KubernetesCluster, Space
from tests.support.k8s_real import steps_on
from tests.support.k8s_steps import Steps


@pytest.fixture
async def steps(control_plane: KubernetesCluster, space: Space, tmp_path: Path) -> AsyncIterator[Steps]:
    """Steps that may do everything, in the test's namespace."""
    async with steps_on(control_plane.kubeconfig, space.name, tmp_path) as made:
        yield made
