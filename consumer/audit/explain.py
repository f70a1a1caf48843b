"""An execution explained to whoever never saw this tool: asked by whom, what changed, what failed and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from consumer.audit.facts import Facts
from consumer.audit.findings import Report
from schemas import events
from schemas.events import Event, Status
from schemas.execution import ExecutionState, StepState, StepStatus

_TAIL = 3
_MOST = 20
#: What stands behind a failure, by its code; else the message says it.
_CAUSES = {
    "timeout": "it took longer than its timeout allows: is what it waits for stuck, or is the timeout too short?",
    "interrupted": "the agent that ran it died or lost its partition; whether it took effect is not known: look there",
    "exit_code": "the command ended with an error; its last lines say more",
    "not_found": "what it works on is not there: check the names and the namespace",
    "forbidden": "the agent may not do that: its account lacks the permission",
    "unauthorized": "the agent's credentials were not accepted",
    "conflict": "somebody else changed the same object at the same time",
    "http_status": "the service answered with another status than was expected",
    "connection": "the service could not be reached: is it up, and may the agent connect to it?",
    "condition": "what the step was to make true, or what it expected, was not so",
    "deadline": "the deadline of the execution passed",
    "internal": "a defect of the agent; its log has the details at that time",
}
#: Words in a failure or in its last lines that point at a cause better than the code does.
_SIGNS = (
    ("ImagePullBackOff", "the image can't be pulled: check its name, its tag and the registry's credentials"),
    ("ErrImagePull", "the image can't be pulled: check its name, its tag and the registry's credentials"),
    ("CrashLoopBackOff", "the container starts and dies again and again: its own log says why"),
    ("OOMKilled", "the container needed more memory than its limit"),
    ("Insufficient", "no node has the resources that the pod asks for"),
    ("disruption budget", "a PodDisruptionBudget does not let the pod go"),
    ("command not found", "a program that the command needs is not installed where it ran"),
    ("No such file or directory", "a file that the command needs is not there"),
    ("Permission denied", "the command may not touch what it works on"),
    ("No space left on device", "the disk is full"),
    ("connection refused", "nothing listens at that address"),
    ("Name or service not known", "the host's name does not resolve"),
    ("certificate", "the TLS certificate is not trusted, is expired, or is for another name"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that is said: under which word, and what."""

    about: str
    text: str


def explain(found: Sequence[Event], state: ExecutionState, facts: Facts, report: Report) -> list[Line]:
    """The page below its title, in the order in which one asks."""
    return [
        *_people(facts),
        *_ran(state),
        *_changed(state),
        *_failed(found, state),
        *_refused(found),
        *_undone(state),
        *_left(state),
        _trail(facts, report),
    ]


def _people(facts: Facts) -> Iterator[Line]:
    labels = ", ".join(f"{name}={value}" for name, value in facts.labels.items())
    for deed in facts.deeds:
        if deed.what.endswith(" refused"):
            continue
        about = "asked by" if deed.what == "requested" else deed.what
        said = f": {deed.why}" if deed.why else ""
        more = f" (labels {labels})" if labels and deed.what == "requested" else ""
        yield Line(about, f"{deed.who or 'somebody who gave no name'} at {deed.at}{more}{said}")
    if facts.target:
        yield Line("works on", ", ".join(facts.targets[:3]))


def _ran(state: ExecutionState) -> Iterator[Line]:
    if state.validate_only:
        yield Line("ran", "nothing: it was only validated")
    elif not state.steps:
        yield Line("ran", "nothing yet" if not state.over else "nothing")
    else:
        done = [name for name, step in state.steps.items() if step.status is StepStatus.SUCCEEDED]
        skipped = [name for name, step in state.steps.items() if step.status is StepStatus.SKIPPED]
        told = f"{len(done)} of {len(state.steps)} steps succeeded" + (f": {_listed(done)}" if done else "")
        yield Line("ran", told + (f"; left out: {_listed(skipped)}" if skipped else ""))
        for name, step in state.steps.items():
            if step.status in (StepStatus.RUNNING, StepStatus.RETRYING):
                yield Line(
                    "now", f"{name} {step.status.value}" + (f" after: {step.error.message}" if step.error else "")
                )


def _changed(state: ExecutionState) -> Iterator[Line]:
    if state.dry_run:
        yield Line("changed", "nothing: it was a dry run")
        return
    changed = [(name, step) for name, step in state.steps.items() if step.captured]
    for name, step in changed[:_MOST]:
        done = step.status is StepStatus.SUCCEEDED
        sure = "" if done else f"  (the step is {step.status.value}: look whether it took effect)"
        yield Line("changed", f"{step.captured}  by {name}{sure}")
    others = [n for n, s in state.steps.items() if s.adapter in ("shell", "api") and s.attempt and not s.captured]
    if others:
        yield Line("also ran", f"{_listed(others)}: what shell and api steps change outside is not recorded here")
    elif not changed and state.steps:
        yield Line("changed", "nothing was recorded")


