"""Each kind of workflow and command: what it consists of, and how it may end. Importing it fills `kinds.KINDS`."""

from __future__ import annotations

from tests.chaos.kinds import CONTROL, EXECUTE, ROLLBACK, Draw, Drawn, FollowUp, Json, Message, kind
from tests.chaos.published import Plan

UNDONE = ("rolled_back",)
UNDOING_INTERRUPTED = ("rolled_back", "rollback_failed")
#: A step that is interrupted before it has captured anything leaves nothing to undo; `rules.steps` says when.
UNDONE_IF_CAPTURED = ("rolled_back", "failed")
_RETRY = {"max_attempts": 4, "backoff": "200ms", "max_backoff": "1s"}
_ROLLBACK = {"safety": {"rollback_enabled": True}}


@kind(10)
def chain(draw: Draw) -> Drawn:
    return draw.drawn(draw.package(*draw.chain()))


@kind(6)
def repeatable(draw: Draw) -> Drawn:
    return draw.drawn(draw.package(*draw.chain(repeatable=True, seconds=draw.seconds(0.2, 2.0))), interrupted=())


@kind(6)
def graph(draw: Draw) -> Drawn:
    steps = [
        draw.step("first"),
        draw.step("left", needs=["first"], seconds=draw.seconds(0, 1)),
        draw.step("right", needs=["first"], repeatable=True, seconds=draw.seconds(0, 1)),
        draw.step("never", needs=["first"], when="false"),
        draw.step("behind", needs=["never"]),
        draw.step("last", needs=["left", "right"]),
    ]
    draw.random.shuffle(steps)
    return draw.drawn(draw.package(*steps))


@kind(5)
def retries(draw: Draw) -> Drawn:
    steps = [draw.step(f"s{n}", fail=draw.random.randint(0, 2), retry=_RETRY, on_interrupt="retry") for n in (1, 2)]
    return draw.drawn(draw.package(*steps), interrupted=())


@kind(4)
def retries_once(draw: Draw) -> Drawn:
    steps = [draw.step(f"s{n}", fail=draw.random.randint(1, 2), retry=_RETRY) for n in (1, 2)]
    return draw.drawn(draw.package(*steps))


@kind(5)
def on_interrupt_retry(draw: Draw) -> Drawn:
    return draw.drawn(draw.package(*draw.chain(on_interrupt="retry", seconds=draw.seconds(0.2, 2.0))), interrupted=())


@kind(5)
def on_interrupt_fail(draw: Draw) -> Drawn:
    return draw.drawn(draw.package(*draw.chain(on_interrupt="fail", repeatable=True, seconds=draw.seconds(0.2, 2.0))))


@kind(4)
def long(draw: Draw) -> Drawn:
    return draw.drawn(
        draw.package(draw.step("before"), draw.step("long", seconds=draw.seconds(3, 8)), draw.step("after"))
    )


@kind(5)
def pause(draw: Draw) -> Drawn:
    wait = {"name": "pause", "type": "delay", "config": {"duration": f"{draw.seconds(0.5, 5)}s"}}
    return draw.drawn(draw.package(draw.step("before"), wait, draw.step("after")))


@kind(3)
def goes_on(draw: Draw) -> Drawn:
    steps = [draw.step("s1"), draw.step("fails", fail=9, on_failure="continue"), draw.step("s3")]
    return draw.drawn(draw.package(*steps), interrupted=("failed", "completed"))


@kind(3)
def fails(draw: Draw) -> Drawn:
    return draw.drawn(draw.package(draw.step("s1"), draw.step("fails", fail=9), draw.step("s3")), statuses=("failed",))


@kind(5)
def undone_by_handlers(draw: Draw) -> Drawn:
    undo = {"enabled": True, "handlers": [draw.step("undo1", repeatable=True), draw.step("undo2", repeatable=True)]}
    package = draw.package(draw.step("s1"), draw.step("fails", fail=9), rollback=undo, **_ROLLBACK)
    return draw.drawn(package, statuses=UNDONE, interrupted=UNDONE)


