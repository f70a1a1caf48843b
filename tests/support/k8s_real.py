"""Steps on a real control plane, in the namespace of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import yaml

from consumer.adapters.k8s import build
from tests.support.control_plane.kubectl import write_privately
from tests.support.k8s_steps import Steps


@asynccontextmanager
async def steps_on(kubeconfig: Path, namespace: str, home: Path, **settings: object) -> AsyncIterator[Steps]:
    """Steps of the kubeconfig's user that work in `namespace`, with the adapter as the agent builds it."""
    path = _moved(kubeconfig, namespace, home / f"{namespace}.kubeconfig")
    adapter = build(SimpleNamespace(kubeconfig=str(path), **settings))
    try:
        yield Steps(adapter, execution=namespace)
    finally:
        await adapter.aclose()


def _moved(kubeconfig: Path, namespace: str, path: Path) -> Path:
    """The kubeconfig with another namespace in its contexts."""
    path.parent.mkdir(exist_ok=True)
    document = yaml.safe_load(kubeconfig.read_text())
    for context in document["contexts"]:
        context["context"]["namespace"] = namespace
    write_privately(path, yaml.safe_dump(document))
    return path
