"""The contracts as documents: complete, valid, and in step with the copy that is committed."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, JsonValue

from consumer.adapters import registry
from consumer.settings import Settings
from schemas import export
from schemas.commands import ExecuteCommand
from schemas.events import EVENT_TYPES
from tests.support.stories import Story, done

DIRECTORY = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.fixture(scope="module")
def configs() -> dict[str, type[BaseModel]]:
    built_in = [source for source in registry.installed() if source.built_in]
    return {name: adapter.config_model for name, adapter in registry.load(Settings(), built_in).adapters.items()}


@pytest.fixture(scope="module")
def documents(configs: dict[str, type[BaseModel]]) -> dict[str, export.Document]:
    return export.documents(configs)


def test_the_committed_copy_is_what_the_models_say(documents: dict[str, export.Document]) -> None:
    committed = {
        path.relative_to(DIRECTORY).as_posix(): json.loads(path.read_text(encoding="utf-8"))
        for path in DIRECTORY.rglob("*.json")
    }
    hint = "make it anew with: wpk schema docs/schemas"
    assert sorted(committed) == sorted(documents), hint
    for name, document in documents.items():
        assert committed[name] == document, f"{name}: {hint}"


def test_every_schema_is_valid_json_schema(documents: dict[str, export.Document]) -> None:
    for name, document in documents.items():
        if not name.startswith("asyncapi"):
            Draft202012Validator.check_schema(document)


def test_there_is_a_schema_for_each_command_event_and_adapter(documents: dict[str, export.Document]) -> None:
    assert {"package.json", "commands/execute.json", "commands/rollback.json", "commands/control.json"} <= set(
        documents
    )
    assert {f"events/{kind}.json" for kind in EVENT_TYPES} <= set(documents)
    assert {f"configs/{name}.json" for name in ("api", "delay", "k8s", "shell")} <= set(documents)


def test_real_events_fit_their_schemas(documents: dict[str, export.Document]) -> None:
    story = done()
    story.rolling_back("undo").step_started("undo", phase="rollback").step_succeeded("undo", phase="rollback")
    failing = Story("run-2").accepted().started("one").step_started("one").step_retrying("one", "got 503")
    failing.step_started("one", attempt=2).step_failed("one", "got 500", attempt=2).failed("got 500", step="one")
    for told in [*story.rolled_back(), *failing]:
        event = json.loads(told.value)
        jsonschema.validate(event, documents[f"events/{event['type']}.json"], cls=Draft202012Validator)


def test_an_event_with_another_status_does_not_fit(documents: dict[str, export.Document]) -> None:
    event = json.loads(done().told[-1].value)
    event["data"]["status"] = "splendid"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(event, documents["events/wpk.execution.completed.v1.json"], cls=Draft202012Validator)


def test_a_command_fits_its_schema_and_a_mistyped_field_does_not(documents: dict[str, export.Document]) -> None:
    schema = documents["commands/execute.json"]
    command = json.loads(ExecuteCommand(workflow_id="a-1.0.0", timeout="30m", dry_run=True).model_dump_json())
    jsonschema.validate(command, schema, cls=Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"workflow_id": "a-1.0.0", "dryrun": True}, schema, cls=Draft202012Validator)


def _references(node: JsonValue) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in _references(value)]  # type: ignore[operator]
    return [ref for item in node for ref in _references(item)] if isinstance(node, list) else []


def test_all_references_of_the_asyncapi_document_lead_somewhere(documents: dict[str, export.Document]) -> None:
    document = documents["asyncapi/asyncapi.json"]
    references = _references(document)
    assert len(references) > 50
    for reference in references:
        if not reference.startswith("#/"):
            assert reference.removeprefix("../") in documents
            continue
        node: JsonValue = document
        for part in reference.removeprefix("#/").split("/"):
            assert isinstance(node, dict)
            node = node[part]


def test_the_asyncapi_document_names_the_topics_with_the_prefix(configs: dict[str, type[BaseModel]]) -> None:
    channels = export.asyncapi(prefix="prod")["channels"]
    assert isinstance(channels, dict)
    addresses = {channel["address"] for channel in channels.values() if isinstance(channel, dict)}
    assert addresses == {
        "prod.commands.execute",
        "prod.commands.rollback",
        "prod.commands.control",
        "prod.events.progress",
        "prod.events.logs",
        "prod.events.results",
    }
