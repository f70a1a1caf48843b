"""The site is made of the pages without a warning, and fetches nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytestmark = pytest.mark.long


def test_the_site_has_every_page_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    docs = ROOT / "docs"
    pages = {page.relative_to(docs).with_suffix(".html").as_posix() for page in docs.rglob("*.md")}
    pages = {page.replace("README.html", "index.html") for page in pages}
    assert pages <= {page.relative_to(tmp_path).as_posix() for page in tmp_path.rglob("*.html")}
    foreign = re.compile(r'<(script|img|iframe)[^>]*\ssrc="(https?:)?//|<link[^>]*stylesheet[^>]*="(https?:)?//')
    assert [page for page in pages if foreign.search((tmp_path / page).read_text(encoding="utf-8"))] == []
    assert (tmp_path / "schemas" / "asyncapi" / "index.html").exists()