@kind(3)
def undone_once(draw: Draw) -> Drawn:
    undo = {"enabled": True, "handlers": [draw.step("undo1"), draw.step("undo2", seconds=draw.seconds(0.2, 1))]}
    package = draw.package(draw.step("s1"), draw.step("fails", fail=9), rollback=undo, **_ROLLBACK)
    return draw.drawn(package, statuses=UNDONE, interrupted=UNDOING_INTERRUPTED)


@kind(5)
def compensated(draw: Draw) -> Drawn:
    steps = [draw.step(f"s{n}", capture=True, seconds=draw.seconds(0, 0.5)) for n in (1, 2, 3)]
    package = draw.package(*steps, draw.step("fails", fail=9), rollback={"enabled": True}, **_ROLLBACK)
    return draw.drawn(package, statuses=UNDONE, interrupted=UNDONE_IF_CAPTURED)


@kind(4)
def undone_later(draw: Draw) -> Drawn:
    steps = [draw.step(f"s{n}", capture=True) for n in (1, 2)]
    follow = FollowUp(event="result", message=draw.rollback("rolling_back", "rejected"))
    return draw.drawn(draw.package(*steps), statuses=UNDONE, interrupted=UNDONE_IF_CAPTURED, follow_ups=(follow,))


@kind(3)
def undone_by_force(draw: Draw) -> Drawn:
    steps = [draw.step("s1", capture=True), draw.step("long", seconds=draw.seconds(2, 5))]
    message = draw.rollback("cancelling", "rolling_back", "rejected", force=True)
    follow = FollowUp(event="step.started", step="long", message=message)
    return draw.drawn(
        draw.package(*steps),
        statuses=("rolled_back", "completed"),
        interrupted=("rolled_back", "failed"),
        follow_ups=(follow,),
    )


@kind(4)
def approval(draw: Draw) -> Drawn:
    package = draw.package(*draw.chain(1, 2), safety={"approval_required": True})
    follow = FollowUp(event="execution.awaiting_approval", message=draw.control("approve", "approved"))
    return draw.drawn(package, follow_ups=(follow,))


@kind(2)
def approval_refused(draw: Draw) -> Drawn:
    package = draw.package(*draw.chain(1, 2), safety={"approval_required": True})
    follow = FollowUp(event="execution.awaiting_approval", message=draw.control("reject", "ended"))
    return draw.drawn(package, statuses=("rejected",), interrupted=(), follow_ups=(follow,))


@kind(0.5)
def waits(draw: Draw) -> Drawn:
    package = draw.package(draw.step("s1"), safety={"approval_required": True})
    return draw.drawn(package, statuses=("awaiting_approval",), interrupted=(), waits=True)


@kind(4)
def cancelled(draw: Draw) -> Drawn:
    steps = [draw.step("s1"), draw.step("long", seconds=draw.seconds(2, 6)), draw.step("s3")]
    follow = FollowUp(event="step.started", step="long", message=draw.control("cancel", "cancelling", "rejected"))
    return draw.drawn(
        draw.package(*steps),
        statuses=("cancelled", "completed"),
        interrupted=("failed", "cancelled"),
        follow_ups=(follow,),
    )


@kind(2)
def cancelled_and_undone(draw: Draw) -> Drawn:
    steps = [draw.step("s1", capture=True), draw.step("long", seconds=draw.seconds(2, 6))]
    package = draw.package(*steps, rollback={"enabled": True}, **_ROLLBACK)
    follow = FollowUp(event="step.started", step="long", message=draw.control("cancel", "cancelling", "rejected"))
    return draw.drawn(
        package,
        statuses=("rolled_back", "completed"),
        interrupted=UNDONE_IF_CAPTURED,
        follow_ups=(follow,),
    )


@kind(3)
def cancelled_blindly(draw: Draw) -> Drawn:
    """The cancellation is on its way before anybody knows whether it comes in time."""
    package = draw.package(*draw.chain(2, 3, seconds=draw.seconds(0.1, 1)))
    cancel = draw.control("cancel", "cancelling", "ended", "rejected")
    return draw.drawn(
        package,
        draw.execute(package),
        cancel,
        statuses=("cancelled", "completed"),
        interrupted=("failed", "cancelled"),
    )


