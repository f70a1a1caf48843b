"""The demo's service: real HTTP, with the faults that the demo shows."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from consumer.dev import service
from consumer.dev.service import DemoService


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with service.serve() as url:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            yield client


async def test_it_greets(client: httpx.AsyncClient) -> None:
    assert (await client.get("/greeting")).json()["greeting"].startswith("hello")


async def test_the_flaky_path_works_at_the_third_time_and_begins_again(client: httpx.AsyncClient) -> None:
    statuses = [(await client.get("/flaky")).status_code for _ in range(6)]
    assert statuses == [503, 503, 200, 503, 503, 200]


async def test_the_limit_can_be_read_and_set(client: httpx.AsyncClient) -> None:
    assert (await client.get("/limit")).json() == {"limit": 10}
    assert (await client.put("/limit", json={"limit": 500})).json() == {"limit": 500}
    assert (await client.get("/limit")).json() == {"limit": 500}


@pytest.mark.parametrize("body", ["", "500", '{"limit": -1}', '{"limit": 1, "x": 2}', "{"])
async def test_a_limit_that_is_none_is_refused(client: httpx.AsyncClient, body: str) -> None:
    assert (await client.put("/limit", content=body)).status_code == 400
    assert (await client.get("/limit")).json() == {"limit": 10}


async def test_its_health_is_bad_and_other_paths_are_not_there(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).status_code == 500
    assert (await client.delete("/limit")).status_code == 404


async def test_it_remembers_what_was_asked_of_it() -> None:
    demo = DemoService()
    async with service.serve(demo) as url:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            await client.get("/greeting")
            await client.put("/limit", json={"limit": 5})
    assert demo.calls == [("GET", "/greeting"), ("PUT", "/limit")]
    assert demo.limit.limit == 5
