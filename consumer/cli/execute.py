"""Running a verb: its exit code, and errors in one sentence."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import TypeVar

from consumer.cli.options import Options
from consumer.client.errors import TimedOut, Unreachable
from consumer.errors import AgentError, Hung
from consumer.telemetry.watchdog import HUNG

#: Exit codes; the last is the shell's for an interrupt. That of an agent that hangs is `watchdog.HUNG`.
OK, ENDED_OTHERWISE, WRONG, UNREACHABLE, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 130

AnyOptions = TypeVar("AnyOptions", bound=Options)


class CliError(AgentError):
    """What the verb can't do, in a sentence with the remedy."""


def execute(body: Callable[[AnyOptions], int | Awaitable[int]], options: AnyOptions) -> int:
    """Runs the body; its exit code, or that of the error, which becomes one sentence on stderr."""
    try:
        result = body(options)
        code = result if isinstance(result, int) else asyncio.run(_awaited(result))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's flush at the end
        return OK
    except AgentError as error:
        return _complain(error, verbose=options.verbose)
    return code


async def _awaited(result: Awaitable[int]) -> int:
    return await result


def _complain(error: AgentError, *, verbose: bool) -> int:
    text = str(error)
    if isinstance(error, Unreachable):
        stop = "" if text.endswith((".", "?")) else "."
        text += f"{stop} Set KAFKA_BOOTSTRAP_SERVERS, or try it locally with: wpk dev"
    sys.stderr.write(f"{text}\n")
    if verbose and error.__cause__ is not None:
        sys.stderr.write("".join(traceback.format_exception(error.__cause__)))
    match error:
        case Unreachable():
            return UNREACHABLE
        case TimedOut():
            return TIMED_OUT
        case Hung():
            return HUNG
        case _:
            return WRONG