@kind(4)
def duplicates(draw: Draw) -> Drawn:
    package = draw.package(*draw.chain())
    first = draw.execute(package)
    again = Message(role=EXECUTE, body=first.body, key=first.key, answers=("duplicate",))
    return draw.drawn(package, first, *[again] * draw.random.randint(1, 3))


@kind(3)
def conflict(draw: Draw) -> Drawn:
    package = draw.package(*draw.chain())
    other = draw.package(draw.step("other"))
    return draw.drawn(package, draw.execute(package), draw.execute(other, answers=("rejected",)))


@kind(2)
def deadline(draw: Draw) -> Drawn:
    package = draw.package(draw.step("long", repeatable=True, seconds=draw.seconds(4, 8)))
    late = draw.execute(package, timeout="2s")
    return draw.drawn(package, late, statuses=("failed",), interrupted=("failed",))


@kind(2)
def large(draw: Draw) -> Drawn:
    package = draw.package(*draw.chain())
    package["metadata"]["description"] = draw.random.randbytes(100_000).hex()
    return draw.drawn(package)


@kind(2)
def noisy(draw: Draw) -> Drawn:
    return draw.drawn(draw.package(*draw.chain(1, 2, lines=draw.random.randint(20, 300))))


@kind(2)
def dry(draw: Draw) -> Drawn:
    package = draw.package(*draw.chain())
    return draw.drawn(package, draw.execute(package, dry_run=True), interrupted=(), dry=True)


@kind(1)
def validated(draw: Draw) -> Drawn:
    package = draw.package(*draw.chain())
    return draw.drawn(package, draw.execute(package, validate_only=True), interrupted=(), dry=True)


@kind(2)
def invalid_package(draw: Draw) -> Drawn:
    wrong = draw.random.choice(
        [
            {"name": "s2", "type": "no-such-adapter", "config": {}},
            {"name": "s1", "type": "mark", "config": {"file": "x"}},
            {"name": "s2", "type": "mark", "config": {"colour": "red"}},
            {"name": "s2", "type": "mark", "config": {"file": "x"}, "needs": ["nobody"]},
        ]
    )
    return _refused(draw, draw.package(draw.step("s1"), wrong), "accepted")


@kind(2)
def invalid_command(draw: Draw) -> Drawn:
    return _refused(draw, draw.package(draw.step("s1")), "rejected", dry_rum=True)


def _refused(draw: Draw, package: Json, answer: str, **more: object) -> Drawn:
    message = draw.execute(package, answers=(answer,), **more)
    return draw.drawn(package, message, statuses=("rejected",), interrupted=(), dry=True)


@kind(2)
def garbage(draw: Draw) -> Drawn:
    body = draw.random.choice([draw.random.randbytes(40), b"{", b"[1, 2]", b'"text"', b"\xff\xfe", b"null"])
    role = draw.random.choice([EXECUTE, ROLLBACK, CONTROL])
    key = draw.execution_id if draw.random.random() < 0.5 else None
    message = Message(role=role, body=body, key=key, answers=("dead",))
    plan = Plan(number=draw.number, kind=draw.kind, execution_id=draw.execution_id, statuses=("none",), dry=True)
    return Drawn(plan=plan, messages=(message,))


@kind(2)
def unknown(draw: Draw) -> Drawn:
    message = draw.random.choice([draw.rollback("rejected"), draw.control("cancel", "rejected")])
    plan = Plan(number=draw.number, kind=draw.kind, execution_id=draw.execution_id, statuses=("none",), dry=True)
    return Drawn(plan=plan, messages=(message,))


@kind(2)
def nameless(draw: Draw) -> Drawn:
    """A command without an id: the agent names it after where it lies."""
    package = draw.package(*draw.chain())
    message = Message(role=EXECUTE, body={"wpk_content": package}, key=None, answers=("accepted",))
    plan = Plan(
        number=draw.number,
        kind=draw.kind,
        execution_id=None,
        package=package,
        statuses=("completed",),
        interrupted=("failed",),
    )
    return Drawn(plan=plan, messages=(message,))
