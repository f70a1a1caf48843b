"""`python -m tests.support.control_plane`: builds Kubernetes ahead of the tests, where it is needed and can be had."""

from __future__ import annotations

import os
import sys
import time

from tests.support.control_plane import build


def main() -> None:
    """Builds, and says so where it takes time. What is missing is told by the tests themselves."""
    if os.environ.get("KUBECONFIG_TEST"):
        return
    try:
        if build.is_built():
            return
        sys.stderr.write(f"building Kubernetes {build.kubernetes_version()} for the tests, once (some 10 minutes)\n")
        began = time.monotonic()
        build.build()
        sys.stderr.write(f"built in {time.monotonic() - began:.0f} s\n")
    except build.Unavailable as reason:
        sys.stderr.write(f"no Kubernetes for the tests: {reason}\n")


if __name__ == "__main__":
    main()
