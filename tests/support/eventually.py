"""Waiting for what comes in its own time, instead of sleeping for a time that is hoped to be enough."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

import pytest

T = TypeVar("T")


@overload
async def eventually(
    check: Callable[[], Awaitable[T]], *, timeout: float = ..., interval: float = ..., because: str = ...
) -> T: ...


@overload
async def eventually(
    check: Callable[[], T], *, timeout: float = ..., interval: float = ..., because: str = ...
) -> T: ...


async def eventually(
    check: Callable[[], object], *, timeout: float = 30.0, interval: float = 0.02, because: str = ""
) -> object:
    """The first truthy result of `check`, asked every `interval` seconds; an AssertionError counts as "not yet".

    Any other exception of `check` is raised at once. After `timeout` seconds the test fails with the last result.
    An await inside `check` is bounded by that time too.
    """
    __tracebackhide__ = True
    deadline = time.monotonic() + timeout
    last: object = "nothing: the check never ended"
    while True:
        try:
            async with asyncio.timeout(max(interval, deadline - time.monotonic())):
                result = check()
                value = await result if inspect.isawaitable(result) else result
        except AssertionError as error:
            last = error
        except TimeoutError as error:
            if time.monotonic() < deadline:
                raise
            last = f"{last} (and the last check did not end: {error!r})"
        else:
            if value:
                return value
            last = value
        if time.monotonic() >= deadline:
            pytest.fail(f"not within {timeout:g} s{': ' + because if because else ''}; the last check gave {last!r}")
        await asyncio.sleep(interval)
