"""The policy from its file, with everything that is wrong with it at once; and the policies that need no file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from consumer.errors import SettingsError
from consumer.policy import command_signatures, matching, signatures
from consumer.policy.judge import Policy
from consumer.workflow import conditions, documents
from schemas.canonical import digest
from schemas.failure import Problem
from schemas.policy import Applies, K8sSteps, OtherSteps, PolicyFile, Rule, Steps
from schemas.problems import problems_of

MAX_BYTES = 1_000_000
_RUN_VARIABLES = frozenset({"workflow", "request"})

#: Everything is allowed: for trying out.
OPEN = Policy(file=PolicyFile(version=1), origin="the open policy", open=True)

#: Without a file: only what changes nothing. A Secret's fields are left out, as steps' outputs are published.
RESTRICTED = Policy(
    origin="the built-in policy (WPK_POLICY_FILE is not set)",
    file=PolicyFile(
        version=1,
        rules=(
            Rule(
                name="read-kubernetes",
                effect="allow",
                steps=Steps(k8s=K8sSteps(changes=False)),
                when='step.kind != "secret"',
            ),
            Rule(name="delay", effect="allow", steps=Steps(delay=OtherSteps())),
        ),
    ),
)


def policy_of(setting: Path | Literal["open"] | None) -> Policy:
    """The policy that the setting names. Raises SettingsError with all that is wrong with the file."""
    if setting is None:
        return RESTRICTED
    return OPEN if setting == "open" else load(Path(setting))


def load(path: Path) -> Policy:
    """The policy in that file. Raises SettingsError with each problem, its line and its remedy."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"the policy {path} can't be read: {error.strerror or error}") from error
    return usable(data, str(path))


def usable(data: bytes, origin: str) -> Policy:
    """The policy in a file's bytes. Raises SettingsError as `load` does."""
    try:
        return parse(data, origin)
    except documents.DocumentError as error:
        raise SettingsError(f"the policy {origin} can't be used:\n{_lines(error.problems)}") from error


def parse(text: str | bytes, origin: str) -> Policy:
    """The policy of that text. Raises DocumentError with each problem and its place."""
    document = documents.parse(text, max_bytes=MAX_BYTES)
    try:
        file = PolicyFile.model_validate(document.value)
    except ValidationError as error:
        found = problems_of(error, PolicyFile)
    else:
        found = [*_conditions(file), *_keys(file)]
    if found:
        raise documents.DocumentError([documents.locate(problem, document.positions) for problem in found])
    return Policy(file=file, origin=origin, digest=digest(document.value))


def _conditions(file: PolicyFile) -> list[Problem]:
    problems = []
    for where, entries, known in (
        ("rules", file.rules, _RUN_VARIABLES | {"step"}),
        ("requirements", file.requirements, _RUN_VARIABLES),
        ("commands", file.commands or (), _RUN_VARIABLES),
    ):
        for index, entry in enumerate(entries):
            message = _wrong_condition(entry, known)
            if message is not None:
                problems.append(Problem(path=f"{where}[{index}].when", message=message))
    return problems


def _keys(file: PolicyFile) -> list[Problem]:
    problems = [Problem(path=f"keys[{index}].public_key", message=why) for index, why in signatures.wrong_keys(file)]
    wrong = command_signatures.wrong_keys(file)
    return problems + [Problem(path=f"command_keys[{index}].public_key", message=why) for index, why in wrong]


def _wrong_condition(entry: Applies, known: frozenset[str]) -> str | None:
    if entry.when is None:
        return None
    try:
        roots = matching.condition(entry.when).roots
    except conditions.ConditionError as error:
        return str(error)
    strange = sorted(roots - known)
    return f'there is no "{strange[0]}" here; there are {", ".join(sorted(known))}' if strange else None


def _lines(problems: tuple[Problem, ...]) -> str:
    return "\n".join(
        f"  line {problem.line}: {problem}" if problem.line is not None else f"  {problem}" for problem in problems
    )
