"""The bodies of the API server's answers: bounded, as JSON, as lines, or as the error that they tell of."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from pydantic import JsonValue

from consumer.adapters.k8s import errors
from consumer.errors import PermanentError, StepError, TemporaryError

if TYPE_CHECKING:  # aiohttp is imported lazily, with the library
    from aiohttp import ClientResponse

_MAX_BODY = 64 * 1024 * 1024


def parse(data: bytes) -> JsonValue:
    """The JSON of a body; None where it is none."""
    try:
        value: JsonValue = json.loads(data)
    except ValueError:
        return None
    return value


async def lines(response: ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines. Split by hand: the library's reader refuses lines over 4 MB."""
    rest = bytearray()
    async for chunk in response.content.iter_any():
        rest += chunk
        *whole, tail = rest.split(b"\n")
        rest = bytearray(tail)
        for line in whole:
            if line.strip():
                yield bytes(line)
        if len(rest) > _MAX_BODY:
            raise TemporaryError("the API server sent an endless line", code="server_error")
    if rest.strip():
        yield bytes(rest)


async def read(response: ClientResponse) -> bytes:
    """The body, bounded."""
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > _MAX_BODY:
            raise PermanentError(f"the API server's answer is larger than {_MAX_BODY >> 20} MiB", code="too_large")
        parts.append(chunk)
    return b"".join(parts)


async def failure(response: ClientResponse, request: errors.Request) -> StepError:
    """The error of an answer that is no success."""
    import aiohttp  # noqa: PLC0415 - comes with the library, which is imported lazily

    try:
        body = parse(await read(response))
    except (aiohttp.ClientError, TimeoutError, OSError):
        body = None
    finally:
        response.close()
    after = response.headers.get("Retry-After", "")
    return errors.of_status(response.status, body, request, float(after) if after.isdecimal() else None)
