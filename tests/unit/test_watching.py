"""The dashboard and the alerts name metrics and labels that there are, and say what to do.

Their queries are run by a real Prometheus in tests/watch. Grafana itself can't be had from a registry: here is checked
what its model of a dashboard asks for.
"""

from __future__ import annotations

import re

import pytest
import typer
import yaml

from consumer.cli.main import application
from tests.watch import boards
from tests.watch.boards import DASHBOARD, FOREIGN, ROOT, RULES

PAGE = (ROOT / "docs/metrics.md").read_text()
#: Each metric of the page with its labels.
KNOWN = {
    name: set(re.findall(r"\w+", labels))
    for name, labels in re.findall(r"^\| `(\w+)` \| \w+ \| ([^|]*)\|", PAGE, flags=re.MULTILINE)
}
EXPRESSIONS = [
    *(pytest.param(rule["expr"], id=rule["alert"]) for rule in boards.rules()),
    *(
        pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
        for panel in boards.panels()
        for target in panel["targets"]
    ),
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_query_names_only_metrics_that_the_page_promises(expression: str) -> None:
    names = boards.metrics_in(expression)
    assert names
    assert names - FOREIGN <= KNOWN.keys()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_query_names_only_labels_that_its_metrics_have(expression: str) -> None:
    labels = set()
    for matchers in re.findall(r"\{([^}]*)\}", expression):
        labels |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', matchers)))
    for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        labels |= set(re.findall(r"\w+", grouped))
    allowed = {"job", "instance", "le"}.union(*(KNOWN.get(name, set()) for name in boards.metrics_in(expression)))
    assert labels <= allowed


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_query_asks_only_for_the_agents(expression: str) -> None:
    selectors = re.findall(r"\b(?:wpk_\w+|workflow_\w+|active_workflows|process_\w+|up)\b(\{[^}]*\})?", expression)
    found = [selector for selector in selectors if selector]
    assert found
    assert all("job=" in selector for selector in found)


def test_names_of_metrics_are_found_in_queries() -> None:
    query = (
        'histogram_quantile(0.9, sum by (le, adapter) (rate(a_seconds_bucket{x="b"}[5m]))) > 4 * 3600 or c offset 1h'
    )
    assert boards.metrics_in(query) == {"a_seconds", "c"}


def test_every_metric_of_the_agent_is_on_the_dashboard_or_in_an_alert() -> None:
    seen = set().union(
        *(boards.metrics_in(param.values[0]) for param in EXPRESSIONS if isinstance(param.values[0], str))
    )
    elsewhere = {"wpk_sandbox_info", "wpk_agent_stage", "wpk_step_retries_total"}  # of one agent, or told by another
    assert KNOWN.keys() - seen - elsewhere == set()


# --- alerts ---


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in boards.rules()])
def test_an_alert_says_what_it_means_and_where_it_is_told_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook_url"}
    page, _, anchor = notes["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (\w+)$", (ROOT / page).read_text(), flags=re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}


def test_prometheus_of_compose_loads_the_alerts() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert config["rule_files"] == [RULES.name]
    assert config["scrape_configs"][0]["job_name"] == boards.JOB


# --- the dashboard ---


def test_panels_do_not_cover_each_other_and_have_ids_of_their_own() -> None:
    taken: dict[tuple[int, int], str] = {}
    everything = boards.dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    for panel in everything:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                assert other == panel["title"]


@pytest.mark.parametrize("panel", [pytest.param(panel, id=panel["title"]) for panel in boards.panels()])
def test_a_panel_is_what_grafana_needs(panel: dict[str, object]) -> None:
    assert panel["type"] in ("stat", "timeseries")
    assert panel["title"]
    assert panel["description"]
    assert isinstance(panel["fieldConfig"], dict)
    assert {"defaults", "overrides"} == panel["fieldConfig"].keys()
    assert isinstance(panel["targets"], list)
    assert [target["refId"] for target in panel["targets"]] == list("ABC")[: len(panel["targets"])]
    for holder in (panel, *panel["targets"]):
        assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_dashboard_uses_only_variables_that_it_has() -> None:
    text = DASHBOARD.read_text()
    known = {variable["name"] for variable in boards.dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used == known


def test_grafana_of_compose_finds_the_dashboard_and_its_prometheus() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = dict(volume.removesuffix(":ro").split(":") for volume in services["grafana"]["volumes"])
    provisioning = ROOT / "deploy/grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/wpk.yml").read_text())["providers"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"
    assert source["url"] == f"http://prometheus:{services['prometheus']['ports'][0].rsplit(':', 1)[1]}"
    scrape = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape


def _commands(group: object) -> dict[str, object]:
    return dict(getattr(group, "commands", {}))


def test_the_runbooks_name_commands_and_settings_that_there_are() -> None:
    page = (ROOT / "docs/observability.md").read_text()
    verbs = _commands(typer.main.get_command(application()))
    named = {tuple(words.split()) for words in re.findall(r"`wpk ([a-z-]+(?: [a-z-]+)?)", page)}
    assert len(named) > 8
    for first, *rest in named:
        assert first in verbs
        assert set(rest) <= _commands(verbs[first]).keys(), (first, rest)
    settings = (ROOT / "docs/settings.md").read_text()
    assert [name for name in re.findall(r"`(WPK_[A-Z_]+)", page) if f"`{name}`" not in settings] == []
