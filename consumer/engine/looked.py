"""What was said of the packages that were checked lately. A runbook is run again and again, by the same text."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import orjson

from consumer.ports import JsonObject
from consumer.workflow.checks import Checked

#: How many checks are remembered; each is of a package and of parameters of 32 KB at most.
_KEPT, _MAX_PARAMETERS = 64, 32 * 1024


@dataclass(frozen=True, slots=True)
class Question:
    """All that a check depends on, besides the agent itself: its adapters and its environment stay as they are.

    By its bytes, not by its digest: `1` and `1.0`, and names in another order, have one digest, but what is checked is
    what is run, and a step writes them as they were given.
    """

    package: bytes
    parameters: bytes
    workflow_id: str | None

    @classmethod
    def of(cls, package: bytes, parameters: JsonObject, workflow_id: str | None) -> Question | None:
        """None where the answer is not to be remembered."""
        written = orjson.dumps(parameters)
        return cls(package, written, workflow_id) if len(written) <= _MAX_PARAMETERS else None


class Looked:
    """The newest answers by their questions. Nothing of them may be changed by who gets them."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Question, Checked] = OrderedDict()

    def get(self, question: Question) -> Checked | None:
        """What was said; None where that is not known any more."""
        found = self._answers.get(question)
        if found is not None:
            self._answers.move_to_end(question)
        return found

    def put(self, question: Question, checked: Checked) -> None:
        """Remembers it."""
        self._answers[question] = checked
        if len(self._answers) > _KEPT:
            self._answers.popitem(last=False)
