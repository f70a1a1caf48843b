"""`python -m tests.support.crds`: makes the definitions ahead of the tests, where they can be had."""

from __future__ import annotations

import sys
import time

from tests.support import cache, crds


def main() -> None:
    """Makes them, and says so where it takes time. What is missing is told by the tests themselves."""
    try:
        if crds.is_made():
            return
        began = time.monotonic()
        crds.files()
        sys.stderr.write(f"made the definitions of custom resources in {time.monotonic() - began:.0f} s\n")
    except cache.Unavailable as reason:
        sys.stderr.write(f"no definitions of custom resources for the tests: {reason}\n")


if __name__ == "__main__":
    main()
