"""A hook of MkDocs: links to files of the repository that a site does not have become their names."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<![!`])\[(?P<text>[^\]\n]*(?:\n[^\]\n]*)?)\]\((?P<target>[^)\s:]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """The page, whose links lead only to what the site has."""
    folder = posixpath.dirname(page.file.src_uri)

    def kept(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link["target"].partition("#")[0]))
        if link["target"].startswith("#") or not _is_outside(target, Path(config.docs_dir)):
            return link[0]
        return f"{link['text']} (`{target.removeprefix('../')}`)"

    return _LINK.sub(kept, markdown)


def _is_outside(target: str, docs: Path) -> bool:
    return target.startswith("../") or (docs / target).is_dir()
