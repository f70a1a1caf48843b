"""Where the tests' Kubernetes comes from: one that is named, or one that is built here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.control_plane import ExternalCluster, KubernetesCluster, any_cluster, build


@pytest.mark.long
async def test_a_cluster_that_is_named_is_used_and_not_broken(
    control_plane: KubernetesCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG_TEST", str(control_plane.kubeconfig))
    with any_cluster() as cluster:
        assert isinstance(cluster, ExternalCluster)
        assert await cluster.kubectl.items("nodes")
        with pytest.raises(pytest.skip.Exception):
            cluster.kill()
    assert control_plane.alive


def test_a_control_plane_that_was_not_built_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.Unavailable, match=r"python -m tests\.support\.control_plane"):
        build.binary()
    with pytest.raises(build.Unavailable, match="there is no Go"):
        build.build()