def _failed(found: Sequence[Event], state: ExecutionState) -> Iterator[Line]:
    steps = [*state.steps.values(), *state.rollback_steps.values()]
    failed = [step for step in steps if step.status is StepStatus.FAILED and step.error is not None]
    for step in failed:
        assert step.error is not None
        again = f" at attempt {step.attempt}" if step.attempt > 1 else ""
        goes_on = "; the run went on" if step.continued else ""
        undoing = " of the rollback" if step.phase == "rollback" else ""
        yield Line("failed", f"{step.step}{undoing}{again}: {step.error.message}{goes_on}")
        tail = _last_lines(found, step)
        for line in tail:
            yield Line("", f"│ {line}")
        if (why := _cause(step.error.type, step.error.message, tail)) is not None:
            yield Line("likely why", why)
    if not failed and state.error is not None and state.status is not Status.COMPLETED:
        yield Line("failed", state.error.sentence)
        if (why := _cause(state.error.type, state.error.message, [])) is not None:
            yield Line("likely why", why)


def _last_lines(found: Sequence[Event], step: StepState) -> list[str]:
    """What the attempt said last: on stderr where it said anything there."""
    said: dict[str, list[str]] = {"stderr": [], "stdout": []}
    wanted = (step.step, step.phase, step.attempt)
    for event in found:
        data = event.data
        if (
            isinstance(data, events.LogLines)
            and (data.step, data.phase, data.attempt) == wanted
            and data.stream in said
        ):
            said[data.stream] = [*said[data.stream], *(line.text for line in data.lines)][-_TAIL:]
    return said["stderr"] or said["stdout"]


def _cause(code: str, message: str, tail: Sequence[str]) -> str | None:
    text = "\n".join([message, *tail]).casefold()
    by_sign = next((why for sign, why in _SIGNS if sign.casefold() in text), None)
    return by_sign or _CAUSES.get(code)


def _refused(found: Sequence[Event]) -> Iterator[Line]:
    for event in found:
        if isinstance(event.data, events.CommandRejected):
            what = event.data.action or event.data.command
            who = f" by {event.data.requested_by}" if event.data.requested_by else ""
            yield Line("refused", f"{what}{who}: {'; '.join(str(problem) for problem in event.data.errors[:3])}")


def _undone(state: ExecutionState) -> Iterator[Line]:
    if state.rollback is None:
        return
    if state.rollback.dry_run:
        yield Line("undone", "nothing: the rollback was a dry run")
        return
    how = "its own handlers" if state.rollback.mode == "handlers" else "what was recorded before each change"
    why = f" ({state.rollback.reason})" if state.rollback.reason else ""
    yield Line(
        "undone", f"{state.rollback.trigger} rollback by {how}{why}, {(state.status or 'unknown').replace('_', ' ')}"
    )
    for step in state.rollback_steps.values():
        restored = _texts(step.output, "restored")
        if step.status is StepStatus.SUCCEEDED:
            yield Line("", f"{step.step}: {'; '.join(restored) if restored else 'done'}")


def _left(state: ExecutionState) -> Iterator[Line]:
    """What is not as it was before."""
    left: list[str] = []
    for step in state.rollback_steps.values():
        left += [f"{step.step}: {text}" for text in _texts(step.output, "not_restored")]
        if step.status is StepStatus.FAILED and step.error:
            left.append(f"{step.step} failed: {step.error.message}")
    rolled_back = state.rollback is not None and not state.rollback.dry_run
    if not rolled_back and state.status in (Status.FAILED, Status.CANCELLED) and not state.dry_run:
        left += [f"{step.captured} (by {name})" for name, step in state.steps.items() if step.captured]
    for text in left[:_MOST]:
        yield Line("left", text)
    if rolled_back and not left and state.status is Status.ROLLED_BACK:
        yield Line("left", "nothing: all steps of the rollback succeeded")


def _trail(facts: Facts, report: Report) -> Line:
    intact = "chain intact" if report.holds else "THE CHAIN IS BROKEN: " + "; ".join(f.message for f in report.broken)
    where = f", {facts.first} to {facts.last}" if facts.first and facts.last else ""
    gone = f", {report.expired} events are beyond their retention" if report.expired else ""
    return Line("trail", f"{facts.events} events, {intact}{gone}{where}")


def _texts(output: JsonValue, name: str) -> list[str]:
    found = output.get(name) if isinstance(output, dict) else None
    items = found if isinstance(found, list) else [] if found is None else [found]
    return [str(item) for item in items if item not in ("", None)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")
