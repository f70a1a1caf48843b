"""How executions look, told by real sequences of events."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from consumer.cli.render import execution, plan, problems, steps, tables, text
from consumer.cli.render.summary import plan_document, summary
from consumer.cli.render.watch import WatchView
from schemas import events
from schemas.events import Source
from schemas.failure import Problem
from schemas.plan import plan_digest
from tests.support.stories import Story, done


def plain(lines: list[Text]) -> str:
    return "\n".join(line.plain for line in lines)


def watched(story: Story) -> tuple[WatchView, str]:
    """The view after the whole story, and every plain line it gave on the way."""
    view, lines = WatchView(), []
    for told in story:
        view.observe(told.event, told.state)
        lines += view.lines(told.event)
    return view, plain(lines)


def test_a_run_is_told_line_by_line_each_once() -> None:
    _, told = watched(done())
    assert told.splitlines() == [
        "▶ greet 1.0.0   execution run-1   requested by alice",
        "  ▸ hello  shell  started",
        "      hello │ good morning",
        "  ✔ hello  shell  0.50 s",
        "  completed in 0.50 s      outputs: said=good morning",
    ]


def test_the_block_shows_the_newest_line_beside_its_step_and_the_outputs_at_the_end() -> None:
    story = done()
    view, _ = watched(story)
    assert plain(view.block(story.now)).splitlines() == [
        "▶ greet 1.0.0   execution run-1   requested by alice",
        "  ✔ hello  shell     0.50 s  │ good morning",
        "  completed in 0.50 s      outputs: said=good morning",
    ]


def test_a_step_that_runs_turns_and_counts_its_time() -> None:
    story = Story().accepted().started("slow").step_started("slow").said("slow", "still at it")
    view, _ = watched(story)
    first, second = (plain(view.block(story.now + timedelta(seconds=9), tick)) for tick in (0, 1))
    assert "9.0 s" in first
    assert "slow │ still at it" in first
    assert "0 of 1 steps done" in first
    assert first != second


def test_before_any_agent_took_the_command_the_block_asks_whether_one_runs() -> None:
    assert "does one run?" in plain(WatchView().block(Story().now))


def test_a_retry_shows_why_the_attempts_before_failed() -> None:
    story = Story().accepted().started("flaky").step_started("flaky").step_retrying("flaky", "got 503")
    view, told = watched(story)
    assert "attempt 1 failed: got 503" in told
    assert "1st attempt: got 503; again in 3.0 s" in plain(view.block(story.now))
    story.step_started("flaky", attempt=2).step_succeeded("flaky", attempt=2).completed()
    view, _ = watched(story)
    assert "2nd attempt (got 503)" in plain(view.block(story.now))


def test_a_failure_that_is_rolled_back_shows_both_and_ends_with_the_rollback() -> None:
    story = Story().accepted().started("change", "check").step_started("change").step_succeeded("change")
    story.step_started("check").step_failed("check", "expected 200, got 500")
    story.failed("expected 200, got 500", step="check", rollback_follows=True)
    story.rolling_back("restore").step_started("restore", phase="rollback")
    story.step_succeeded("restore", phase="rollback").rolled_back()
    view, told = watched(story)
    block = plain(view.block(story.now))
    assert "✘ check    shell     0.25 s  expected 200, got 500" in block
    assert "↶ restore" in block
    assert block.splitlines()[3].strip().startswith("↶")
    assert "the rollback begins" in told
    assert "rolling back by its own handlers, 1 step" in told
    assert "rolled back in 0.50 s" in told.splitlines()[-2] + told.splitlines()[-1]


def test_an_approval_that_is_waited_for_says_how_to_give_it_and_by_whom_not() -> None:
    story = Story().accepted()
    story.tell(events.ExecutionAwaitingApproval(expires_at=story.now + timedelta(minutes=59, seconds=30)))
    view, told = watched(story)
    for shown in (told, plain(view.block(story.now)), plain(execution.page(story.state, story.now))):
        assert "⏸ waiting for approval" in shown
        assert "expires in 59 min" in shown
        assert "wpk approve run-1" in shown
        assert "not by alice" in shown


def test_a_refused_command_is_told_with_its_reason_and_the_run_stands() -> None:
    story = done()
    problem = Problem(path="execution_id", message="run-1 left nothing to undo with")
    story.tell(
        events.CommandRejected(command="rollback", errors=(problem,)),
        events.ExecutionRejected(completed_at=story.now, command="rollback", errors=(problem,)),
    )
    view, told = watched(story)
    assert told.splitlines()[-2:] == [
        "  ✘ the rollback command was refused",
        "      execution_id: run-1 left nothing to undo with",
    ]
    assert told.count("completed in") == 1
    assert "the rollback command was refused" in plain(view.block(story.now))


def test_a_change_of_agent_a_duplicate_and_a_cancellation_are_told() -> None:
    story = Story().accepted().started("one").step_started("one")
    story.tell(
        events.ExecutionResumed(status=events.Status.RUNNING, in_doubt=("one",)),
        events.CommandDuplicate(command="execute"),
        events.ExecutionCancelling(cause="command", requested_by="bob", reason="too slow"),
    )
    _, told = watched(story)
    assert "another agent goes on (agent-a); in doubt: one" in told
    assert "the execute command was taken before; nothing is done twice" in told
    assert "cancelled by bob: too slow" in told


def test_steps_that_ran_at_the_same_time_are_bracketed() -> None:
    story = Story().accepted().started("a", "b", "c", "d", needs={"b": ("a",), "c": ("a",), "d": ("b", "c")})
    story.step_started("a").step_succeeded("a").step_started("b").step_started("c")
    story.step_succeeded("b").step_succeeded("c", duration=1.0).step_started("d").step_succeeded("d")
    found = [line.plain for line in steps.rows(story.state, story.now)]
    assert [line[-1] for line in found] == ["s", "┐", "┘", "s"]


def test_steps_in_sequence_are_never_bracketed() -> None:
    story = Story().accepted().started("a", "b").step_started("a").step_succeeded("a")
    story.step_started("b").step_succeeded("b").completed()
    assert not any("┐" in line.plain for line in steps.rows(story.state, story.now))


def test_the_page_of_a_status_has_all_fields_by_name_and_what_to_do_next() -> None:
    story = Story().accepted().started("one", "two").step_started("one")
    story.tell(events.StepCaptured(step="one", adapter="shell", summary="limit=10"))
    story.step_succeeded("one").step_started("two").step_failed("two", "exit code 3").failed("exit code 3", step="two")
    shown = plain(execution.page(story.state, story.now + timedelta(minutes=3)))
    assert shown.splitlines()[0] == "greet 1.0.0  failed after 0.75 s: two: exit code 3, 3 min ago"
    for name in (
        "execution_id",
        "workflow_id",
        "status",
        "started_at",
        "completed_at",
        "current_step",
        "steps_completed",
        "total_steps",
        "error_message",
    ):
        assert f"\n  {name} " in shown
    assert "recorded: limit=10" in shown
    assert "wpk logs run-1 two" in shown
    assert "wpk rollback run-1" in shown


def test_the_summary_is_the_state_by_the_contracts_names() -> None:
    story = done()
    document = summary(story.state)
    assert document["status"] == "completed"
    assert document["started_at"] == "2026-03-01T12:00:00.000Z"
    assert document["error_message"] is None
    assert (document["steps_completed"], document["total_steps"], document["current_step"]) == (1, 1, None)
    assert document["outputs"] == {"said": "good morning"}
    [step] = document["steps"]  # type: ignore[misc]
    assert isinstance(step, dict)
    assert step["output"] == {"stdout": "good morning\n"}
    assert "steps" not in summary(story.state, details=False)


def planned(**outputs: events.JsonObject) -> Story:
    story = Story(dry_run=True).accepted().started(*outputs)
    for name, output in outputs.items():
        story.step_started(name).step_succeeded(name, output=output)
    return story.completed()


def test_a_plan_shows_each_field_that_would_change_and_counts_the_steps() -> None:
    changes: list[events.JsonObject] = [
        {"path": ["spec", "replicas"], "from": 3, "to": 5},
        {"path": ["metadata", "labels", "a/b"], "to": "x"},
        {"path": ["spec", "items", 0], "from": "gone"},
    ]
    story = planned(
        scale={"plan": "scale deployment payments/api from 3 to 5", "changes": True, "detail": {"changes": [*changes]}},
        wait={"plan": "wait 30s", "changes": False, "detail": {"duration": 30}},
    )
    shown = plain(plan.plan(story.state)).splitlines()
    assert shown[0] == "plan of greet 1.0.0   execution run-1, nothing was changed"
    assert shown[1] == "  ~ scale  shell   scale deployment payments/api from 3 to 5"
    assert [line.strip() for line in shown[2:5]] == [
        "~ spec.replicas: 3 → 5",
        '+ metadata.labels["a/b"]: x',
        "- spec.items[0]: gone",
    ]
    assert shown[5] == "  · wait   shell   wait 30s"
    assert shown[6] == "  1 of 2 steps would change something"
    document = plan_document(story.state)
    assert [step["changes"] for step in document["steps"]] == [True, False]  # type: ignore[index,union-attr,call-overload]


def test_a_plan_ends_with_the_digest_over_all_of_it_if_every_step_is_planned() -> None:
    whole = planned(one={"plan": "wait 30s", "changes": False, "digest": "sha256:1"}).state
    assert plain(plan.plan(whole)).splitlines()[-1] == f"  digest of this plan: {plan_digest(whole)}"
    assert plan_document(whole)["plan_digest"] == plan_digest(whole)
    part = planned(one={"plan": "wait 30s", "changes": False}).state
    assert "digest" not in plain(plan.plan(part))
    assert plan_document(part)["plan_digest"] is None


def test_a_plan_without_changes_says_so() -> None:
    story = planned(wait={"plan": "wait 30s", "changes": False})
    assert "no step would change anything" in plain(plan.plan(story.state))


def test_a_step_that_cannot_be_planned_is_shown_with_its_reason() -> None:
    story = Story(dry_run=True).accepted().started("one").step_started("one").step_failed("one", "no such deployment")
    shown = plain(plan.plan(story.failed("no such deployment").state))
    assert "✘ one" in shown
    assert "no such deployment" in shown
    assert "1 of 1 steps can't be planned" in shown


def test_a_list_has_a_line_for_each_execution_and_says_why_it_waits() -> None:
    waiting = Story("w-1").accepted()
    waiting.tell(events.ExecutionAwaitingApproval(expires_at=waiting.now + timedelta(hours=22, minutes=5)))
    retrying = Story("r-1").accepted().started("flaky").step_started("flaky").step_retrying("flaky", "got 503")
    shown = plain(tables.executions([waiting.state, retrying.state, done("d-1").state], waiting.now))
    head, first, second, third = shown.splitlines()
    assert head.split() == ["EXECUTION", "WORKFLOW", "STATUS", "STEPS", "FOR", "WHY"]
    assert first.startswith("w-1")
    assert "nobody approved; expires in 22 h" in first
    assert "step flaky failed, attempt 2 at" in second
    assert "took 0.50 s" in third
    assert plain(tables.executions([], waiting.now)) == "no executions"


def test_problems_are_listed_in_the_files_order_with_place_path_and_remedy() -> None:
    found = [
        Problem(path="spec.monitorng", message="unknown field", severity="warning", line=31, column=3),
        Problem(path="spec.handlers[1].timeout", message='"5 parsecs" is no duration; write 30s', line=12, column=14),
    ]
    assert plain(problems.report("runbook.wpk.yaml", found)).splitlines() == [
        "runbook.wpk.yaml: 1 error, 1 warning",
        '  12:14  spec.handlers[1].timeout  "5 parsecs" is no duration; write 30s',
        "  31:3   spec.monitorng            unknown field  (warning)",
    ]
    assert plain(problems.report("a.yaml", [])) == "a.yaml: valid"
    assert plain(problems.report("a.yaml", found[:1])).startswith("a.yaml: valid, 1 warning")


HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]bold[/red]\u202egnp.exe\r\nnext\x9b31m"


def test_text_of_events_can_neither_steer_the_terminal_nor_be_taken_as_markup() -> None:
    story = Story().accepted(requested_by=HOSTILE).started("one").step_started("one").said("one", HOSTILE)
    story.step_failed("one", HOSTILE).failed(HOSTILE, step="one")
    view, told = watched(story)
    shown = [
        told,
        plain(view.block(story.now)),
        plain(execution.page(story.state, story.now)),
        plain(tables.executions([story.state], story.now)),
        plain(plan.plan(story.state)),
        plain(problems.report(HOSTILE, [Problem(path=HOSTILE, message=HOSTILE)])),
    ]
    for each in shown:
        assert "[red]bold[/red]" in each
        assert not set(each) & set("\x1b\x07\x9b\r\u202e")


@given(st.text())
def test_cleaned_text_is_one_printable_line(value: str) -> None:
    cleaned = text.clean(value, 50)
    assert len(cleaned) <= 50
    assert all(char.isprintable() or char == "\u3000" or char.isspace() for char in cleaned)
    assert "\n" not in cleaned
    assert "\x1b" not in cleaned


@pytest.mark.parametrize(
    ("span", "shown"),
    [
        (0.0, "0.00 s"),
        (0.024, "0.02 s"),
        (4.13, "4.1 s"),
        (65, "1 min 5 s"),
        (120, "2 min"),
        (3600 * 3 + 20 * 60, "3 h 20 min"),
        (9 * 86_400, "9 days"),
    ],
)
def test_spans_are_written_for_people(span: float, shown: str) -> None:
    assert text.seconds(span) == shown


def test_an_id_known_only_from_refused_commands_is_called_so() -> None:
    story = Story("nope")
    story.tell(
        events.CommandRejected(
            command="control",
            action="cancel",
            errors=(Problem(path="execution_id", message="not known"),),
            source=Source(topic="wpk.commands.control", partition=0, offset=0),
        )
    )
    assert "never accepted" in plain(execution.page(story.state, story.now))
