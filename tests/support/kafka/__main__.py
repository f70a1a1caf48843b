"""`python -m tests.support.kafka`: fetches Apache Kafka ahead of the tests, where it is jars that they will use.

Within a test the download would count against that test's time. What is missing here is told by the tests themselves.
"""

from __future__ import annotations

import os
import sys

from tests.support.kafka import container, jars, processes


def main() -> None:
    """Fetches, and says so where it takes time."""
    if os.environ.get("KAFKA_BOOTSTRAP") or container.docker_answers():
        return
    try:
        if not jars.is_installed():
            sys.stderr.write(f"fetching Apache Kafka {jars.KAFKA_VERSION} for the tests, once\n")
        processes.install()
    except jars.Unavailable as reason:
        sys.stderr.write(f"no Apache Kafka for the tests: {reason}\n")


if __name__ == "__main__":
    main()
