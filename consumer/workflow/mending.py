"""A package without what is wrong in its structure, so that the rest of it can be looked at in the same go.

Only for finding more problems: such a package is never run.
"""

from __future__ import annotations

from copy import deepcopy

from pydantic import JsonValue, ValidationError

from schemas.problems import Path, located_problems
from schemas.wpk import WorkflowPackage

#: Leaving something out can only uncover what was hidden by it, a level at a time.
_ROUNDS = 3


def mended(document: dict[str, JsonValue], error: ValidationError) -> WorkflowPackage | None:
    """The package that is left when each field that `error` complains of is left out; None where that is none.

    Nor is there one where the declared parameters are broken: without them every placeholder would seem wrong.
    """
    rest = deepcopy(document)
    for _ in range(_ROUNDS):
        paths = {_field(found.path) for found in located_problems(error, WorkflowPackage)}
        if any(path[:2] == ("spec", "parameters") for path in paths):
            return None
        if not all(_leave_out(rest, path) for path in sorted(paths, key=len, reverse=True)):
            return None
        try:
            return WorkflowPackage.model_validate(rest)
        except ValidationError as more:
            error = more
    return None


def _field(path: Path) -> Path:
    """The field at the path; for an entry of a list the whole list, so that no other entry changes its place."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    return path


def _leave_out(rest: JsonValue, path: Path) -> bool:
    """Removes the field at the path; False where there is nothing to remove: what is wrong is that it is missing."""
    holder: JsonValue = rest
    for part in path[:-1]:
        match holder, part:
            case dict(), str() if part in holder:
                holder = holder[part]
            case list(), int() if part < len(holder):
                holder = holder[part]
            case _:
                return False
    if not path or not isinstance(holder, dict) or path[-1] not in holder:
        return False
    del holder[str(path[-1])]
    return True
