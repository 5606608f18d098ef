"""What deploy/prometheus and deploy/grafana ask of Prometheus, and what a process exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from libs.local.paths import ROOT

RULES: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
SCRAPING: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/driveflow.json").read_text())
OF_THE_SCRAPE = {"job", "instance", "service"}
WITH_A_REPLICA = {
    "driveflow_database_replication_lag_seconds",
    "driveflow_database_replication_behind_bytes",
}
"""tests/monitor/test_exporting.py has one."""

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? \S+$", re.MULTILINE)
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTION = re.compile(r"\{[^}]*\}|\[[^\]]*\]")
_METRIC = re.compile(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()")
_KEYWORDS = {"and", "or", "unless", "bool", "offset"}


@dataclass(frozen=True)
class Expression:
    """Of a rule or a panel, with what its texts show of the result."""

    name: str
    text: str
    shown: str

    @property
    def metrics(self) -> set[str]:
        """Whose values it reads."""
        without_groups = _GROUPING.sub(" ", re.sub(r'"[^"]*"', '""', self.text))
        return {*_METRIC.findall(_SELECTION.sub(" ", without_groups))} - _KEYWORDS

    @property
    def matchers(self) -> list[tuple[str, str, str]]:
        """Label, operator and value of each."""
        return _MATCHER.findall(self.text)

    @property
    def labels(self) -> set[str]:
        """By which it selects, groups and tells."""
        grouped = re.findall(r"\w+", " ".join(_GROUPING.findall(self.text)))
        shown = re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", self.shown)
        return {label for label, _, _ in self.matchers} | {*grouped} | {*shown}


def rules() -> Iterator[dict[str, Any]]:
    """All alert rules."""
    for group in RULES["groups"]:
        yield from group["rules"]


def expressions() -> list[Expression]:
    """Of all rules and panels."""
    of_rules = [
        Expression(rule["alert"], rule["expr"], " ".join(rule["annotations"].values()))
        for rule in rules()
    ]
    of_panels = [
        Expression(panel["title"], target["expr"], target["legendFormat"])
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    ]
    return of_rules + of_panels


def exported(text: str) -> dict[str, set[str]]:
    """The labels of each metric that a process exports."""
    found: dict[str, set[str]] = {}
    for name, labels in _SAMPLE.findall(text):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found
