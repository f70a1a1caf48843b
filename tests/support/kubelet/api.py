"""The API server as a kubelet uses it: JSON calls, and a watch that outlives losses of the server."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

Object = dict[str, Any]
"""A Kubernetes object, as JSON has it."""

STRATEGIC = "application/strategic-merge-patch+json"
_RETRY = 0.2
_CALL = aiohttp.ClientTimeout(total=30)
_WATCH = aiohttp.ClientTimeout(sock_connect=10, sock_read=400)
_WATCH_SECONDS = 300

_log = logging.getLogger(__name__)


class ApiError(Exception):
    """The server's refusal."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


#: What may become better by itself: no connection, a server that is starting or stopping, a conflict.
Trouble = (aiohttp.ClientError, TimeoutError, OSError, ApiError)


class Api:
    """One user's connection to the server."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        kind: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """The object that the server answers with. Raises ApiError, or aiohttp's errors where there is no answer."""
        data = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": kind}
        async with self._session.request(
            method, self._url + path, data=data, headers=headers, params=query, timeout=_CALL
        ) as response:
            text = await response.text()
            if response.status >= 400:
                raise ApiError(response.status, text[:500])
            answer: Object = json.loads(text)
            return answer

    async def follow(
        self,
        path: str,
        *,
        listed: Callable[[list[Object]], None],
        changed: Callable[[str, Object], None],
        query: Mapping[str, str],
    ) -> None:
        """For ever: tells all that there is, then each change (its type and the object), and all anew after a loss."""
        while True:
            try:
                listing = await self.call("GET", path, query=query)
                listed(listing["items"])
                version = listing["metadata"]["resourceVersion"]
                while True:
                    version = await self._watch(path, version, changed, query)
            except Trouble as error:
                _log.info("watch of %s begins anew: %r", path, error)
            await asyncio.sleep(_RETRY)

    async def _watch(
        self, path: str, version: str, changed: Callable[[str, Object], None], query: Mapping[str, str]
    ) -> str:
        asked = {**query, "watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
        asked["timeoutSeconds"] = str(_WATCH_SECONDS)
        async with self._session.get(self._url + path, params=asked, timeout=_WATCH) as response:
            if response.status >= 400:
                raise ApiError(response.status, await response.text())
            async for line in response.content:
                event = json.loads(line)
                item = event["object"]
                if event["type"] == "ERROR":
                    raise ApiError(item.get("code", 500), item.get("message", ""))
                version = item["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    changed(event["type"], item)
        return version


@asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[Api]:
    """The server of a kubeconfig that has one cluster and one user with a certificate."""
    document = yaml.safe_load(await asyncio.to_thread(kubeconfig.read_text))
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        pair.flush()
        context.load_cert_chain(pair.name)
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=2**22) as session:
        yield Api(cluster["server"], session)
