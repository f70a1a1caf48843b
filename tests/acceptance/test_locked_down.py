"""docs/security.md, "All of it at once": the commands as they stand, against a real agent that follows its policy."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker
from tests.support.processes import PATIENCE, ROOT, agent, create_topics, environment

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(540),
    pytest.mark.skipif(not shutil.which("openssl"), reason="the openssl program is not installed"),
]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("### All of it at once\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
PACKAGE = """\
metadata:
  name: pause
spec:
  handlers:
    - {name: wait, type: delay, config: {duration: 10ms}}
"""


async def shell(script: str, folder: Path, variables: Mapping[str, str]) -> str:
    """What the script prints; its last command of each line must succeed."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-eu",  # without pipefail: what is refused is looked for in its words
        "-c",
        script,
        cwd=folder,
        env={**variables, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(4 * PATIENCE):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
            await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def files(folder: Path) -> Path:
    """The package, and a policy that allows everything; the policy's path."""
    (folder / "pause.wpk.yaml").write_text(PACKAGE)
    policy = folder / "locked.policy.yaml"
    policy.write_text("version: 1\nrules: [{name: all, effect: allow}]\n")
    return policy


async def test_a_team_goes_from_open_to_locked_down(embedded_kafka: KafkaBroker, prefix: str, tmp_path: Path) -> None:
    variables = environment(embedded_kafka, prefix, WPK_POLICY_FILE=files(tmp_path))
    await create_topics(variables)
    keys, package, use = BLOCKS
    async with agent(variables) as running:
        await shell(keys, tmp_path, variables)
        assert "may run" in await shell(package, tmp_path, variables)
        await eventually(lambda: "policy.replaced" in running.output, timeout=PATIENCE, because="the policy is the old")
        told = await shell(use, tmp_path, variables)
    assert "completed" in told
