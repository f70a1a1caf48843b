"""The loads of `bench.bounds`. Each asserts what must hold, and gives figures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import orjson

from bench import approvals
from bench.stage import MB, STILL, Ends, Figures, Watch, delay, executes, mb, package, quiet_lines, stage
from tests.support.eventually import eventually
from tests.support.processes import AgentProcess

_GB = 1 << 30


async def commands(scale: float) -> Figures:
    """50,000 commands at once, one step each that does nothing; then another agent takes all of it over."""
    count = int(50_000 * scale)
    async with stage() as house:
        async with house.agent() as agent:
            with Watch(agent.pid) as watch, house.reader("events.results") as results:
                before = watch.look()
                published = await asyncio.to_thread(house.publish, "execute", executes("c", count, package(delay())))
                ends = Ends()
                seconds = await ends.until(results, count, limit=STILL)
                ends.add(await quiet_lines(results, 3.0))
                after = watch.look()
        assert ends.once(), "an execution ended twice"
        assert ends.statuses == {"completed": count}, ends.statuses
        began = time.monotonic()
        async with house.agent() as successor:
            restart = time.monotonic() - began
            with Watch(successor.pid) as restored:
                pass
        return {
            "executions": count,
            "publish_s": round(published, 1),
            "seconds": round(seconds, 1),
            "per_second": round(count / seconds),
            "rss_before_mb": mb(before.rss),
            "rss_peak_mb": mb(watch.peak),
            "rss_after_mb": mb(after.rss),
            "bytes_per_ended": round((after.rss - before.rss) / count),
            "restart_s": round(restart, 1),
            "restart_peak_mb": mb(restored.peak),
            "curve": watch.drawn(),
        }


async def duplicates(scale: float) -> Figures:
    """10,000 commands, and when all have ended the same 10,000 again: they are acknowledged, and nothing runs."""
    count = int(10_000 * scale)
    async with stage() as house, house.agent() as agent:
        with Watch(agent.pid) as watch, house.reader("events.results", "events.progress") as out:
            ends, answered, moved = Ends(), 0, time.monotonic()
            await asyncio.to_thread(house.publish, "execute", executes("d", count, package(delay())))
            began = again = time.monotonic()
            while answered < count:
                messages = [m for m in await asyncio.to_thread(out.consume, 1000, 0.2) if m.error() is None]
                moved = time.monotonic() if messages else moved
                assert time.monotonic() - moved < STILL, f"{answered} of {count} were answered"
                ends.add(m for m in messages if m.topic().endswith("results"))
                answered += sum(b"wpk.command.duplicate.v1" in m.value() for m in messages)
                if len(ends.times) == count and again == began:
                    again = time.monotonic()
                    await asyncio.to_thread(house.publish, "execute", executes("d", count, package(delay())))
            seconds = time.monotonic() - again
        assert ends.once(), "an execution ended twice"
    return {
        "commands": count,
        "first_per_second": round(count / (again - began)),
        "again_per_second": round(count / seconds),
        "rss_peak_mb": mb(watch.peak),
    }


async def _output(scale: float, command: str) -> Figures:
    size = int(_GB * scale)
    shell = {"name": "print", "type": "shell", "config": {"command": command.format(size=size)}, "timeout": "10m"}
    async with stage() as house, house.agent() as agent:
        with Watch(agent.pid) as watch, house.reader("events.results") as results:
            before = watch.look()
            began = time.monotonic()
            house.publish("execute", [("big", {"execution_id": "big", "wpk_content": package(shell)})])
            ends, beside = Ends(), []
            while not ends.times[b"big"]:
                name, sent = f"small-{len(beside)}", time.monotonic()
                house.publish("execute", executes(name, 1, package(delay())))
                await ends.until(results, len(ends.times) + 1, limit=STILL)
                if ends.times[f"{name}-0".encode()]:
                    beside.append(time.monotonic() - sent)
                await asyncio.sleep(0.2)
            seconds = time.monotonic() - began
            after = watch.look()
        assert set(ends.statuses) == {"completed"}, ends.statuses
        with house.reader("events.logs") as logs:
            found = [m for m in await quiet_lines(logs, 3.0) if m.key() == b"big"]
        text = b"".join(message.value() for message in found[-3:])
        beside.sort()
        return {
            "printed_mb": mb(size),
            "seconds": round(seconds, 1),
            "mb_per_second": round(size / MB / seconds, 1),
            "log_records": len(found),
            "log_topic_mb": mb(sum(len(message.value()) for message in found)),
            "drop_is_said": b"were dropped" in text or b"line cut" in text,
            "others_meanwhile": len(beside),
            "others_median_s": round(beside[len(beside) // 2], 3) if beside else None,
            "others_longest_s": round(beside[-1], 3) if beside else None,
            "rss_before_mb": mb(before.rss),
            "rss_peak_mb": mb(watch.peak),
            "rss_after_mb": mb(after.rss),
            "curve": watch.drawn(),
        }


async def output(scale: float) -> Figures:
    """A child that prints 1 GB in lines of 100 bytes."""
    return await _output(scale, f"yes {'x' * 99} | head -c {{size}}")


async def one_line(scale: float) -> Figures:
    """A child that prints 1 GB without any end of a line."""
    return await _output(scale, "head -c {size} /dev/zero | tr '\\0' x")


def _large(kind: str, limit: int) -> dict[str, object]:
    """An execute command of just under `limit` bytes: by many steps, or by one big value."""

    def command(steps: int, padding: int) -> dict[str, object]:
        content = package(*(delay(f"step-{number}") for number in range(steps)))
        return {"wpk_content": content, "parameters": {"filler": "x" * padding}, "execution_id": f"large-{kind}"}

    if kind == "value":
        room = limit - len(orjson.dumps(command(1, 0)))
        return command(1, room - 200)  # what the agent adds to it counts too
    each = len(orjson.dumps(delay("step-10000"))) + 1
    return command((limit - 500) // each if kind == "steps" else int(kind), 0)


async def package_sizes(scale: float) -> Figures:
    """Packages near the size limit: one big value, as many steps as fit, and numbers of steps between."""
    limit = 900_000
    figures: Figures = {"limit_bytes": limit}
    async with stage() as house, house.agent() as agent:
        with Watch(agent.pid) as watch, house.reader("events.results", "dead-letter") as results:
            figures["rss_before_mb"] = mb(watch.look().rss)
            for kind in ("value", "10", "100", "1000", "steps"):
                body = _large(kind, limit)
                steps = len(body["wpk_content"]["spec"]["handlers"])  # type: ignore[index]
                began = time.monotonic()
                house.publish("execute", [("one-partition", body)])
                house.publish(
                    "execute", [("one-partition", {"execution_id": f"behind-{kind}", "wpk_content": package(delay())})]
                )
                said: dict[str, str] = {}
                longest = time.monotonic() + 400 * scale + 60
                while len(said) < 2 and time.monotonic() < longest:
                    for message in await asyncio.to_thread(results.consume, 100, 0.2):
                        name, what = _verdict(message, kind)
                        said[name] = f"{what} after {time.monotonic() - began:.1f} s"
                figures[f"{kind}: {steps} steps, {len(orjson.dumps(body))} bytes"] = said
            figures["rss_peak_mb"] = mb(watch.peak)
            figures["rss_after_mb"] = mb(watch.look().rss)
            figures["curve"] = watch.drawn()
    return figures


def _verdict(message: object, kind: str) -> tuple[str, str]:
    value = message.value()  # type: ignore[attr-defined]
    if message.topic().endswith("dead-letter"):  # type: ignore[attr-defined]
        headers = dict(message.headers() or [])  # type: ignore[attr-defined]
        return f"large-{kind}", f"dead letter: {headers.get('wpk-detail', b'').decode()[:200]}"
    event = orjson.loads(value)
    error = event["data"].get("error_message")
    return event["subject"], event["data"]["status"] + (f" ({error[:200]})" if error else "")


async def _partitions(scale: float, mode: str) -> Figures:
    """200 partitions on one agent; a second comes, takes its half, and the first leaves, then is killed."""
    count = max(4, int(200 * scale))
    settings: dict[str, object] = {"WPK_PROCESSING_GUARANTEE": mode, "WPK_SESSION_TIMEOUT": "10s"}
    async with stage(partitions=count, settings=settings) as house:
        began = time.monotonic()
        async with house.agent() as first:
            ready = time.monotonic() - began
            with Watch(first.pid) as watch, house.reader("events.results") as results:
                start, at_start = watch.look(), watch.peak
                ends, commands_ = Ends(), count * 10
                await asyncio.to_thread(house.publish, "execute", executes("p", commands_, package(delay())))
                working = await ends.until(results, commands_, limit=STILL)
                after = watch.look()
                began = time.monotonic()
                async with house.agent() as second:
                    shared = await _owned(second, count // 2, began)
                    began = time.monotonic()
                    await first.stop()
                    stopped = time.monotonic() - began
                    left = await _owned(second, count, began)
                    async with house.agent() as third:
                        await _owned(third, count // 2, began)
                        began = time.monotonic()
                        await second.kill()
                        killed = await _owned(third, count, began)
                        await asyncio.to_thread(house.publish, "execute", executes("q", commands_, package(delay())))
                        await ends.until(results, 2 * commands_, limit=STILL)
                ends.add(await quiet_lines(results, 3.0))
        assert ends.once(), "an execution ended twice"
        assert ends.statuses == {"completed": 2 * commands_}, ends.statuses
    return {
        "partitions": count,
        "ready_s": round(ready, 1),
        "rss_ready_mb": mb(start.rss),
        "peak_at_start_mb": mb(at_start),
        "files_ready": start.files,
        "executions_per_second": round(commands_ / working),
        "rss_after_mb": mb(after.rss),
        "second_has_its_half_s": round(shared, 1),
        "stop_s": round(stopped, 1),
        "takeover_after_stop_s": round(left, 1),
        "takeover_after_kill_s": round(killed, 1),
        "curve": watch.drawn(),
    }


async def _owned(agent: AgentProcess, count: int, began: float) -> float:
    """Seconds since then until the agent owns so many partitions."""

    async def look() -> bool:
        status, body = await agent.get("/readyz")
        return status == 200 and orjson.loads(body).get("owned_partitions", orjson.loads(body).get("owned")) == count

    await eventually(look, timeout=180, interval=0.1, because=f"the agent owns {count} partitions")
    return time.monotonic() - began


async def partitions(scale: float) -> Figures:
    """200 partitions with exactly_once: 200 transactional producers."""
    return await _partitions(scale, "exactly_once")


async def partitions_at_least_once(scale: float) -> Figures:
    """200 partitions with at_least_once."""
    return await _partitions(scale, "at_least_once")


LOADS: dict[str, Callable[[float], Awaitable[Figures]]] = {
    "commands": commands,
    "duplicates": duplicates,
    "approvals": approvals.asked,
    "blind-approvals": approvals.blind,
    "waiting": approvals.waiting,
    "output": output,
    "one-line": one_line,
    "package": package_sizes,
    "partitions": partitions,
    "partitions-at-least-once": partitions_at_least_once,
}
