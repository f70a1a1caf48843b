"""`wpk dev` and `wpk demo`."""

from __future__ import annotations

from consumer.cli.options import DevOptions, Options
from consumer.dev import run_demo, run_dev
from consumer.settings import load


async def dev(options: DevOptions) -> int:
    """Runs until it is told to stop."""
    return await run_dev(load(options.config), port=options.port, example=options.example)


async def demo(options: Options) -> int:
    """Runs the examples to their end."""
    return await run_demo(load(options.config))
