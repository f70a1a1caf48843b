"""The directory of a step without a sandbox of its own is removed, whatever the command did to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from consumer.adapters.shell import action, launching

#: As an agent that is not root, whom missing rights stop.
REMOVE = """
import os, sys
from consumer.adapters.shell import action, launching
os.chdir(sys.argv[1])  # whose parents are not everybody's
if (owner := launching.owner()) is not None:
    os.setresuid(owner, owner, owner)
action._remove("step")
"""


def test_a_directory_whose_rights_the_command_took_away_is_removed_and_nothing_that_it_links_to(tmp_path: Path) -> None:
    outside, directory = tmp_path / "outside", tmp_path / "step"
    (directory / "a" / "b" / "c").mkdir(parents=True)
    (directory / "a" / "b" / "file").touch()
    outside.mkdir()
    (outside / "file").touch()
    outside.chmod(0o500)
    (directory / "a" / "link").symlink_to(outside)
    for path in (tmp_path, outside, directory, *directory.rglob("*")):
        if (owner := launching.owner()) is not None:
            os.chown(path, owner, owner, follow_symlinks=False)
    for name in ("a/b", "a", "."):
        (directory / name).chmod(0)
    subprocess.run([sys.executable, "-c", REMOVE, str(tmp_path)], check=True)
    assert not directory.exists()
    assert outside.stat().st_mode & 0o777 == 0o500
    assert (outside / "file").exists()


def test_what_a_command_links_to_in_the_place_of_its_directory_stays_as_it_is(tmp_path: Path) -> None:
    """Without a sandbox it may: the directory is its own, and so is its name in /tmp."""
    other = tmp_path / "other"
    (other / "inner").mkdir(parents=True)
    modes = {path: path.stat().st_mode for path in (other, other / "inner")}
    (tmp_path / "step").symlink_to(other)
    action._remove(str(tmp_path / "step"))
    assert {path: path.stat().st_mode for path in modes} == modes
