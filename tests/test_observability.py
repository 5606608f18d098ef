"""Alert rules, dashboard and scrape configuration: what can be known of them without Prometheus.

That every metric they name is exported: tests/test_dev.py, on a running stack.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from libs.bootstrap import SERVICES
from libs.client import SERVICES as CONTRACTS
from libs.local.paths import ROOT
from services.monitor import exporting
from services.monitor.checks import services as checks
from tests import observability
from tests.observability import DASHBOARD, SCRAPING, Expression
from tests.test_compose import COMPOSE, CONTAINERS

METHODS = {
    f"{contract.full_name}/{method.name}" for contract in CONTRACTS for method in contract.methods
}


def test_every_process_of_compose_is_scraped_under_its_service() -> None:
    (job,) = SCRAPING["scrape_configs"]
    found = {each["labels"]["service"]: each["targets"] for each in job["static_configs"]}
    ports = {
        service: CONTAINERS[service]["environment"]["DRIVEFLOW_METRICS_LISTEN"].split(":")[1]
        for service in SERVICES
    }
    assert job["job_name"] == "driveflow"
    assert found == {service: [f"{service}:{ports[service]}"] for service in SERVICES}


def test_every_rule_says_how_bad_it_is_what_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in observability.rules()]
    assert len(names) == len({*names})
    for rule in observability.rules():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule
        assert all(rule["annotations"][each] for each in ("summary", "next_step")), rule


def test_the_rules_judge_durations_of_the_same_methods_as_the_monitor() -> None:
    judged = {
        method
        for method in checks.UNARY
        if not any(each in method.rpartition(".")[2] for each in checks.LEFT_OUT)
    }
    simple = {method for method in judged if checks.limit_ms(method) == checks.SIMPLE_MS}
    assert METHODS - checks.UNARY
    assert selected("RpcSlow") == simple
    assert selected("RpcSlowComplex") == judged - simple


def selected(alert: str) -> set[str]:
    """The methods that a rule is about."""
    (rule,) = (each for each in observability.rules() if each["alert"] == alert)
    matchers = Expression(alert, rule["expr"], "").matchers
    patterns = [(operator, value) for label, operator, value in matchers if label == "rpc_method"]
    return {
        method
        for method in METHODS
        if all(
            (re.fullmatch(pattern, method) is not None) == (operator == "=~")
            for operator, pattern in patterns
        )
    }


def test_metrics_and_labels_of_an_expression_are_found() -> None:
    text = 'max by (a, b) (rate(x_total{c="up", d!~"y(z)"}[5m])) / on (e) z > 1e9 or absent(w)'
    found = Expression("", text, "{{ $labels.f }} {{g}}")
    assert found.metrics == {"x_total", "z", "w"}
    assert found.labels == {"a", "b", "c", "d", "e", "f", "g"}


def test_the_dashboard_asks_the_provisioned_prometheus_and_fits_its_grid() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    panels: list[dict[str, Any]] = [each for each in DASHBOARD["panels"] if each["type"] != "row"]
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["datasource"]["uid"] == source["uid"]
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not own & cells, panel["title"]
        cells |= own
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len({*ids})


def test_the_dashboard_names_verdicts_as_the_monitor_numbers_them() -> None:
    (checked,) = (each for each in DASHBOARD["panels"] if each["title"] == "Checks")
    (mapping,) = checked["fieldConfig"]["defaults"]["mappings"]
    named = {int(number): each["text"] for number, each in mapping["options"].items()}
    assert named == {number: verdict.value for verdict, number in exporting.VERDICTS.items()}


def test_grafana_and_prometheus_find_their_files_where_compose_puts_them() -> None:
    (provider,) = yaml.safe_load(
        (ROOT / "deploy/grafana/provisioning/dashboards/driveflow.yml").read_text()
    )["providers"]
    for name in ("prometheus", "grafana"):
        assert CONTAINERS[name]["profiles"] == ["observability"]
        for volume in CONTAINERS[name]["volumes"]:
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), volume
    targets = [volume.split(":")[1] for volume in CONTAINERS["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/driveflow.json" in targets
    assert "--config.file=/etc/prometheus/prometheus.yml" in CONTAINERS["prometheus"]["command"]
