"""What `kubectl kustomize` makes of the folders in deploy/."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.support.require import require

DEPLOY = Path(__file__).parents[2] / "deploy"
#: An application as a user has it, with the component of the sidecar.
APPLICATION = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "app", "labels": {"wpk-agent/sidecar": "true"}},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "app"}},
        "template": {
            "metadata": {"labels": {"app": "app"}},
            "spec": {
                "containers": [
                    {
                        "name": "app",
                        "image": "app",
                        "securityContext": {
                            "runAsNonRoot": True,
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                    }
                ]
            },
        },
    },
}


def built(folder: Path) -> list[dict[str, Any]]:
    """The objects of that folder. Skips the test where there is no kubectl."""
    beside = Path(sys.executable).parent / "kubectl"
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    require(kubectl, "there is no kubectl")
    done = subprocess.run(
        [str(kubectl), "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def sidecar(scratch: Path, *, namespace: str | None = None) -> list[dict[str, Any]]:
    """The application with an agent beside it; `scratch` is a folder for its kustomization."""
    shutil.copytree(DEPLOY / "components", scratch / "components", dirs_exist_ok=True)
    app = scratch / "app"
    app.mkdir()
    (app / "app.yaml").write_text(yaml.safe_dump(APPLICATION))
    kustomization = {"resources": ["app.yaml"], "components": ["../components/sidecar"]}
    if namespace is not None:
        kustomization["namespace"] = namespace
    (app / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return built(app)
