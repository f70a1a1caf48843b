"""What the Dockerfile installs, as far as it can be had without a container: the wheel and what it requires, alone."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.require import require

ROOT = Path(__file__).parents[2]
#: What the Dockerfile asks pip for: the project with its extras.
(WANTED,) = re.findall(r"pip install .*'(wpk-agent\[.*\])'", (ROOT / "Dockerfile").read_text())
PACKAGES = Path(sysconfig.get_path("purelib"))


def required(name: str) -> set[str]:
    """The distributions that a requirement brings with it, itself among them."""
    found: set[str] = set()
    wanted = [Requirement(name)]
    while wanted:
        requirement = wanted.pop()
        distribution = importlib.metadata.distribution(requirement.name)
        own = distribution.metadata["Name"]
        fresh = own not in found
        found.add(own)
        for text in distribution.requires or () if fresh or requirement.extras else ():
            each = Requirement(text)
            extras = [{"extra": ""}, *({"extra": extra} for extra in requirement.extras)]
            if each.marker is None or any(each.marker.evaluate(extra) for extra in extras):
                wanted.append(each)
    return found


def install(distributions: set[str], into: Path) -> None:
    """Links their packages; copies the files of a package that several distributions share."""
    shared = {top for top, owners in importlib.metadata.packages_distributions().items() if len(set(owners)) > 1}
    for name in distributions - {"wpk-agent"}:
        files = importlib.metadata.distribution(name).files
        assert files, f"{name} does not say what it has installed"
        for file in files:
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            top = into / file.parts[0]
            if file.parts[0] not in shared:
                if not top.exists():
                    top.symlink_to(PACKAGES / file.parts[0])
                continue
            (into / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), into / file)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory with the wheel's packages and those that it requires, and no other."""
    into = tmp_path / "installed"
    into.mkdir()
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):  # as the Dockerfile copies them
        shutil.copy(ROOT / name, source)
    for name in ("consumer", "schemas"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "dist")],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("wpk_agent-*.whl")
    zipfile.ZipFile(wheel).extractall(into)
    install(required(WANTED), into)
    return into


@pytest.mark.long
@pytest.mark.timeout(400)
def test_what_the_image_installs_runs_in_a_tree_that_can_not_be_written_to(installed: Path) -> None:
    bwrap = shutil.which("bwrap")
    require(bwrap, "there is no bubblewrap")
    # As in a pod: nothing can be written to but /tmp, and the user has no name, no home and no rights.
    inside = [
        *(str(bwrap), "--ro-bind", "/", "/", "--tmpfs", "/tmp", "--proc", "/proc", "--dev", "/dev", "--unshare-all"),
        *(
            "--ro-bind",
            str(installed),
            "/tmp/installed",
            "--ro-bind",
            str(PACKAGES),
            str(PACKAGES),
            "--cap-drop",
            "ALL",
            "--uid",
            "65532",
            "--gid",
            "65532",
        ),
        *("--clearenv", "--setenv", "PYTHONPATH", "/tmp/installed", "--setenv", "PATH", os.defpath),
        *("--setenv", "PYTHONDONTWRITEBYTECODE", "1", "--chdir", "/tmp"),
    ]
    # -S: the developers' packages are not there.
    python = [os.path.realpath(sys.executable), "-S"]

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*inside, *python, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "KAFKA_BOOTSTRAP_SERVERS" in run("-m", "consumer", "agent", "--help")
    every = (
        "import importlib, os, pkgutil, consumer, schemas\n"
        "assert os.getuid() == 65532 and not os.access('/tmp/installed', os.W_OK)\n"
        "try:\n    open('/tmp/installed/x', 'w')\nexcept OSError: pass\nelse: raise SystemExit('written')\n"
        "for root in (consumer, schemas):\n"
        "    for each in pkgutil.walk_packages(root.__path__, root.__name__ + '.'):\n"
        "        if not each.name.endswith('__main__'): importlib.import_module(each.name); print(each.name)\n"
    )
    modules = run("-c", every).split()
    assert "consumer.agent" in modules and "schemas.wpk" in modules
