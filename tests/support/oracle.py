"""kubectl as the oracle: it and the adapter do the same to twin objects, in two namespaces, and leave the same behind.

What a row compares is named here once, so that the table at the end of a run says what was held against what.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from consumer.adapters.k8s import rollout
from consumer.errors import StepError
from consumer.ports import JsonObject
from tests.support.control_plane import Kubectl, KubectlFailed
from tests.support.eventually import eventually
from tests.support.k8s_steps import Steps

Object = dict[str, Any]
#: Stands for the row's own name, wherever a row has a name.
NAME = "NAME"
#: Stands for a node: one for kubectl, another for the adapter.
NODE = "NODE"
#: Differs from object to object and from run to run; the status comes in its own time.
_OWN = {"uid", "resourceVersion", "creationTimestamp", "managedFields", "deletionTimestamp", "status", "timeAdded"}
#: From the adapter's output and lines to what kubectl prints.
Said = Callable[[JsonObject, list[str]], str]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that both are asked to do. `NAME` and `NODE` stand for names; commands are split as by sh."""

    verb: str
    kind: str
    case: str
    kubectl: str
    step: JsonObject
    manifest: Object | None = None
    """What kubectl reads of its input."""
    given: tuple[Object, ...] = ()
    """What is there before, in both namespaces."""
    before: tuple[str, ...] = ()
    """kubectl's commands in both namespaces before that."""
    left: str = ""
    """What of the namespace is compared, in the words of `kubectl get`; "" for the object, "-" for nothing."""
    refused: str = ""
    """The code of the adapter's refusal, where both refuse."""
    said: Said | None = None
    """What the adapter said in kubectl's words, where that is compared; in any order of the lines."""

    @property
    def name(self) -> str:
        """What its objects are called; ids of tests are the same."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.verb} {self.kind} {self.case}".lower()).strip("-")[:50].strip("-")

    def command(self, text: str, node: str = "") -> list[str]:
        return [part.replace(NAME, self.name).replace(NODE, node) for part in shlex.split(text)]

    def named(self, value: Any, node: str = "") -> Any:
        """The value with the row's own name."""
        return json.loads(json.dumps(value).replace(NAME, self.name).replace(NODE, node))


@dataclass(frozen=True)
class Oracle:
    """kubectl in the namespace `theirs`, the adapter's steps in `ours`."""

    kubectl: Kubectl
    steps: Steps
    theirs: str
    ours: str
    nodes: tuple[str, str] = ("node-1", "node-2")
    """kubectl's, and the adapter's."""

    @property
    def sides(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """kubectl's namespace and node, and the adapter's."""
        return (self.theirs, self.nodes[0]), (self.ours, self.nodes[1])

    async def make(self, *manifests: Object) -> None:
        """Puts objects into both namespaces, which are made where they are not there yet."""
        items: list[Object] = []
        for namespace, _ in self.sides:
            named: Object = {"apiVersion": "v1", "metadata": {"name": namespace}}
            account: Object = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
            items += [{**named, "kind": "Namespace"}, _placed(account, namespace)]
            items += [_placed(item, namespace) for item in manifests]
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        # By the server: else it would be a race with the controller that makes a namespace's service account.
        await self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=document)

    async def hold(self, row: Row) -> tuple[str, str]:
        """Lets both do what the row says, and compares. Gives what each said where it refused."""
        await self.make(*row.named(row.given))
        for text in row.before:
            both = ((namespace, row.command(text, node)) for namespace, node in self.sides)
            await asyncio.gather(*(self.kubectl("-n", namespace, *arguments) for namespace, arguments in both))
        theirs, ours = await asyncio.gather(self._kubectl(row), self._adapter(row))
        if row.refused:
            assert isinstance(theirs, KubectlFailed), f"kubectl does it, and says: {theirs}"
            assert isinstance(ours, StepError), f"the adapter does what kubectl refuses ({theirs.error}): {ours}"
            assert ours.code == row.refused, f"{ours.code}: {ours}; kubectl says: {theirs.error}"
        else:
            assert not isinstance(theirs, KubectlFailed), f"kubectl refuses: {theirs}"
            assert not isinstance(ours, StepError), f"the adapter refuses what kubectl does: {ours.code}: {ours}"
            if row.said is not None:
                said = row.said(ours, self.steps.output)
                assert sorted(said.splitlines()) == sorted(theirs.splitlines())
        await self._same(row)
        return (_one_line(theirs.error), _one_line(str(ours))) if isinstance(theirs, KubectlFailed) else ("", "")

    async def _kubectl(self, row: Row) -> str | KubectlFailed:
        stdin = None if row.manifest is None else json.dumps(row.named(row.manifest))
        try:
            return await self.kubectl("-n", self.theirs, *row.command(row.kubectl, self.nodes[0]), stdin=stdin)
        except KubectlFailed as failure:
            return failure

    async def _adapter(self, row: Row) -> JsonObject | StepError:
        try:
            return await self.steps.run(row.named(row.step, self.nodes[1]))
        except StepError as refusal:
            return refusal

    async def _same(self, row: Row) -> None:
        """What is left is the same, once the controllers have done their part (revisions, what was owned)."""
        if row.left == "-":
            return
        what = row.left or f"{row.kind} {NAME}"
        sides = [(row.command(what, node), namespace, node) for namespace, node in self.sides]
        last: list[str] = []

        async def alike() -> bool:
            theirs, ours = await asyncio.gather(*(self._left(*side) for side in sides))
            last[:] = difflib.unified_diff(theirs.splitlines(), ours.splitlines(), "kubectl", "adapter", lineterm="")
            return theirs == ours

        try:
            await eventually(alike, timeout=15, interval=0.2)
        except pytest.fail.Exception:
            pytest.fail("they leave different things behind:\n" + "\n".join(last))

    async def _left(self, what: list[str], namespace: str, node: str) -> str:
        said = await self.kubectl("-n", namespace, "get", "--ignore-not-found", "-o", "json", *what)
        if not said.strip():
            return ""
        item = json.loads(said)
        uid = item["metadata"].get("uid", namespace)  # labels of a job and its pods hold it; a list has none
        return bare(item, namespace, node, uid)


