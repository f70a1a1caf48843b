"""The tests' own tools: a tool that can't fail a test would hide what it is there to show."""

from __future__ import annotations

import asyncio
import textwrap

import pytest

from tests.support.eventually import eventually
from tests.support.require import require

pytest_plugins = ["pytester"]


async def test_eventually_gives_the_first_truthy_result() -> None:
    results = iter([None, 0, "", "here"])

    assert await eventually(lambda: next(results), interval=0.001) == "here"


async def test_eventually_awaits_a_coroutine_and_lets_an_assertion_fail_until_it_holds() -> None:
    tries = 0

    async def check() -> str:
        nonlocal tries
        tries += 1
        assert tries > 2
        return "held"

    assert await eventually(check, interval=0.001) == "held"


async def test_eventually_fails_with_the_last_result() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"not within 0.05 s: it was promised; the last check gave \[\]"):
        await eventually(list, timeout=0.05, because="it was promised")


async def test_eventually_gives_up_a_check_that_never_ends() -> None:
    with pytest.raises(pytest.fail.Exception, match="did not end"):
        await eventually(asyncio.Event().wait, timeout=0.05)


async def test_eventually_does_not_swallow_an_error_of_the_check() -> None:
    with pytest.raises(ZeroDivisionError):
        await eventually(lambda: 1 / 0)


def test_require_skips_on_a_desk_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    require(True, "never said")
    monkeypatch.delenv("WPK_CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="there is no moon"):
        require(False, "there is no moon")
    monkeypatch.setenv("WPK_CI", "1")
    with pytest.raises(pytest.fail.Exception, match="WPK_CI is set, but there is no moon"):
        require(False, "there is no moon")


def test_a_test_that_leaves_a_task_behind_fails(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from tests.conftest import no_task_left_behind, task_watch")
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        textwrap.dedent("""
            import asyncio

            async def test_tidy():
                await asyncio.create_task(asyncio.sleep(0))

            async def test_just_ending():
                asyncio.create_task(asyncio.sleep(0.01))

            async def test_untidy():
                globals()["kept"] = asyncio.create_task(asyncio.sleep(600), name="forgotten")

            def test_without_a_loop():
                pass
        """)
    )

    result = pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["*1 task(s) outlive the test: *forgotten*"])
