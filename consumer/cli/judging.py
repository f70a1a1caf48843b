"""`wpk policy check`: what a policy says of a package, step by step, and why."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue
from rich.text import Text

from consumer.cli import execute, packages
from consumer.cli.context import settings_of
from consumer.cli.execute import CliError
from consumer.cli.options import PolicyCheckOptions
from consumer.cli.output import Output
from consumer.cli.parameters import parse_labels, parse_parameters
from consumer.cli.render.problems import report
from consumer.cli.render.text import BAD, DIM, GOOD, WAIT, clean
from consumer.engine import permits
from consumer.engine.permits import Asked, Permit
from consumer.policy import load
from consumer.policy.judge import Policy, told
from consumer.policy.run import Decision, Step, Verdict
from consumer.workflow.checks import check_package

_STYLES = {Decision.ALLOWED: GOOD, Decision.REFUSED: BAD, Decision.LATER: WAIT}
_SIGNS = {Decision.ALLOWED: "✔ allowed", Decision.REFUSED: "✘ refused", Decision.LATER: "… later"}


def check(options: PolicyCheckOptions) -> int:
    """The decision for each step; exit code 0 where the run may begin, 1 where it is refused."""
    output = Output(json=options.json)
    settings = settings_of(options)
    adapters = packages.adapters(settings)
    policy = load.RESTRICTED if options.policy == "none" else load.load(Path(options.policy))
    parameters = parse_parameters(options.parameter or ())
    looked = packages.check(options.file, packages.read(options.file), parameters, adapters)
    checked = check_package(looked.document, parameters, adapters)
    if checked.package is None or checked.errors or not isinstance(looked.document, dict):
        for line in report(options.file, looked.problems):
            output.note(line.plain)
        raise CliError("no policy is asked about a package that is not valid; correct it first")
    asked = Asked(
        document=looked.document,
        requester=options.requester,
        labels=parse_labels(options.label or ()),
        dry_run=options.dry_run,
        at=datetime.now(UTC),
        command_key=options.command_key,
    )
    permit = permits.of_package(asked, checked.package, checked.parameters, policy, adapters, {})
    steps = [
        (path, step, policy.judge(permit.run, step, final=False))
        for path, step in permits.steps_of(checked.package, checked.parameters, adapters, {})
    ]
    if output.json:
        output.document(_document(permit, steps))
    else:
        output.lines(_table(options, policy, permit, steps))
    return execute.ENDED_OTHERWISE if permit.problems else execute.OK


def _document(permit: Permit, steps: list[tuple[str, Step, Verdict]]) -> JsonValue:
    judged: list[JsonValue] = [
        {
            "path": path,
            "step": step.name,
            "phase": step.phase,
            "decision": verdict.decision.value,
            "rules": [*verdict.rules],
            "reason": verdict.message or None,
        }
        for path, step, verdict in steps
    ]
    problems: list[JsonValue] = [problem.model_dump(mode="json", exclude_none=True) for problem in permit.problems]
    signed_by: list[JsonValue] = [*permit.permission.signed_by]
    return {
        "allowed": not permit.problems,
        "signed_by": signed_by,
        "approval": permit.must_wait,
        "dry_run_first": permit.dry_run_first is not None,
        "steps": judged,
        "problems": problems,
    }


def _table(
    options: PolicyCheckOptions, policy: Policy, permit: Permit, steps: list[tuple[str, Step, Verdict]]
) -> list[Text]:
    run = permit.run
    who = run.requester or "somebody who gives no name"
    signed = f"signed by {', '.join(run.signed_by)}" if run.signed_by else "not signed by a key of the policy"
    lines = [Text(f"{clean(run.workflow)} {clean(run.version)}, asked for by {clean(who)}, {signed}: ")]
    lines[0].append("refused" if permit.problems else "may run", style=BAD if permit.problems else GOOD)
    width = max((len(step.name) for _, step, _ in steps), default=0)
    for _, step, verdict in steps:
        line = Text(f"  {clean(step.name):<{width}}  ")
        line.append(f"{_SIGNS[verdict.decision]:<9}", style=_STYLES[verdict.decision])
        by = f"by {', '.join(verdict.rules)}" if verdict.rules else "by no rule"
        line.append(f"  {by}  ")
        line.append(clean("; ".join(told(step, facts) for facts in step.facts), 200), style=DIM)
        lines.append(line)
    lines += [Text(f"  {problem.path}: {clean(problem.message, 500)}", style=BAD) for problem in permit.problems]
    lines += [Text(f"  {clean(problem.message, 500)}", style=WAIT) for problem in permit.warnings]
    if permit.dry_run_first is not None and not permit.problems:
        lines.append(Text(f"  {clean(permit.dry_run_first.wanted_by, 200)} wants a dry run first", style=WAIT))
    if permit.must_wait and not permit.problems:
        lines.append(Text("  it waits for an approval, as a requirement of the policy says", style=WAIT))
    return lines