def _placed(item: Object, namespace: str) -> Object:
    return {**item, "metadata": {**item["metadata"], "namespace": namespace}}


def bare(item: Object, *names: str) -> str:
    """An object as text, without what is its own or the moment's; the names that may differ are left out."""
    text = json.dumps(_without(item), indent=1, sort_keys=True)
    for name in names:
        text = text.replace(name, "…")
    return text


def _without(value: Any) -> Any:
    if isinstance(value, list):
        return [_without(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    cut = {k: _without(v) for k, v in value.items() if k not in _OWN and not k.startswith("wpk-agent/")}
    if rollout.RESTARTED_AT in cut:
        cut[rollout.RESTARTED_AT] = "some time"
    return {key: inner for key, inner in cut.items() if key != "annotations" or inner}


def _one_line(text: str) -> str:
    """As a terminal shows it; without what names this run."""
    line = " ".join(text.split())
    return line if len(line) <= 220 else line[:219] + "…"


# --- the table -------------------------------------------------------------------------------------------------------

#: The property of a test's report that holds its entry.
PROPERTY = "oracle"


class Entry(NamedTuple):
    """What the table has of a row. Plain texts, since tests may run in another process than the one that prints it."""

    verb: str
    kind: str
    case: str
    refused: str
    kubectl: str
    """What kubectl said where both refused."""
    adapter: str

    @classmethod
    def of(cls, row: Row, said: tuple[str, str] = ("", "")) -> tuple[str, ...]:
        """As a test's property."""
        return tuple(cls(row.verb, row.kind, row.case, row.refused, *said))


def table(entries: Iterable[tuple[Entry, bool]]) -> list[str]:
    """One line for each verb and kind; then what both said where they refused. False: they differ."""
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    refusals: list[str] = []
    for row, same in entries:
        verdict = "differs" if not same else "refused alike" if row.refused else "same"
        cells.setdefault((row.verb, row.kind), {}).setdefault(verdict, []).append(row.case)
        if same and row.refused:
            refusals += [
                f"{row.verb} {row.kind}, {row.case}",
                f"    kubectl: {row.kubectl}",
                f"    adapter: {row.adapter}",
            ]
    lines = []
    for (verb, kind), verdicts in sorted(cells.items()):
        found = "; ".join(
            f"{verdict.upper() if verdict == 'differs' else verdict}: {', '.join(verdicts[verdict])}"
            for verdict in ("same", "refused alike", "differs")
            if verdict in verdicts
        )
        lines.append(f"{verb:<15} {kind:<22} {found}")
    return [*lines, "", "what both said where they refused:", *refusals] if refusals else lines
