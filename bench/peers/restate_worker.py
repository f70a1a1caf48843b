"""Restate: each step a `ctx.run`, journalled by the server before the next begins. Served by granian."""

from __future__ import annotations

import asyncio

import restate
from work import perform, steps, tell

runner = restate.Service("Runner")


@runner.handler()
async def run(ctx: restate.Context, command: dict) -> str:
    """One command."""

    async def attempt(step: dict) -> str:
        # A process blocks the loop for its start; in a thread others go on meanwhile.
        return await asyncio.to_thread(perform, step) if step["type"] == "shell" else perform(step)

    for step in steps(command):
        await ctx.run_typed(step["name"], attempt, step=step)
    tell(command["execution_id"])
    return "completed"


app = restate.app(services=[runner], protocol="bidi")
