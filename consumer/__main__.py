"""`python -m consumer` is `wpk`."""

from consumer.cli.main import main

main()
